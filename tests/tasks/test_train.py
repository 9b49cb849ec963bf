"""A trained adapter is checked before it is recorded, and again before it is taken as trained."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter
from naruto_core.errors import TrainingDiverged
from naruto_core.recipe import ModelSection
from naruto_core.sdxl import load_pipeline
from naruto_core.store.verification import adapter_fault
from naruto_core.training.weights import Weights
from tasks.train import _check_finite
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import section_of
from tests.tiny_sdxl import write_tiny_sdxl


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    return ModelSection(base=str(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")))


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


def test_what_is_wrong_with_a_recorded_adapter_is_said(tmp_path: Path):
    layout = Layout(tmp_path)
    assert "has weights that are not numbers (b)" in adapter_fault(layout, written(layout, np.nan))
    whole = written(layout, 2.0)
    assert "is not the one that was recorded" in adapter_fault(layout, replace(whole, sha256="0" * 64))
    layout.adapter("r").unlink()
    assert "is missing" in adapter_fault(layout, whole)
