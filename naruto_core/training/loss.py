"""The training objective: predict the noise, weighted by how much there is to learn from it."""

from dataclasses import dataclass

import torch

SNR_LIMIT = 1000.0  # as kohya: the almost clean timesteps must not be forgotten altogether


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """alpha-bar of every training timestep, shape (T,): SDXL's DDPM forward process (Ho et al. 2020)."""

    alphas_cumprod: torch.Tensor
    prediction_type: str

    def _signal(self, t: torch.Tensor) -> torch.Tensor:
        return self.alphas_cumprod[t].view(-1, 1, 1, 1)

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """sqrt(a) x + sqrt(1 - a) e for latents (B, 4, h, w) and timesteps (B,)."""
        signal = self._signal(t)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the UNet should say: the noise, or v = sqrt(a) e - sqrt(1 - a) x (Salimans & Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        signal = self._signal(t)
        return signal.sqrt() * noise - (1 - signal).sqrt() * clean

    def denoised(self, noisy: torch.Tensor, predicted: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The clean latents in a prediction: (x - sqrt(1 - a) e) / sqrt(a), or sqrt(a) x - sqrt(1 - a) v."""
        signal = self._signal(t)
        if self.prediction_type == "epsilon":
            return (noisy - (1 - signal).sqrt() * predicted) / signal.sqrt()
        return signal.sqrt() * noisy - (1 - signal).sqrt() * predicted

    def snr(self, t: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratios (B,): a / (1 - a)."""
        return self.alphas_cumprod[t] / (1 - self.alphas_cumprod[t])

    def min_snr_weight(self, t: torch.Tensor, gamma: float) -> torch.Tensor:
        """Min-SNR weights (B,), Hang et al. 2023: min(SNR, gamma) / SNR, or / (SNR + 1) for v-prediction."""
        snr = self.snr(t)
        return snr.clamp(max=gamma) / (snr if self.prediction_type == "epsilon" else snr + 1)

    def debiased_weight(self, t: torch.Tensor) -> torch.Tensor:
        """Debiased estimation weights (B,), Yu et al. 2023: 1 / sqrt(SNR), or 1 / (SNR + 1) for v-prediction."""
        snr = self.snr(t).clamp(max=SNR_LIMIT)
        return 1 / (snr.sqrt() if self.prediction_type == "epsilon" else snr + 1)


@dataclass(frozen=True, slots=True)
class Weighting:
    """How much a timestep counts: `snr_gamma` for min-SNR, `debiased`, or neither."""

    snr_gamma: float | None = None
    debiased: bool = False

    def of(self, schedule: NoiseSchedule, t: torch.Tensor) -> torch.Tensor:
        """Weights (B,) of timesteps (B,)."""
        if self.snr_gamma is not None:
            return schedule.min_snr_weight(t, self.snr_gamma)
        return schedule.debiased_weight(t) if self.debiased else torch.ones_like(schedule.alphas_cumprod[t])


def denoising_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of each picture's mean squared error times its weight (B,)."""
    error = (predicted.float() - target.float()).square().mean(dim=(1, 2, 3))
    return (error * weights).mean()
