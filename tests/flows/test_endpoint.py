"""`naruto export endpoint`: its folder, loaded as the toolkit of Hugging Face's endpoints loads it."""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.requirements import Requirement
from PIL.Image import Image

from flows.exports import export_endpoint
from naruto_core import sampling, sdxl, text_encoding
from naruto_core.artifacts import Layout
from naruto_core.generation import Job, Painter
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.settings import read_settings
from naruto_core.store.database import open_store
from tests.flows.conftest import Naruto, overflow_when_decoded

Handler = Callable[[dict[str, Any]], Image]


@pytest.fixture(scope="module")
def folder(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    home, run_id = small_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        return export_endpoint(run_id, tmp_path_factory.mktemp("endpoint"))


@pytest.fixture(scope="module")
def handler(folder: Path) -> Handler:
    return load_handler(folder)


def load_handler(folder: Path) -> Handler:
    # huggingface_inference_toolkit's check_and_register_custom_pipeline_from_directory does this
    spec = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    assert spec
    assert spec.loader
    sys.path.insert(0, str(folder))
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module.EndpointHandler(str(folder))


def test_it_draws_what_the_painter_draws_in_full_precision(
    small_run: tuple[Path, str], folder: Path, handler: Handler, monkeypatch: pytest.MonkeyPatch
):
    home, run_id = small_run
    monkeypatch.setenv("NARUTO_HOME", str(home))
    with open_store(read_settings().database_url) as store:
        recipe = Recipe.model_validate_json(store.recipe_json(run_id))
    pipeline = sdxl.load_pipeline(ModelSection(base=str(folder)), "fp32", torch.device("cpu"))
    assert handler.settings["max_token_length"] == 75
    long = "a person " + "red " * 50 + "in the rain"
    cases = (75, False, "a person with red hair"), (150, False, long), (75, True, "a person with (red hair:1.8)")
    for length, weighted, text in cases:
        handler.settings |= {"max_token_length": length, "prompt_weights": weighted}
        changes: dict[str, object] = {"mixed_precision": "fp32", "batch_size": 1, "max_token_length": length}
        changes["prompt_weights"] = weighted
        section = recipe.generation.model_copy(update=changes)
        (expected,) = Painter(pipeline, section).paint([Job(text, 7)])
        drawn = handler({"inputs": text, "parameters": {"seed": 7}})
        assert np.array_equal(np.asarray(drawn), np.asarray(expected))
        assert drawn.info["seed"] == "7"
    with pytest.raises(ValueError, match=r"the weight 3 in a prompt is above 2\.$"):
        handler({"inputs": "(red hair:3)"})
    handler.settings |= {"max_token_length": 75, "prompt_weights": False}


def test_a_picture_that_overflows_is_an_error_and_not_black(folder: Path, tmp_path: Path):
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    overflow_when_decoded(damaged)
    with pytest.raises(ArithmeticError, match="the VAE's pixels are not finite numbers in float32: its weights are"):
        load_handler(damaged)({"inputs": "a cat", "parameters": {"num_inference_steps": 1}})


def test_it_draws_with_the_projects_own_sampling_code(folder: Path):
    assert (folder / "sampling.py").read_bytes() == Path(sampling.__file__).read_bytes()
    assert (folder / "text_encoding.py").read_bytes() == Path(text_encoding.__file__).read_bytes()
    code = "".join((folder / f"{name}.py").read_text() for name in ("sampling", "text_encoding", "handler"))
    assert not re.search(r"^\s*(from|import) (naruto_core|deployments)", code, re.MULTILINE)


def test_parameters_have_an_effect_and_a_random_seed_is_returned(handler: Handler):
    drawn = handler({"inputs": "a cat", "parameters": {"width": 48, "height": 64, "num_inference_steps": 2}})
    assert drawn.size == (48, 64)
    again = {"width": 48, "height": 64, "num_inference_steps": 2, "seed": int(drawn.info["seed"])}
    assert np.array_equal(np.asarray(handler({"inputs": "a cat", "parameters": again})), np.asarray(drawn))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "inputs: must be a prompt"),
        ({"inputs": " "}, "inputs: must be a prompt"),
        ({"inputs": "x" * 100_000}, "inputs: must be a text of at most 2000 characters"),
        ({"inputs": "a", "parameters": [1]}, "parameters: must be an object"),
        ({"inputs": "a", "parameters": {"steps": 3}}, "steps is unknown; known are seed, "),
        ({"inputs": "a", "parameters": {"seed": -1}}, "seed: must be a whole number from 0"),
        ({"inputs": "a", "parameters": {"width": 60}}, "width: 60 is not a multiple of 8"),
        ({"inputs": "a", "parameters": {"height": 8192}}, "height: must be a whole number from 16 to 128"),
        (
            {"inputs": "a", "parameters": {"guidance_scale": float("nan")}},
            "guidance_scale: must be a number",
        ),
        ({"inputs": "a", "parameters": {"negative_prompt": 5}}, "negative_prompt: must be a text"),
    ],
)
def test_an_invalid_parameter_is_named_in_one_sentence(handler: Handler, data: dict[str, Any], sentence: str):
    with pytest.raises(ValueError, match=sentence):
        handler(data)


def test_the_command_prints_its_folder_and_does_not_export_a_damaged_model(
    small_run: tuple[Path, str], folder: Path, naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    done = naruto(home, "export", "endpoint", run_id, str(tmp_path))
    assert done.stdout.strip() == str(tmp_path / run_id), done.stderr
    compiled = {"__pycache__"}  # of `folder`, whose handler other tests import
    assert {path.name for path in (tmp_path / run_id).iterdir()} == {path.name for path in folder.iterdir()} - compiled
    shutil.rmtree(tmp_path / run_id)
    weights = next((Layout(home).fused(run_id) / "unet").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".aside"))
    try:
        done = naruto(home, "export", "endpoint", run_id, str(tmp_path))
    finally:
        weights.with_suffix(".aside").rename(weights)
    assert done.returncode != 0
    assert "not the one that was recorded" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_folder_requires_only_packages_of_the_toolkit_and_holds_no_pickle(folder: Path):
    """tests/loaders starts the toolkit itself, where a variable names it; these are the versions that 0.5.6 pins."""
    pinned = {"diffusers": "0.33.1", "transformers": "4.51.3", "accelerate": "1.6.0"}
    requirements = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
    assert {requirement.name for requirement in requirements} == set(pinned)
    assert all(requirement.specifier.contains(pinned[requirement.name]) for requirement in requirements)
    assert json.loads((folder / "generation.json").read_text())["new_tokens"] == {}
    assert not [path for path in folder.rglob("*") if path.suffix in {".bin", ".pt", ".pkl", ".ckpt"}]


def test_a_prompt_that_is_too_long_is_not_logged(handler: Handler, caplog: pytest.LogCaptureFixture):
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.enable_propagation()
    try:
        handler({"inputs": "red " * 60 + "xyzzy", "parameters": {"num_inference_steps": 1}})
    finally:
        diffusers_logging.disable_propagation()
    assert "xyzzy" not in caplog.text
