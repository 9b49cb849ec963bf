"""A trained adapter is checked before it is recorded, and again before it is taken as trained."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter
from naruto_core.errors import RecipeInvalid, TrainingDiverged
from naruto_core.recipe_sections import DatasetSection, ModelSection
from naruto_core.sdxl import load_pipeline
from naruto_core.store.verification import adapter_fault
from naruto_core.training.weights import Weights
from tasks.context import task_context
from tasks.ingest import ingest
from tasks.preflight import check_style_scales, check_warmup
from tasks.train import _check_finite, _identity, _warn_of_small_pictures
from tasks.training_data import TrainingPictures, style_sources
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import section_of
from tests.tiny_sdxl import write_tiny_sdxl


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    return ModelSection(base=str(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")))


def test_a_warm_up_that_lasts_longer_than_the_training_is_refused():
    with pytest.raises(RecipeInvalid, match=r"lr_warmup_steps is 11, and training has 10 steps"):
        check_warmup(section_of(max_train_steps=10, lr_warmup_steps=11))
    check_warmup(section_of(max_train_steps=10, lr_warmup_steps=10))


def test_scales_of_styles_are_refused_where_one_adapter_has_all_styles():
    scales = {"fusion.style_scales": {"main": 0.5}}
    with pytest.raises(RecipeInvalid, match=r"style_scales is for an adapter per style, and this recipe has one"):
        check_style_scales(choose_recipe("mini", overrides=scales))
    check_style_scales(choose_recipe("mini"))
    style = {"name": "ink", "dataset": {"source": "x"}, "instance_prompt": "an ink drawing"}
    check_style_scales(choose_recipe("mini", overrides=scales | {"styles": [style], "training.adapters": "per-style"}))


def test_pictures_that_are_smaller_than_the_resolution_are_counted_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in (("a", (300, 300)), ("b", (60, 200)), ("c", (90, 90))):
        Image.new("RGB", size, (len(name) * 9, size[0] % 250, 7)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"picture {name}")
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path / "home"))
    version = ingest.fn(DatasetSection(source=str(folder), hold_out=0))
    for resolution, told in ((64, "1 of 3"), (128, "2 of 3"), (32, "")):
        recipe = SimpleNamespace(training=SimpleNamespace(resolution=resolution))
        context: Any = SimpleNamespace(layout=Layout(tmp_path / "home"), recipe=recipe, datasets=[version])
        capfd.readouterr()
        _warn_of_small_pictures(context)
        printed = capfd.readouterr().err
        assert (f"warning: {told} training pictures" in printed) == bool(told), printed
        assert not told or "the smallest from 60 x 200: bring larger ones" in printed


def written(layout: Layout, value: float, dtype: str = "float32") -> Adapter:
    path = layout.adapter("r")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.ones(3, dtype), "b": np.array([1.0, value], dtype)}, path)
    return Adapter("r", layout.relative(path), sha256_file(path), 4, 10)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_numbers_leave_no_checkpoint_to_go_on_from(
    tiny: ModelSection, tmp_path: Path, value: float
):
    weights = Weights(load_pipeline(tiny, "fp32", CPU), section_of(), {})
    checkpoint = tmp_path / "checkpoint"
    checkpoint.touch()
    _check_finite(weights, checkpoint)
    assert checkpoint.exists()
    name, weight = next(iter(weights.named.items()))
    with torch.no_grad():
        weight.view(-1)[0] = value
    sentence = rf"not numbers \({name}\): nothing was recorded; run the same command again"
    with pytest.raises(TrainingDiverged, match=sentence):
        _check_finite(weights, checkpoint)
    assert not checkpoint.exists()


def test_every_picture_is_repeated_as_its_folder_says_whatever_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for repeats, width in ((3, 96), (1, 64), (7, 64), (2, 128)):
        folder = tmp_path / "set" / f"{repeats}_style"
        folder.mkdir(parents=True)
        for number in range(2):
            colour = (30 * repeats, 100 * number, 50)
            Image.new("RGB", (width, 64), colour).save(folder / f"{number}.png")
            (folder / f"{number}.txt").write_text(f"{repeats} times, {number}")
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path / "home"))
    recipe = choose_recipe("mini", overrides={"training.bucket_reso_steps": 16})
    version = ingest.fn(DatasetSection(source=str(tmp_path / "set")))

    def captions(_pipeline: Any, groups: list[list[str]], read: Any, *_: Any) -> list[str]:
        """Instead of encoded examples, their captions, in the examples' order."""
        return [read(name, 0).caption for group in groups for name in group]

    monkeypatch.setattr("tasks.training_data.encode_examples", captions)
    pipeline: Any = SimpleNamespace(vae=SimpleNamespace(dtype="fp32"))
    with task_context() as context:
        (stage,) = TrainingPictures(context, pipeline, recipe).stages(style_sources(recipe, [version]), None)
    shown: Any = stage.styles[0]
    assert len(shown.examples) == 8
    assert [int(caption.split()[0]) for caption in shown.examples] == list(shown.picture_repeats)


def test_what_is_wrong_with_a_recorded_adapter_is_said(tmp_path: Path):
    layout = Layout(tmp_path)
    assert "has weights that are not numbers (b)" in adapter_fault(layout, written(layout, np.nan))
    whole = written(layout, 2.0)
    assert "is not the one that was recorded" in adapter_fault(layout, replace(whole, sha256="0" * 64))
    layout.adapter("r").unlink()
    assert "is missing" in adapter_fault(layout, whole)


def test_held_out_pictures_have_one_resolution_in_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path / "home"))
    stages = [{"resolution": 64, "steps": 190}, {"resolution": 128, "steps": 190}]
    recipe = choose_recipe("mini", overrides={"training.stages": stages})
    version = ingest.fn(DatasetSection(source=str(folder), hold_out=2))

    def sides(_pipeline: Any, groups: list[list[str]], read: Any, *_: Any) -> list[int]:
        return [len(read(name, 0).pixels) for group in groups for name in group]

    monkeypatch.setattr("tasks.training_data.encode_examples", sides)
    pipeline: Any = SimpleNamespace(vae=SimpleNamespace(dtype="fp32"))
    with task_context() as context:
        found: Any = TrainingPictures(context, pipeline, recipe).stages(style_sources(recipe, [version]), None)
    assert [(stage.styles[0].examples, stage.held_out) for stage in found] == [
        ([64, 64], [128, 128]),
        ([128, 128], [128, 128]),
    ]


def test_a_checkpoint_belongs_to_the_base_model_and_not_only_to_its_path(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    recipe = choose_recipe("mini", overrides={"model.base": str(tmp_path)})
    context: Any = SimpleNamespace(run=SimpleNamespace(fingerprint="f"), recipe=recipe)
    before = _identity(context, [])
    (tmp_path / "model_index.json").write_text('{"another": "model"}')
    assert _identity(context, []) != before
