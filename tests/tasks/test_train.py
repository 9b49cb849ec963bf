"""A trained adapter is checked before it is recorded, and again before it is taken as trained."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter
from naruto_core.errors import TrainingDiverged
from naruto_core.store.verification import adapter_fault
from tasks.train import _check_finite


def written(layout: Layout, value: float, dtype: str = "float32") -> Adapter:
    path = layout.adapter("r")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.ones(3, dtype), "b": np.array([1.0, value], dtype)}, path)
    return Adapter("r", layout.relative(path), sha256_file(path), 4, 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_that_are_not_numbers_leave_neither_files_nor_a_checkpoint(tmp_path: Path, value: float, dtype: str):
    layout, checkpoint = Layout(tmp_path), tmp_path / "checkpoint"
    checkpoint.touch()
    with pytest.raises(TrainingDiverged, match=r"not numbers \(b\): nothing was recorded; run the same command again"):
        _check_finite(layout, [written(layout, value, dtype)], checkpoint)
    assert not layout.adapter("r").exists()
    assert not checkpoint.exists()


def test_weights_that_are_numbers_stay(tmp_path: Path):
    layout = Layout(tmp_path)
    adapter = written(layout, 2.0)
    _check_finite(layout, [adapter], tmp_path / "checkpoint")
    assert adapter_fault(layout, adapter) == ""


def test_what_is_wrong_with_a_recorded_adapter_is_said(tmp_path: Path):
    layout = Layout(tmp_path)
    assert "has weights that are not numbers (b)" in adapter_fault(layout, written(layout, np.nan))
    whole = written(layout, 2.0)
    assert "is not the one that was recorded" in adapter_fault(layout, replace(whole, sha256="0" * 64))
    layout.adapter("r").unlink()
    assert "is missing" in adapter_fault(layout, whole)
