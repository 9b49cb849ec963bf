"""Samplers complete a model's schedule, and numbers that overflow are an error, never a black picture."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    StableDiffusionXLPipeline,
    UniPCMultistepScheduler,
)
from PIL.Image import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from naruto_core import sampling, sdxl
from naruto_core.continuous_batching import ContinuousBatch, Order
from naruto_core.errors import DatasetUnusable, ModelUnusable
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.recipe_training import StyleLossSection
from naruto_core.sampling import NotFinite, SamplerName, decode_picture, make_scheduler
from naruto_core.training.latent_cache import CaptionedPicture, EncodingOptions, encode_examples
from naruto_core.training.loss import style_loss
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import ignore
from tests.tiny_sdxl import write_tiny_sdxl

# copied from stabilityai/stable-diffusion-xl-base-1.0, scheduler/scheduler_config.json
PUBLISHED = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
SECTION = GenerationSection(
    suite="-",
    resolution=64,
    num_inference_steps=2,
    guidance_scale=4.0,
    negative_prompt="low quality",
    batch_size=2,
    mixed_precision="fp32",
)
# as their users write them with diffusers
PLAIN: dict[str, Callable[[Any], Any]] = {
    "ddim": DDIMScheduler.from_config,
    "euler": EulerDiscreteScheduler.from_config,
    "euler_ancestral": EulerAncestralDiscreteScheduler.from_config,
    "dpmpp_2m_karras": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "unipc": UniPCMultistepScheduler.from_config,
    "lcm": LCMScheduler.from_config,
    "euler_trailing": lambda config: EulerDiscreteScheduler.from_config(config, timestep_spacing="trailing"),
}
JOBS = [Job("a person with red hair", 7), Job("a cat", 8)]
Edit = Callable[[dict[str, Any]], dict[str, Any]]


def miniature(folder: Path, file: str, edit: Edit) -> ModelSection:
    """The miniature as a folder of its own, whose JSON `file` is edited."""
    shutil.copytree(sdxl.locate(MINIATURE.base, None)[0], folder)
    path = folder / file
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    return ModelSection(base=str(folder))


def schedule_of(scheduler: Any) -> tuple[Any, ...]:
    """All that a sampler computes with."""
    scheduler.set_timesteps(7)
    config = scheduler.config
    last = getattr(scheduler, "final_alpha_cumprod", 0)
    return (
        scheduler.alphas_cumprod.tolist(),
        scheduler.timesteps.tolist(),
        float(last),
        config.prediction_type,
        config.get("clip_sample"),
    )


@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_a_sampler_has_sdxls_schedule_when_the_models_file_has_none(name: str):
    expected = make_scheduler(name, PUBLISHED)
    for kind in (EulerDiscreteScheduler, DDIMScheduler):
        loaded: Any = kind.from_config({"_class_name": kind.__name__})  # type: ignore[arg-type]
        assert schedule_of(make_scheduler(name, loaded.config)) == schedule_of(expected)
        again = make_scheduler(name, make_scheduler("ddim", loaded.config).config)
        assert schedule_of(again) == schedule_of(expected)
    assert make_scheduler("ddim", {}).config.clip_sample is False
    assert make_scheduler("ddim", {}).final_alpha_cumprod == expected.alphas_cumprod[0]


@pytest.mark.parametrize("name", PLAIN)
def test_a_sampler_uses_the_schedule_of_the_models_file(name: SamplerName):
    config = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "clip_sample": True, "beta_end": 0.014}
    config |= {"rescale_betas_zero_snr": True}
    loaded: Any = EulerDiscreteScheduler.from_config({**PUBLISHED, **config})  # type: ignore[arg-type]
    made = make_scheduler(name, loaded.config)
    assert {key: made.config[key] for key in config} == config
    plain = PLAIN[name](loaded.config)
    assert schedule_of(made) == schedule_of(plain)


def test_a_model_is_trained_and_fused_by_sdxls_schedule_when_its_file_says_nothing(tmp_path: Path):
    model = miniature(tmp_path / "bare", "scheduler/scheduler_config.json", lambda config: {
        key: config[key] for key in ("_class_name", "_diffusers_version")
    })  # fmt: skip
    bare, whole = sdxl.load_pipeline(model, "fp32", CPU), sdxl.load_pipeline(MINIATURE, "fp32", CPU)
    assert torch.equal(bare.scheduler.alphas_cumprod, whole.scheduler.alphas_cumprod)
    assert sdxl.prediction_type(model) == "epsilon"
    bare.scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved.items() >= sampling.SDXL_SCHEDULE.items()


def test_recipes_and_tests_have_the_samplers_of_the_table_and_their_largest_number_of_steps():
    assert set(get_args(GenerationSection.model_fields["scheduler"].annotation)) == set(sampling.SAMPLERS)
    assert set(PLAIN) == set(sampling.SAMPLERS)
    for name, most in (("lcm", 50), ("ddim", 999), ("unipc", 998)):
        changes = {"scheduler": name, "num_inference_steps": most + 1}
        with pytest.raises(ValidationError, match=f"scheduler {name} has at most {most} steps: set num_inference_st"):
            GenerationSection.model_validate(SECTION.model_dump() | changes)
        scheduler = sampling.make_scheduler(name, sampling.SDXL_SCHEDULE)
        scheduler.set_timesteps(most)
        assert max(scheduler.timesteps.tolist()) <= 999


@pytest.mark.parametrize("earlier", sampling.SAMPLERS)
def test_a_sampler_keeps_nothing_of_the_one_that_drew_before_it(earlier: SamplerName):
    """The service draws with one base model for runs of different samplers."""
    stated: Any = EulerDiscreteScheduler.from_config({**PUBLISHED, "timestep_spacing": "linspace"})  # type: ignore[arg-type]
    for config in (stated.config, {}):
        used = make_scheduler(earlier, config).config
        for name in sampling.SAMPLERS:
            again, first = make_scheduler(name, used), make_scheduler(name, config)
            assert schedule_of(again) == schedule_of(first), name
            keys = first.config.keys() - {"_use_default_values", "_class_name"}
            assert {key: again.config[key] for key in keys} == {key: first.config[key] for key in keys}, name


@pytest.fixture
def overflowing(tmp_path: Path) -> Callable[[bool], ModelSection]:
    """The miniature with a VAE like SDXL's own: fp16 holds its weights, and overflows in its first layers."""

    def make(force_upcast: bool) -> ModelSection:
        folder = tmp_path / f"upcast-{force_upcast}"
        model = miniature(folder, "vae/config.json", lambda config: config | {"force_upcast": force_upcast})
        path = folder / "vae" / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        for part in ("encoder", "decoder"):
            for kind in ("weight", "bias"):
                weights[f"{part}.conv_in.{kind}"] *= 2.0**16  # the largest is 0.41
        save_file(weights, path, {"format": "pt"})
        return model

    return make


def encode_random_picture(pipeline: StableDiffusionXLPipeline, folder: Path) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    read = CaptionedPicture("picture-0", "", pixels, (32, 32), (0, 0))
    rows = encode_examples(pipeline, [["0"]], lambda *_: read, EncodingOptions("", with_text=False), folder, ignore)
    return rows.mean.row(0)


def test_a_vae_that_says_force_upcast_is_kept_in_full_precision_to_draw_encode_and_teach(
    overflowing: Callable[[bool], ModelSection], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = overflowing(True)
    whole = sdxl.load_pipeline(model, "fp32", CPU)
    monkeypatch.setattr("naruto_core.devices.weights_dtype", lambda *_: torch.float16)  # as on a GPU
    half = sdxl.load_pipeline(model, "fp16", CPU)
    assert (half.unet.dtype, half.vae.dtype) == (torch.float16, torch.float32)
    latents = torch.randn(1, half.unet.config["in_channels"], 8, 8, generator=torch.Generator().manual_seed(0)).half()
    assert decode_picture(half, latents).tobytes() == decode_picture(whole, latents.float()).tobytes()
    encoded = encode_random_picture(half, tmp_path / "half")
    assert torch.equal(encoded, encode_random_picture(whole, tmp_path / "whole"))
    assert torch.isfinite(encoded).all()
    section, clean = StyleLossSection(features="decoder"), latents.float()
    loss = style_loss(section, half.vae, latents * 1.1, clean, torch.ones(1))
    assert 0 < float(loss) < float("inf")


def test_where_the_vae_overflows_the_error_names_model_prompt_seed_and_remedy(
    overflowing: Callable[[bool], ModelSection], tmp_path: Path
):
    pipeline = sdxl.load_pipeline(overflowing(False), "fp32", CPU)
    section = SECTION.model_copy(update={"resolution": 32})  # a CPU is slow in fp16
    torch.nn.Module.to(pipeline.vae, torch.float16)
    with pytest.raises(
        ModelUnusable, match=r"upcast-False cannot draw 'a person with red hair' with seed 7: "
    ) as refused:
        Painter(pipeline, section).paint(JOBS)
    remedy = "use a VAE that works in half precision, or draw in fp32."
    assert f"the VAE's pixels are not finite numbers in float16: {remedy}" in str(refused.value)
    batch = ContinuousBatch(Painter(pipeline, section), 32, 32, fixed_size=True)
    number = batch.join(Order("a cat", 7, "", 1, 4.0))
    reason = batch.step()[number]
    assert isinstance(reason, NotFinite)
    assert str(reason) in str(refused.value)
    with pytest.raises(DatasetUnusable, match=r"picture-0: set training.mixed_precision to fp32, or model.vae to"):
        encode_random_picture(pipeline, tmp_path / "latents")
    torch.nn.Module.to(pipeline.vae, torch.float32)  # the remedy
    assert all(isinstance(picture, Image) for picture in Painter(pipeline, section).paint(JOBS))


def test_where_the_unet_overflows_or_weights_are_damaged_nothing_is_drawn_either(load_miniature):
    painter = Painter(load_miniature(), SECTION.model_copy(update={"guidance_scale": 1e38}))
    with pytest.raises(ModelUnusable, match=r"seed 7: the UNet's latents are not finite numbers: lower the guidance"):
        painter.paint([Job("x" * 500, 7)])
    pipeline = load_miniature()
    with torch.no_grad():
        pipeline.vae.decoder.conv_out.weight.fill_(float("inf"))
    with pytest.raises(ModelUnusable, match="not finite numbers in float32: its weights are damaged"):
        Painter(pipeline, SECTION).paint(JOBS)


@pytest.fixture(scope="module")
def half_pipelines(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Two tiny bases in half precision, as a GPU keeps them: for our code and for diffusers'."""
    base = ModelSection(base=str(write_tiny_sdxl(tmp_path_factory.mktemp("half") / "base")))
    pipelines: list[Any] = [sdxl.load_pipeline(base, "fp32", CPU) for _ in range(2)]
    for pipeline in pipelines:
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            torch.nn.Module.to(part, torch.bfloat16)  # a CPU is slow in fp16
    return pipelines


@pytest.mark.parametrize("scheduler", PLAIN)
def test_without_autocast_half_precision_draws_what_a_plain_half_precision_pipeline_draws(
    half_pipelines: list[Any], scheduler: str
):
    """A section of fp32 on this CPU is neither under autocast nor halved. Three steps, for samplers of second order."""
    pipeline, plain = half_pipelines
    section = SECTION.model_copy(update={"scheduler": scheduler, "num_inference_steps": 3, "resolution": 16})
    painter, own = Painter(pipeline, section), plain.scheduler
    ours = painter.paint(JOBS)
    batch = ContinuousBatch(painter, 16, 16, fixed_size=True)
    numbers = [batch.join(Order(job.text, job.seed, "low quality", 3, 4.0)) for job in JOBS]
    joined = [batch.step() for _ in range(3)][-1]
    try:
        plain.scheduler = PLAIN[scheduler](own.config)
        theirs = plain(
            prompt=[job.text for job in JOBS],
            negative_prompt=["low quality"] * 2,
            num_inference_steps=3,
            guidance_scale=4.0,
            height=16,
            width=16,
            generator=[torch.Generator().manual_seed(job.seed) for job in JOBS],
            output_type="latent",
        ).images
    finally:
        plain.scheduler = own
    for mine, number, latents in zip(ours, numbers, theirs, strict=True):
        plainly = plain.vae.decode(latents[None] / plain.vae.config.scaling_factor).sample
        expected = plain.image_processor.postprocess(plainly.float(), output_type="pil")[0]
        assert mine.tobytes() == expected.tobytes()
        served = joined[number]
        assert isinstance(served, Image)
        assert served.tobytes() == expected.tobytes()
    if scheduler in ("euler_ancestral", "lcm"):  # they draw noise at every step
        assert painter.paint(JOBS[1:])[0].tobytes() == ours[1].tobytes()
