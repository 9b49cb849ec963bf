"""The training objective: predict the noise, weighted by how much there is to learn from it.

The forward process, its velocity and its signal-to-noise ratio are diffusers' own (`DDPMScheduler`, `compute_snr`);
here is what diffusers has no function for.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, StableDiffusionXLPipeline

SNR_LIMIT = 1000.0  # as kohya: the almost clean timesteps must not be forgotten altogether


def noise_scheduler(pipeline: "StableDiffusionXLPipeline") -> "DDPMScheduler":
    """The forward process (Ho et al. 2020) that `pipeline`'s scheduler reverses, on the UNet's device."""
    from diffusers import DDPMScheduler

    scheduler = cast(DDPMScheduler, DDPMScheduler.from_config(pipeline.scheduler.config))
    # not computed anew: with a zero terminal SNR the pipeline's own last one is 2^-24, which can be divided by
    scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.to(pipeline.unet.device)
    return scheduler


def predicts_noise(scheduler: "DDPMScheduler") -> bool:
    """Whether the model predicts the noise (epsilon), or else the velocity v."""
    config: Any = scheduler.config
    return config.prediction_type == "epsilon"


def add_noise(scheduler: "DDPMScheduler", clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """sqrt(a) x + sqrt(1 - a) e of latents (B, 4, h, w) at timesteps (B,)."""
    return scheduler.add_noise(clean, noise, cast(torch.IntTensor, t))  # so diffusers types it: int64 is as good


def target_of(scheduler: "DDPMScheduler", clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What the UNet should predict of latents (B, 4, h, w) at timesteps (B,): the noise, or v (Salimans & Ho 2022)."""
    if predicts_noise(scheduler):
        return noise
    return scheduler.get_velocity(clean, noise, cast(torch.IntTensor, t))


def denoised(scheduler: "DDPMScheduler", noisy: torch.Tensor, predicted: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The clean latents (B, 4, h, w) in a prediction: (x - sqrt(1 - a) e) / sqrt(a), or sqrt(a) x - sqrt(1 - a) v.

    `DDPMScheduler.step` knows one timestep for the whole batch only.
    """
    signal = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    if predicts_noise(scheduler):
        return (noisy - (1 - signal).sqrt() * predicted) / signal.sqrt()
    return signal.sqrt() * noisy - (1 - signal).sqrt() * predicted


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much a timestep counts: `snr_gamma` for min-SNR, `debiased`, or neither."""

    snr_gamma: float | None = None
    debiased: bool = False

    def of(self, scheduler: "DDPMScheduler", t: torch.Tensor) -> torch.Tensor:
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
