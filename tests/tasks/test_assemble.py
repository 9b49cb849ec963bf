"""The folder that is handed out: its code draws what its pictures show, and nothing in it is of this machine."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter, DatasetVersion, Prompt, PromptSuite, Run, Sample, Variant
from naruto_core.errors import RecordDamaged
from naruto_core.fusion import Blend, load_adapters
from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.recipe import ModelSection, Recipe
from naruto_core.store.opening import open_store
from naruto_core.store.records import Store
from naruto_core.training.lora import add_adapters, trainable, write_adapter
from tasks.assemble import assemble
from tests.naruto_core.training.pictures import section_of

CPU = torch.device("cpu")
PROMPTS = tuple(Prompt(f"p{n}", text, text, ("place",)) for n, text in enumerate(("a person in the rain", "a forest")))


@dataclass(frozen=True)
class Recorded:
    """A store and its files, with one run that was trained and drawn."""

    store: Store
    layout: Layout
    run: Run
    adapter: Adapter
    base: Path


def _recipe(base: Path, suite: Path) -> Recipe:
    small = {"training.rank": 4, "training.lora_alpha": 2, "generation.num_inference_steps": 4}
    exact = {"training.mixed_precision": "fp32", "generation.mixed_precision": "fp32", "generation.batch_size": 1}
    places = {"model.base": str(base), "generation.suite": str(suite)}
    return choose_recipe("mini", None, small | exact | places)


def _write_adapter(layout: Layout, run: Run, model: ModelSection) -> Adapter:
    """Weights far from zero on UNet and both encoders, as a long training would leave them."""
    pipeline = sdxl.load_pipeline(model, "fp32", CPU)
    add_adapters(pipeline, section_of(rank=4, lora_alpha=2, text_encoder_lr=1.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in trainable(pipeline).items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    path = layout.adapter(run.id)
    write_adapter(pipeline, path)
    return Adapter(run.id, layout.relative(path), sha256_file(path), 4, 560)


def _draw(layout: Layout, run: Run, recipe: Recipe, adapter: Adapter) -> Iterator[Sample]:
    for variant in (Variant.BASE, Variant.ADAPTED):
        pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
        if variant is Variant.ADAPTED:
            load_adapters(pipeline, [Blend(layout.absolute(adapter.path).parent, recipe.fusion.lora_scale)])
        painter = Painter(pipeline, recipe.generation)
        for prompt in PROMPTS:
            (picture,) = painter.paint([Job(prompt.text, 11)])
            name = sample_id(run.id, variant, prompt.slug, 11)
            path = layout.sample(run.id, name)
            save_picture(picture, path, {"prompt": prompt.text} | recipe.generation.model_dump(mode="json"))
            yield Sample(name, run.id, variant, prompt.slug, 11, layout.relative(path), sha256_file(path))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    home = tmp_path_factory.mktemp("private-folder")
    base = home / "models" / "my-sdxl"
    shutil.copytree(str(resources.files("naruto_core.mini") / "weights/base"), base)
    recipe, layout = _recipe(base, home / "my-suite.yaml"), Layout(home)
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        store.add_dataset(DatasetVersion("ds-1", "world:naruto", "datasets/w", 0, 300, 200, 0, 0), [])
        run = store.open_run(
            profile="mini",
            recipe_json=recipe.model_dump_json(),
            fingerprint=recipe.fingerprint,
            dataset_id="ds-1",
            git_commit="",
            now=datetime(2026, 11, 23, tzinfo=UTC),
        )
        adapter = _write_adapter(layout, run, recipe.model)
        store.add_adapters([adapter])
        store.add_prompts(run.id, PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22)))
        store.add_samples(list(_draw(layout, run, recipe, adapter)))
        yield Recorded(store, layout, run, adapter, base)


def _assemble(recorded: Recorded, folder: Path, for_comfyui: bool = True) -> Path:
    assemble(recorded.store, recorded.layout, recorded.run, [recorded.adapter], folder, for_comfyui=for_comfyui)
    return folder


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def test_the_cards_own_code_draws_the_picture_that_the_card_shows(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = _assemble(recorded, tmp_path / "out")
    card = ModelCard.load(folder / "README.md")
    code = re.search(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    shown = re.search(r"\| a person in the rain \| 11 \| !\[base\]\((.+?)\) \| !\[adapted\]\((.+?)\) \|", card.text)
    assert code
    assert shown
    monkeypatch.chdir(folder)
    exec(code[1].replace("path/to/my-sdxl", str(recorded.base)), {})  # the only thing a reader has to fill in
    drawn, base, adapted = (_pixels(folder / name) for name in ("picture.png", *shown.groups()))
    assert np.abs(drawn - adapted).max() <= 1
    assert np.abs(drawn - base).max() > 30


def test_diffusers_takes_its_own_file_even_when_it_is_not_told_which(recorded: Recorded, tmp_path: Path):
    folder = _assemble(recorded, tmp_path / "out")
    taken = StableDiffusionXLPipeline.lora_state_dict(str(folder))
    taken = taken[0] if isinstance(taken, tuple) else taken
    own = load_file(recorded.layout.adapter(recorded.run.id))
    assert {weight.dtype for weight in taken.values()} == {torch.float32}  # the file for ComfyUI is in half precision
    assert len(taken) == len(own)


def test_nothing_that_is_handed_out_names_a_folder_of_this_machine(recorded: Recorded, tmp_path: Path):
    folder = _assemble(recorded, tmp_path / "out")
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.relative_to(folder).parts[0] for path in files} == {
        "README.md",
        "pytorch_lora_weights.safetensors",
        f"{recorded.run.id}.safetensors",
        "samples",
    }
    assert len(files) == 3 + 2 * len(PROMPTS)
    assert [path for path in files if b"private-folder" in path.read_bytes()] == []
    assert b"my-sdxl" in (folder / f"{recorded.run.id}.safetensors").read_bytes()
    with Image.open(next((folder / "samples").iterdir())) as picture:
        assert '"seed": 11' in picture.text["naruto"]
    assert re.search(
        r"sha256 over its files when this card was written: `[0-9a-f]{64}`", (folder / "README.md").read_text()
    )


def test_the_same_record_is_the_same_bytes_again(recorded: Recorded, tmp_path: Path):
    first, second = _assemble(recorded, tmp_path / "first"), _assemble(recorded, tmp_path / "second")
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert [name for name in names if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_other_weights_beside_the_adapter_are_handed_out_with_it(recorded: Recorded, tmp_path: Path):
    beside = recorded.layout.adapter(recorded.run.id).with_name("words_emb.safetensors")
    save_file({"clip_l": torch.ones(2, 4)}, beside)
    try:
        folder = _assemble(recorded, tmp_path / "out", for_comfyui=False)
    finally:
        beside.unlink()
    assert (folder / "words_emb.safetensors").is_file()
    text = (folder / "README.md").read_text()
    assert "`words_emb.safetensors`" in text
    assert "ComfyUI" not in text
    assert not (folder / f"{recorded.run.id}.safetensors").exists()


def test_a_picture_that_is_not_the_recorded_one_is_not_handed_out(recorded: Recorded, tmp_path: Path):
    sample = recorded.store.samples(recorded.run.id)[0]
    path = recorded.layout.absolute(sample.path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    try:
        with pytest.raises(RecordDamaged, match=r"picture .* is not the one that was recorded"):
            _assemble(recorded, tmp_path / "out")
    finally:
        path.write_bytes(whole)
    assert list(tmp_path.iterdir()) == []
