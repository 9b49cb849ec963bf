"""SDXL as a GPU would compute it, on a machine without one: fake tensors have device, dtype and shape, and no numbers.

A tensor on the wrong device, or two of different dtypes, is an error as on the device. Every operation is seen, so that
conversions can be counted. Backward passes are not tried: for those autograd wants the device itself.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from naruto_core.continuous_batching import ContinuousBatch, Order
from naruto_core.generation import Job, Painter
from naruto_core.recipe import Recipe, read_recipe
from naruto_core.training.batches import Batch, StyleData, TrainingData
from naruto_core.training.step import GradientAccumulator, WeightedBatch, prepare_unet
from naruto_core.training.weights import Weights
from tests.benchmarks.full_size import SCHEDULER, TEXT, TEXT_2, TOKENIZER, UNET, VAE

RECIPES = Path(__file__).parents[2] / "flows" / "recipes"
CUDA = torch.device("cuda")
ONE_OF_EACH = {"transformer_layers_per_block": 1}  # a fault in one layer is a fault in ten of them


class Seen(TorchDispatchMode):
    """Every operation inside the block, and the conversions from one floating-point dtype to another."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.casts = 0, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        if func._schema.name in ("aten::to", "aten::_to_copy"):
            before, after = args[0].dtype, output.dtype
            if before != after and before.is_floating_point and after.is_floating_point:
                self.casts[f"{before} to {after}"] += 1
        return output


class HostSampler(DDIMScheduler):
    """The sampler of both recipes, whose timesteps are read without asking the device."""

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:  # type: ignore[override]
        with unset_fake_temporarily():
            super().set_timesteps(num_inference_steps)
            self._left = iter(self.timesteps.tolist())
        self.timesteps = torch.empty(num_inference_steps, dtype=torch.int64, device=device)

    def step(self, model_output: Any, timestep: Any, sample: Any, **extra: Any) -> Any:
        return super().step(model_output, next(self._left), sample, **extra)


def make_host_sampler(name: str, config: Any) -> HostSampler:
    assert name == "ddim"
    with unset_fake_temporarily():
        made: Any = HostSampler.from_config(config)
    return made


def apply_in_place(module: nn.Module, function: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which for fake tensors would swap parameters that somebody holds."""
    for child in module.children():
        child._apply(function)
    for weight in module._parameters.values():
        if weight is not None and (changed := function(weight)) is not weight:
            assert changed.device == weight.device
            weight.data = changed
    return module


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, tensors are fake, and autocast for CUDA does what it does where there is a GPU."""
    monkeypatch.setattr(nn.Module, "_apply", apply_in_place)
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    for module in ("generation", "continuous_batching"):
        monkeypatch.setattr(f"naruto_core.{module}.make_scheduler", make_host_sampler)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@contextmanager
def half_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float16)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def load_pipeline(depth: dict[str, Any], layers: dict[str, int]) -> Any:
    """SDXL in fp16 on the GPU, frozen, as `sdxl.load_pipeline` gives it; `depth` and `layers` change how deep."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    parts: dict[str, Any] = {}
    with half_by_default(), CUDA:
        parts["unet"] = UNet2DConditionModel.from_config(UNET | depth)
        parts["vae"] = AutoencoderKL.from_config(VAE)
        parts["text_encoder"] = CLIPTextModel(CLIPTextConfig(**TEXT | layers, **ends))
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2 | layers, **ends))
    for part in parts.values():
        part.requires_grad_(False).eval()
    scheduler: Any = HostSampler.from_config(SCHEDULER)
    pipeline = StableDiffusionXLPipeline(
        **parts, tokenizer=tokenizer, tokenizer_2=tokenizer, scheduler=scheduler, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def unet_inputs(size: int) -> dict[str, Any]:
    options: dict[str, Any] = {"device": CUDA, "dtype": torch.float16}
    return {
        "sample": torch.empty(2, 4, size // 8, size // 8, **options),
        "timestep": torch.empty(2, device=CUDA),
        "encoder_hidden_states": torch.empty(2, 77, 2048, **options),
        "added_cond_kwargs": {
            "text_embeds": torch.empty(2, 1280, **options),
            "time_ids": torch.empty(2, 6, **options),
        },
        "return_dict": False,
    }


def read(name: str) -> Recipe:
    return read_recipe(RECIPES / f"{name}.yaml", {"generation.num_inference_steps": 2})


@pytest.mark.usefixtures("fake_cuda")
def test_a_full_size_step_converts_nothing_but_the_timestep():
    """3 conversions and 3,554 operations; under autocast it was 1,167 and 7,870."""
    pipeline, section = load_pipeline({}, {}), read("t4").generation
    assert section.resolution == read("t4-fast").generation.resolution
    painter = Painter(pipeline, section)
    inputs = unet_inputs(section.resolution)
    with painter.inference(), Seen() as seen:
        (answer,) = pipeline.unet(**inputs)
    assert answer.dtype == torch.float16
    assert seen.casts.total() <= 3  # the timestep's sines are computed in fp32, as diffusers does it
    with torch.autocast("cuda", torch.float16), torch.inference_mode(), Seen() as before:
        pipeline.unet(**inputs)
    assert before.casts.total() > 1000
    assert before.operations > 2 * seen.operations


@pytest.mark.usefixtures("fake_cuda")
def test_painter_and_continuous_batch_draw_in_half_precision_on_the_device():
    pipeline, section = load_pipeline(ONE_OF_EACH, {"num_hidden_layers": 2}), read("t4").generation
    painter = Painter(pipeline, section)
    with Seen() as seen:
        latents = painter._denoise([Job("a cat", 1)], None)
    assert (latents.dtype, latents.device.type, latents.shape) == (torch.float16, "cuda", (1, 4, 128, 128))
    assert seen.casts.total() <= 2 * 3  # of two steps
    batch = ContinuousBatch(painter, 1024, 1024, fixed_size=False)
    number = batch.join(Order("a cat", 1, "", 3, 7.5))
    with Seen() as seen:
        assert batch.step() == {number: 1}
    assert batch._slots[number].latents.dtype == torch.float16
    assert seen.casts.total() <= 3
    for upcast, dtype in ((False, torch.float16), (True, torch.float32)):
        nn.Module.to(pipeline.vae, dtype)
        with torch.inference_mode(), Seen() as seen:
            pixels = pipeline.vae.decode(latents.to(pipeline.vae.dtype) / 0.13025).sample
        assert (pixels.dtype, pixels.shape) == (dtype, (1, 3, 1024, 1024))
        assert seen.casts.total() == upcast


class OnePicture:
    """Stands for encoded pictures, of which the streams only ask how many and how large."""

    views = 1

    def __len__(self) -> int:
        return 1

    def latent_shape(self, _: int) -> tuple[int, ...]:
        return (4, 32, 32)


def batch_of(size: int) -> Batch:
    options: dict[str, Any] = {"device": CUDA}
    noise = torch.randn(size, 4, 32, 32, **options)
    t = torch.randint(0, 1000, (size,), **options)
    time_ids, weights = torch.zeros(size, 6, **options), torch.ones(size, **options)
    return Batch(noise, noise, t, time_ids, weights, ("a cat",) * size, None)


@pytest.mark.usefixtures("fake_cuda")
def test_training_runs_forward_on_the_device_in_half_precision_and_the_adapter_draws_so():
    pipeline, recipe = load_pipeline(ONE_OF_EACH, {"num_hidden_layers": 1}), read("t4")
    with half_by_default(), CUDA:  # the libraries' own conversions are not for fake tensors
        weights = Weights(pipeline, recipe.training, {})
    assert {(p.dtype, p.device.type) for p in weights.named.values()} == {(torch.float32, "cuda")}
    pictures: Any = OnePicture()
    for section in (recipe.training, read("t4-fast").training):
        prepare_unet(pipeline.unet, section.gradient_checkpointing)
        data = TrainingData(section.max_train_steps, (StyleData(pictures),), pictures)
        gradients = GradientAccumulator(pipeline, data, section, weights)
        parts = [WeightedBatch(batch_of(section.train_batch_size), 1.0, is_prior) for is_prior in (False, True)]
        losses = gradients._losses(parts)
        assert [(loss.dtype, loss.device.type, loss.requires_grad) for loss in losses] == [
            (torch.float32, "cuda", True)
        ] * 2
    with torch.inference_mode(), Seen() as seen:
        gradients._losses(parts)
    assert seen.casts.total() <= 3 + 2  # the timestep's, and the predictions'
    with weights.exported():
        painter = Painter(pipeline, recipe.generation)
        with painter.inference(), Seen() as seen:
            pipeline.unet(**unet_inputs(256))
        assert seen.casts.total() <= 3
    assert {p.dtype for p in weights.named.values()} == {torch.float32}
