"""The opponent is timed without its start, told what we are told, and its adapter is read as anybody would."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.adapter_file import write_adapter
from naruto_core.dataset.preprocessing import prepare
from naruto_core.recipe import Recipe
from naruto_core.training.lora import add_adapters, trainable
from tests.benchmarks.diffusers_script import ScriptUnfitError, adapter_validation_loss, check_script, run_script
from tests.benchmarks.pictures import draw_class_pictures, draw_pictures
from tests.naruto_core.training.pictures import section_of

# A program with the script's options, progress bar and outcome: 2 s of start, then 6 steps of 50 ms.
STAND_IN = """
import json, sys, time
from pathlib import Path
from tqdm.auto import tqdm
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
time.sleep(2)
bar = tqdm(range(int(options["--max_train_steps"])), desc="Steps")
for step in bar:
    time.sleep(0.05)
    bar.set_postfix(loss=0.1 / (step + 1), lr=1.0)
out = Path(options["--output_dir"])
out.mkdir()
(out / "argv.json").write_text(json.dumps(sys.argv[1:]))
(out / "pytorch_lora_weights.safetensors").write_bytes(b"")
"""
SHOWN = draw_pictures("naruto", 3, 1, "a naruto anime character")
CLASS = draw_class_pictures("flat", 2, 3, "a flat drawing of a person")


@pytest.fixture
def recipe() -> Recipe:
    prior = {"class_prompts": ["a flat drawing of a person"], "class_batch_size": 1}
    chosen = {"max_train_steps": 6, "train_batch_size": 1, "gradient_accumulation_steps": 4, "prior": prior}
    return choose_recipe("mini", overrides={f"training.{name}": value for name, value in chosen.items()})


def _write(folder: Path, program: str) -> Path:
    path = folder / "script.py"
    path.write_text(program)
    return path


def test_the_scripts_start_is_not_counted_and_it_is_told_our_settings(tmp_path: Path, recipe: Recipe):
    run = run_script(_write(tmp_path, STAND_IN), recipe.model, recipe.training, SHOWN, CLASS, tmp_path)
    assert 0.045 < run.seconds_per_step < 0.3  # 0.38 and more with the start
    argv = json.loads((run.adapter.parent / "argv.json").read_text())
    told = dict(zip(argv, [*argv[1:], ""], strict=True))
    assert {"--train_text_encoder", "--with_prior_preservation"} < set(argv)
    assert "--gradient_checkpointing" not in argv
    assert told["--optimizer"] == "prodigy"
    assert told["--gradient_accumulation_steps"] == "4"
    assert told["--snr_gamma"] == "5.0"
    assert told["--num_class_images"] == "2"
    assert told["--class_prompt"] == "a flat drawing of a person"


def test_both_sides_get_the_same_pixels_and_the_same_words(tmp_path: Path):
    folder = SHOWN.write(tmp_path / "pictures", captions=True)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == list(SHOWN.texts)
    read = [prepare((folder / row["file_name"]).read_bytes(), (64, 64)) for row in rows]
    assert np.array_equal(np.stack([picture.pixels for picture in read]), SHOWN.pixels)
    recipe = choose_recipe("mini")
    pipeline = sdxl.load_pipeline(recipe.model, "fp32", torch.device("cpu"))
    encoded = SHOWN.encoded(pipeline, tmp_path / "encoded")
    assert encoded.texts == SHOWN.texts
    assert encoded.time_ids[range(len(encoded))].tolist() == [[*p.original_size, *p.crop, 64, 64] for p in read]


def test_a_script_that_breaks_is_one_sentence_with_its_last_words(tmp_path: Path, recipe: Recipe):
    program = "import sys\nprint('hello')\nimport a_package_that_nobody_has"
    with pytest.raises(
        ScriptUnfitError, match=r"status 1; its last words: ModuleNotFoundError.*a_package_that_nobody_has"
    ) as caught:
        run_script(_write(tmp_path, program), recipe.model, recipe.training, SHOWN, CLASS, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_said_before_any_time_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ScriptUnfitError, match="there is no such file"):
        check_script(tmp_path / "script.py")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ScriptUnfitError, match="uv pip install datasets"):
        check_script(_write(tmp_path, STAND_IN))


def test_an_adapter_that_does_nothing_has_the_bases_loss_and_another_has_not(tmp_path: Path):
    model = choose_recipe("mini").model
    pipeline = sdxl.load_pipeline(model, "fp32", torch.device("cpu"))
    add_adapters(pipeline, section_of(rank=4, text_encoder_lr=1.0))
    write_adapter(pipeline, tmp_path / "idle" / "pytorch_lora_weights.safetensors")
    with torch.no_grad():
        for name, weight in trainable(pipeline).items():
            if name.startswith("text_encoder") and "lora_B" in name:  # only the words change: that must count
                weight.normal_(generator=torch.Generator().manual_seed(0))
    write_adapter(pipeline, tmp_path / "words" / "pytorch_lora_weights.safetensors")
    base, idle, words = (
        adapter_validation_loss(
            model, name and tmp_path / name / "pytorch_lora_weights.safetensors", SHOWN, tmp_path / f"encoded {name}"
        )
        for name in (None, "idle", "words")
    )
    assert idle == pytest.approx(base, rel=1e-6)
    assert words > 1.01 * base
