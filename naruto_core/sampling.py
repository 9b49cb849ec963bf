"""How a picture comes out of SDXL's networks: the sampler that denoises, and the VAE that turns latents into pixels.

Stands alone and imports nothing of this project: `naruto export endpoint` and `naruto export triton` put a copy of this
file beside what they run. So the run, the service, the endpoint and Triton draw by the same lines.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from PIL.Image import Image

SAMPLERS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler"}  # a recipe's word for it: diffusers' class

# scheduler/scheduler_config.json of stabilityai/stable-diffusion-xl-base-1.0. The defaults of diffusers suit other
# models: DDIM would clip its samples to [-1, 1] and end at an alpha of one, both would use betas of another schedule.
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
    """The numbers of a picture are infinite or not numbers: it would be black. Says which network's, and what to do."""


def complete_schedule(config: Mapping[str, Any]) -> dict[str, Any]:
    """What the scheduler's file of a model says; SDXL's published values where it says nothing.

    `config` is that of a loaded scheduler, which names the keys that its file lacked.
    """
    missing = {"_use_default_values", *config.get("_use_default_values", ())}
    return SDXL_SCHEDULE | {key: value for key, value in config.items() if key not in missing}


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The sampler that recipes call `name`, for a model whose own scheduler has `config`."""
    import diffusers

    return getattr(diffusers, SAMPLERS[name]).from_config(complete_schedule(config))


def vae_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What a VAE with `config` is kept in where all else is in `dtype`: fp32 if it says `force_upcast`, as SDXL's own.

    fp16 overflows in it. For good, not around every use as diffusers does it: it is 0.3 GB, and whoever encodes needs
    it too.
    """
    return torch.float32 if config.get("force_upcast", True) else dtype  # True is what diffusers takes


def load_vae(folder: Path, dtype: torch.dtype) -> Any:
    """The VAE of the pipeline `folder` in the `vae_dtype` of its configuration."""
    from diffusers import AutoencoderKL

    config: Any = AutoencoderKL.load_config(str(folder), subfolder="vae")
    return AutoencoderKL.from_pretrained(
        str(folder), subfolder="vae", torch_dtype=vae_dtype(config, dtype), use_safetensors=True
    )


@torch.inference_mode()
def decode_picture(pipeline: Any, latents: torch.Tensor) -> "Image":
    """The latents (1, 4, H / 8, W / 8) of one picture, as SDXL's UNet leaves them, as a picture of H x W pixels.

    One, because a decode of 1024 pixels is memory-hungry. Outside autocast; the VAE is in its
    `vae_dtype`. Raises NotFinite.
    """
    vae = pipeline.vae
    if not torch.isfinite(latents).all():
        other = ", or draw in bf16 or fp32" if latents.dtype == torch.float16 else ""
        raise NotFinite(
            f"the UNet's latents are not finite numbers: lower the guidance scale or the adapter's scale{other}."
        )
    pixels = vae.decode(latents.to(vae.dtype) / vae.config.scaling_factor).sample.float()
    if not torch.isfinite(pixels).all():
        remedy = (
            "its weights are damaged; load it anew, or use another VAE."
            if vae.dtype == torch.float32
            else "use a VAE that half precision can hold, or draw in fp32."
        )
        raise NotFinite(f"the VAE's pixels are not finite numbers in {str(vae.dtype).removeprefix('torch.')}: {remedy}")
    return pipeline.image_processor.postprocess(pixels, output_type="pil")[0]
