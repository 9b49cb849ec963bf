"""A tiny random BLIP writes the captions that transformers alone writes; other models are refused."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from picture_bytes import picture
from safetensors.torch import load_file, save_file
from transformers import BlipForConditionalGeneration, BlipProcessor

from naruto_core.dataset.recaption import load_captioner, recaption
from naruto_core.errors import ModelUnusable
from tests.naruto_core.conftest import CPU
from tests.tiny_blip import write_blip

LOADS = [partial(picture, seed, 24 + seed, 40) for seed in range(5)]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blip(tmp_path_factory.mktemp("models") / "blip")


def by_transformers_alone(folder: Path) -> list[str]:
    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    captions = []
    for load in LOADS:
        ids = model.generate(**processor(images=load(), return_tensors="pt"), num_beams=3, max_new_tokens=40)
        captions.append(processor.decode(ids[0], skip_special_tokens=True).removeprefix("[DEC] "))
    return captions


def test_captions_are_those_of_transformers_alone_in_order(blip: Path):
    progress: list[int] = []
    captions = recaption(LOADS, load_captioner(str(blip), None, CPU), 2, progress.append)
    assert captions == by_transformers_alone(blip)
    assert len(set(captions)) >= 3  # the model looks at the picture
    assert progress == [2, 4, 5]


def test_pictures_are_opened_batch_by_batch(blip: Path):
    opened: list[int] = []
    loads = [lambda i=i: (opened.append(i), LOADS[i]())[1] for i in range(5)]
    when: list[int] = []
    recaption(loads, load_captioner(str(blip), None, CPU), 2, lambda _: when.append(len(opened)))
    assert when == [2, 4, 5]


def test_the_id_names_the_weights_not_the_folder(blip: Path, tmp_path: Path):
    moved = shutil.copytree(blip, tmp_path / "moved")
    other = write_blip(tmp_path / "other", seed=1)
    ids = [load_captioner(str(folder), None, CPU).id for folder in (blip, moved, other)]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("blip:")


def broken(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "pickle":
        torch.save(load_file(weights), folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "a weight short":
        tensors = load_file(weights)
        tensors.pop("vision_model.post_layernorm.weight")
        save_file(tensors, weights, {"format": "pt"})
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "another kind":
        (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    elif how == "its own code":
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text("raise SystemExit('ran')")
    else:
        shutil.rmtree(folder)
        folder.mkdir()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", "safetensors"),
        ("a weight short", "1 of its weights are missing, the first is vision_model.post_layernorm.weight"),
        ("cut off", "cannot load"),
        ("another kind", "its model type is 'clip', not 'blip'"),
        ("its own code", "contains custom code"),
        ("empty", "cannot load"),
    ],
)
def test_a_folder_that_is_no_complete_safe_blip_is_refused(blip: Path, tmp_path: Path, how: str, message: str):
    folder = shutil.copytree(blip, tmp_path / "broken")
    broken(folder, how)
    with pytest.raises(ModelUnusable, match=message) as refused:
        load_captioner(str(folder), None, CPU)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("revision", [None, "main", "82a3776"])
def test_a_hub_id_needs_a_whole_commit(revision: str | None):
    with pytest.raises(ModelUnusable, match=r"org/blip is no folder here.* 40 hex digits"):
        load_captioner("org/blip", revision, CPU)


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(ModelUnusable, match=r"there is no model folder .*/nowhere"):
        load_captioner(str(tmp_path / "nowhere"), None, CPU)
