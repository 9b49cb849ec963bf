"""Sampling: the samplers that recipes name, and the VAE that decodes latents to pixels.

Imports no other module of this project: `naruto export endpoint` and `naruto export triton` copy this file into what
they export. So the run, the service, the endpoint and Triton draw with the same code.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # torch is imported where it is used: reading a recipe imports this file for the samplers' names
    import torch
    from PIL.Image import Image

SamplerName = Literal[
    "ddim", "euler", "euler_ancestral", "dpmpp_2m_karras", "unipc", "lcm", "euler_trailing"
]  # in recipes: generation.scheduler


@dataclass(frozen=True, slots=True)
class Sampler:
    """A sampler: the class of diffusers, what it sets in the model's schedule, and its largest number of steps."""

    scheduler_class: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    most_steps: int | None = None


# A new sampler goes here and into SamplerName; docs/guides/base-models.md says when to use which.
SAMPLERS: dict[SamplerName, Sampler] = {
    "ddim": Sampler("DDIMScheduler", most_steps=999),  # one more would begin at timestep 1000, which does not exist
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler_ancestral": Sampler("EulerAncestralDiscreteScheduler"),
    "dpmpp_2m_karras": Sampler(
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "unipc": Sampler("UniPCMultistepScheduler", {"solver_order": 2}, most_steps=998),
    "lcm": Sampler("LCMScheduler", most_steps=50),  # its original_inference_steps
    "euler_trailing": Sampler("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
_REPLACED = "replaced_by_sampler"  # key in a sampler's configuration: the model's own values of `Sampler.options`

# scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0. The defaults of diffusers are for other
# models: DDIM would clip its samples to [-1, 1] and end at alpha 1, and both would use another beta schedule.
SDXL_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "interpolation_type": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "use_karras_sigmas": False,
}


class NotFinite(ArithmeticError):
    """A picture's latents or pixels are not finite: it would be black. The message names the network and a remedy."""


def complete_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """The scheduler configuration of a model, completed with SDXL's published values where its file has none.

    `config` is that of a loaded scheduler; its `_use_default_values` names the keys that the file lacked.
    """
    missing = {"_use_default_values", *config.get("_use_default_values", ())}
    return SDXL_SCHEDULE | {key: value for key, value in config.items() if key not in missing}


def make_scheduler(name: SamplerName, config: Mapping[str, Any]) -> Any:
    """The sampler named `name` in recipes, for a model whose own scheduler, or earlier sampler, has `config`.

    What a sampler sets is undone when another one is made from its configuration.
    """
    import diffusers

    sampler, schedule = SAMPLERS[name], complete_schedule(config)
    for key, value in schedule.pop(_REPLACED, {}).items():
        schedule[key] = value
        if value is None:
            del schedule[key]
    replaced = {key: schedule.get(key) for key in sampler.options}
    kind: Any = getattr(diffusers, sampler.scheduler_class)
    return kind.from_config(schedule | dict(sampler.options) | ({_REPLACED: replaced} if replaced else {}))


def accepts_generator(scheduler: Any) -> bool:
    """Whether a step of `scheduler` may draw noise, from a `generator` that it is given."""
    return "generator" in inspect.signature(scheduler.step).parameters


def vae_dtype(config: Mapping[str, Any], dtype: "torch.dtype") -> "torch.dtype":
    """The dtype of a VAE's weights beside models in `dtype`: fp32 if its `config` has `force_upcast`, as SDXL's own.

    fp16 overflows in that VAE. diffusers casts it around every decode; here it stays in fp32 (0.3 GB), because encoding
    needs that too.
    """
    import torch

    return torch.float32 if config.get("force_upcast", True) else dtype  # True is diffusers' default


def load_vae(folder: Path, dtype: "torch.dtype") -> Any:
    """The VAE of the pipeline in `folder`, in the `vae_dtype` of its configuration."""
    from diffusers import AutoencoderKL

    config: Any = AutoencoderKL.load_config(str(folder), subfolder="vae")
    return AutoencoderKL.from_pretrained(
        str(folder), subfolder="vae", torch_dtype=vae_dtype(config, dtype), use_safetensors=True
    )


def decode_picture(pipeline: Any, latents: "torch.Tensor") -> "Image":
    """Decode the latents (1, 4, H / 8, W / 8) of one picture, as the UNet leaves them, to a picture of H x W pixels.

    One picture at a time, because decoding 1024 x 1024 pixels needs much memory. Call it outside autocast; the VAE is
    in its `vae_dtype`. Raises NotFinite.
    """
    import torch

    vae = pipeline.vae
    if not torch.isfinite(latents).all():
        precision = ", or draw in bf16 or fp32" if latents.dtype == torch.float16 else ""
        raise NotFinite(
            f"the UNet's latents are not finite numbers: lower the guidance scale or the adapter's scale{precision}."
        )
    with torch.inference_mode():
        pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample.float()
        if not torch.isfinite(pixels).all():
            remedy = (
                "its weights are damaged; download it again, or use another VAE."
                if vae.dtype == torch.float32
                else "use a VAE that works in half precision, or draw in fp32."
            )
            dtype = str(vae.dtype).removeprefix("torch.")
            raise NotFinite(f"the VAE's pixels are not finite numbers in {dtype}: {remedy}")
        return pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
