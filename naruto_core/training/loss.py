"""The training loss: predicted noise (or v), its weights, the optional style loss; and the validation loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

from naruto_core.recipe_training import StyleLossSection
from naruto_core.text_encoding import TextEncoding
from naruto_core.training.latent_cache import Examples

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel


SNR_LIMIT = 1000.0  # as kohya: keeps some weight on timesteps with almost no noise


def noise_scheduler(pipeline: "StableDiffusionXLPipeline") -> "DDPMScheduler":
    """The forward process (Ho et al. 2020) that `pipeline`'s scheduler reverses, on the UNet's device."""
    from diffusers import DDPMScheduler

    scheduler = cast(DDPMScheduler, DDPMScheduler.from_config(pipeline.scheduler.config))
    # the pipeline's own values: with a zero terminal SNR its last one is 2^-24, so that division by it works
    scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.to(pipeline.unet.device)
    return scheduler


def predicts_noise(scheduler: "DDPMScheduler") -> bool:
    """Whether the model predicts the noise (epsilon), or else the velocity v."""
    config: Any = scheduler.config
    return config.prediction_type == "epsilon"


def add_noise(scheduler: "DDPMScheduler", clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """sqrt(a) x + sqrt(1 - a) e of latents (B, 4, h, w) at timesteps (B,)."""
    return scheduler.add_noise(clean, noise, cast(torch.IntTensor, t))  # diffusers' type; int64 works


def prediction_target(
    scheduler: "DDPMScheduler", clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """The UNet's target for latents (B, 4, h, w) at timesteps (B,): the noise, or v (Salimans & Ho 2022)."""
    if predicts_noise(scheduler):
        return noise
    return scheduler.get_velocity(clean, noise, cast(torch.IntTensor, t))


def predict_clean(
    scheduler: "DDPMScheduler", noisy: torch.Tensor, predicted: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """The clean latents (B, 4, h, w) by a prediction: (x - sqrt(1 - a) e) / sqrt(a), or sqrt(a) x - sqrt(1 - a) v.

    `DDPMScheduler.step` takes only one timestep for the whole batch.
    """
    signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    if predicts_noise(scheduler):
        return (noisy - (1 - signal).sqrt() * predicted) / signal.sqrt()
    return signal.sqrt() * noisy - (1 - signal).sqrt() * predicted


@dataclass(frozen=True, slots=True)
class LossWeighting:
    """The loss weight of a timestep: min-SNR with `snr_gamma`, `debiased` estimation, or 1."""

    snr_gamma: float | None = None
    debiased: bool = False

    def weights(self, scheduler: "DDPMScheduler", t: torch.Tensor) -> torch.Tensor:
        """Weights (B,) of timesteps (B,).

        Min-SNR (Hang et al. 2023): min(SNR, gamma) / SNR, or / (SNR + 1) for v-prediction. Debiased estimation
        (Yu et al. 2023): 1 / sqrt(SNR), or 1 / (SNR + 1).
        """
        from diffusers.training_utils import compute_snr

        if self.snr_gamma is None and not self.debiased:
            return torch.ones_like(scheduler.alphas_cumprod[t])
        snr: torch.Tensor = compute_snr(scheduler, t)
        if self.snr_gamma is not None:
            return snr.clamp(max=self.snr_gamma) / (snr if predicts_noise(scheduler) else snr + 1)
        snr = snr.clamp(max=SNR_LIMIT)
        return 1 / (snr.sqrt() if predicts_noise(scheduler) else snr + 1)


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of each picture's mean squared error times its weight (B,)."""
    error = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
    return (error * weights).mean()


def gram(features: torch.Tensor) -> torch.Tensor:
    """Gram matrices (B, C, C) of features (B, C, h, w), divided by h w: independent of the picture's size."""
    flat = features.float().flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def style_loss(
    section: StyleLossSection, vae: "AutoencoderKL", denoised: torch.Tensor, clean: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted mean squared distance of the Gram matrices of `denoised` and `clean` latents (B, 4, h, w).

    `weights` (B,) in 0 .. 1: alpha-bar of each timestep, because a prediction from much noise shows little style.
    Method: Gatys et al. 2016.
    """
    real, predicted = (_features(section, vae, latents) for latents in (clean, denoised))
    distance = (gram(predicted) - gram(real)).square().mean(dim=(1, 2))
    return section.weight * (distance * weights).mean()


def _features(section: StyleLossSection, vae: "AutoencoderKL", latents: torch.Tensor) -> torch.Tensor:
    if section.features == "latent":
        return latents
    config: Any = vae.config
    inner = (latents / config.scaling_factor).to(vae.dtype)
    if vae.post_quant_conv is not None:
        inner = vae.post_quant_conv(inner)
    return vae.decoder.mid_block(vae.decoder.conv_in(inner))


TIMESTEPS = (200, 400, 600, 800)


@torch.no_grad()
def validation_loss(
    unet: "UNet2DConditionModel",
    examples: Examples,
    scheduler: "DDPMScheduler",
    encode: Callable[[str], TextEncoding] | None = None,
) -> torch.Tensor:
    """Mean unweighted denoising error over all of `examples` at TIMESTEPS; a scalar () on the device.

    `encode` returns a caption's encoding (1, ...) where the encoders learn; None where `examples` have it. Leaves
    the UNet in training mode, and does not use the global random generator.
    """
    device = unet.device
    t = torch.tensor(TIMESTEPS, device=device)
    losses: list[torch.Tensor] = []
    unet.eval()
    for row in range(0, len(examples.texts), examples.views):
        generator = torch.Generator().manual_seed(row // examples.views)
        mean = examples.mean.row(row).float()
        noise = torch.randn((len(t), *mean.shape), generator=generator).to(device)
        clean = mean.to(device).expand_as(noise)
        text = encode(examples.texts[row]) if encode else _cached_encoding(examples, row)
        hidden, pooled = (
            part.to(device, unet.dtype).expand(len(t), *part.shape[1:]) for part in (text.hidden, text.pooled)
        )
        sizes = examples.time_ids[[row]].to(device).expand(len(t), -1)
        noisy = add_noise(scheduler, clean, noise, t).to(unet.dtype)
        predicted = unet(noisy, t, hidden, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        weights = torch.ones(len(t), device=device)
        losses.append(denoising_loss(predicted, prediction_target(scheduler, clean, noise, t), weights))
    unet.train()
    return torch.stack(losses).mean()


def _cached_encoding(examples: Examples, row: int) -> TextEncoding:
    assert examples.hidden is not None
    assert examples.pooled is not None
    return TextEncoding(examples.hidden[[row]], examples.pooled[[row]])
