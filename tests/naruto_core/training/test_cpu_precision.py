"""bf16 on a CPU without instructions for it: computed in fp32, by every door."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from naruto_core import devices
from naruto_core.errors import DeviceUnfit
from naruto_core.generation import Job, Painter
from naruto_core.picture_cache import PictureCache
from naruto_core.recipe_sections import GenerationSection
from naruto_core.training.weights import Weights
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import section_of

SECTION = GenerationSection(suite="-", resolution=32, num_inference_steps=2, batch_size=1, mixed_precision="bf16")
JOB = Job("a ninja in the rain", 5)


@pytest.fixture(params=[True, False], ids=["with instructions", "without"])
def has_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: request.param)
    return request.param


def test_layers_and_autocast_are_half_precision_only_where_the_cpu_has_it(has_bf16: bool) -> None:
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    devices.halve_frozen_layers(layer, "bf16")
    with devices.autocast("bf16", CPU):
        result = torch.nn.functional.linear(torch.ones(1, 4), torch.ones(4, 4))
    expected = torch.bfloat16 if has_bf16 else torch.float32
    assert (layer.weight.dtype, result.dtype) == (expected, expected)
    assert devices.describe_cpu().endswith(" with bf16") is has_bf16


def test_a_gpu_and_the_other_precisions_are_as_before(has_bf16: bool) -> None:
    del has_bf16
    assert devices.computed_precision("bf16", torch.device("cuda:0")) == "bf16"
    assert devices.half("fp16", torch.device("cuda:0")) is torch.float16
    assert devices.half("fp32", CPU) is None
    with pytest.raises(DeviceUnfit, match="use bf16 or fp32"):
        devices.check_precision("fp16", CPU)


def test_the_weights_that_learn_compute_in_half_precision_only_where_the_cpu_has_it(
    load_tiny: Callable[..., Any], has_bf16: bool
) -> None:
    pipeline = load_tiny("bf16")
    weights = Weights(pipeline, section_of(rank=2, mixed_precision="bf16"), {})
    assert pipeline.unet.dtype is (torch.bfloat16 if has_bf16 else torch.float32)
    assert bool(weights._copies) is has_bf16
    assert {p.dtype for p in weights.named.values()} == {torch.float32}


def test_without_the_instructions_a_picture_is_that_of_fp32(
    load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[bool, Any] = {}
    for has_bf16 in (True, False):
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda has_bf16=has_bf16: has_bf16)
        drawn[has_bf16] = Painter(load_tiny("bf16"), SECTION).denoise([JOB])
    whole = Painter(load_tiny(), SECTION.model_copy(update={"mixed_precision": "fp32"})).denoise([JOB])
    assert np.array_equal(drawn[False].numpy(), whole.numpy())
    assert not np.array_equal(drawn[True].numpy(), whole.numpy())


def test_frozen_layers_in_half_precision_draw_the_same_bits(
    load_tiny: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    halved, whole = (Painter(load_tiny("bf16"), SECTION) for _ in range(2))
    whole.pipeline.unet.float().load_state_dict(load_tiny("bf16").unet.state_dict())
    halves, wholes = (painter.pipeline.unet.mid_block.resnets[0].conv1.weight.dtype for painter in (halved, whole))
    assert (halves, wholes) == (torch.bfloat16, torch.float32)
    assert torch.equal(halved.denoise([JOB]), whole.denoise([JOB]))


def test_a_kept_picture_is_found_by_the_precision_in_which_it_was_computed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    def key(section: GenerationSection, *, has_bf16: bool) -> str:
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has_bf16)
        return PictureCache(tmp_path, MINIATURE, section, CPU)._key(JOB)

    whole = SECTION.model_copy(update={"mixed_precision": "fp32"})
    assert key(SECTION, has_bf16=False) == key(whole, has_bf16=False) == key(whole, has_bf16=True)
    assert key(SECTION, has_bf16=True) != key(whole, has_bf16=True)
