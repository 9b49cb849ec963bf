"""The training objective: predict the noise, weighted by how much there is to learn from it."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """alpha-bar of every training timestep, shape (T,): SDXL's DDPM forward process (Ho et al. 2020)."""

    alphas_cumprod: torch.Tensor
    prediction_type: str

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """sqrt(a) x + sqrt(1 - a) e for latents (B, 4, h, w) and timesteps (B,)."""
        signal = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return signal.sqrt() * clean + (1 - signal).sqrt() * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the UNet should say: the noise, or v = sqrt(a) e - sqrt(1 - a) x (Salimans & Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        signal = self.alphas_cumprod[t].view(-1, 1, 1, 1)
        return signal.sqrt() * noise - (1 - signal).sqrt() * clean

    def min_snr_weight(self, t: torch.Tensor, gamma: float) -> torch.Tensor:
        """Min-SNR weights (B,), Hang et al. 2023: min(SNR, gamma) / SNR, or / (SNR + 1) for v-prediction."""
        snr = self.alphas_cumprod[t] / (1 - self.alphas_cumprod[t])
        divisor = snr if self.prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=gamma) / divisor


def denoising_loss(
    schedule: NoiseSchedule,
    predicted: torch.Tensor,
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    snr_gamma: float | None,
) -> torch.Tensor:
    """Mean over the batch of each picture's squared error, min-SNR weighted unless `snr_gamma` is None."""
    error = (predicted.float() - schedule.target(clean, noise, t).float()).square().mean(dim=(1, 2, 3))
    if snr_gamma is not None:
        error = error * schedule.min_snr_weight(t, snr_gamma)
    return error.mean()
