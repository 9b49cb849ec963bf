"""Two processes make the adapter that one makes with the doubled batch."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.naruto_core.training.launched import share
from tests.naruto_core.training.pictures import ADAPTER
from tests.preloaded import Preloaded


@pytest.mark.slow
def test_two_processes_make_the_adapter_of_one_with_the_doubled_batch(programs: Preloaded, tmp_path: Path):
    share(tmp_path / "cache", tmp_path / "one", accumulation=2)
    folders = str(tmp_path / "cache"), str(tmp_path / "two")
    program = programs.start("tests.naruto_core.training.launched", *folders, environment=os.environ)
    assert program.output
    printed = program.output.read()
    assert program.wait() == 0, printed[-3000:]
    two, one = (load_file(tmp_path / name / ADAPTER) for name in ("two", "one"))
    assert two.keys() == one.keys()
    for name, weight in one.items():
        assert torch.allclose(two[name], weight, rtol=1e-4, atol=1e-5), name
    assert max(float(w.abs().max()) for n, w in one.items() if ".lora_B." in n) > 1e-3  # it has learnt something
