"""The fused model in half precision: half the bytes, loaded by plain diffusers, the same pictures up to rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from naruto_core.errors import ModelUnusable
from naruto_core.fusion import convert_to_half
from tests.flows.conftest import Naruto


def drawn(folder: Path) -> np.ndarray:
    pipeline = StableDiffusionXLPipeline.from_pretrained(str(folder), dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    made = torch.Generator().manual_seed(7)
    sizes = {"height": 64, "width": 64, "num_inference_steps": 4}
    return np.asarray(pipeline("a person with red hair", generator=made, **sizes).images[0])


def test_it_is_half_as_large_and_draws_the_same(small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path) -> None:
    home, run_id = small_run
    whole, half = tmp_path / "whole" / run_id, tmp_path / "half" / run_id
    assert naruto(home, "export", "diffusers", run_id, str(whole.parent), "--fused").returncode == 0
    assert naruto(home, "export", "diffusers", run_id, str(half.parent), "--fused", "--half").returncode == 0
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.safetensors")) for folder in (whole, half)]
    assert 0.49 < sizes[1] / sizes[0] < 0.52
    for path in half.rglob("*.safetensors"):
        assert {weight.dtype for weight in load_file(path).values()} == {torch.float16}
    apart = np.abs(drawn(whole).astype(float) - drawn(half)).mean()
    assert apart < 1.0


def test_half_without_fused_and_a_weight_that_does_not_fit_are_sentences(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
) -> None:
    home, run_id = small_run
    refused = naruto(home, "export", "diffusers", run_id, str(tmp_path), "--half")
    assert refused.returncode == 1
    assert refused.stderr == "naruto: --half needs a fused model: add --fused, or leave --half out.\n"
    save_file({"w": torch.tensor([1e6])}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(ModelUnusable, match="w does not fit into half precision"):
        convert_to_half(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
