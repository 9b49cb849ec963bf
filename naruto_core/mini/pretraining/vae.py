"""Stage 1: the VAE, trained on pictures of every kind (see `naruto_core.mini.pretraining.corpus` for the reason)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F

from naruto_core.mini.pretraining.architecture import LATENT_CHANNELS, create_vae
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit

BATCH = 16
KL_WEIGHT = 3.0e-4  # relative to the reconstruction error per pixel; keeps latents near unit scale
EDGE_WEIGHT = 1.0  # outlines are few pixels, but people notice them most


def to_unit_range(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Squared plus absolute error, and the same for the differences of neighbouring pixels."""
    loss = F.mse_loss(drawn, truth) + 0.5 * F.l1_loss(drawn, truth)
    for ours, theirs in zip(_edges(drawn), _edges(truth), strict=True):
        loss = loss + EDGE_WEIGHT * F.mse_loss(ours, theirs)
    return loss


def pretrain_vae(
    pixels: np.ndarray, steps: int, seed: int, checkpoint: Path, on_report: Callable[[FitReport], None], compiled: bool
) -> AutoencoderKL:
    """A VAE trained on `pixels` (uint8, N x 64 x 64 x 3) whose scaling_factor makes latents unit-variance."""
    torch.manual_seed(seed)
    vae = create_vae()
    vae.set_attn_processor(AttnProcessor())  # on CPUs it trains about 2x faster than SDPA

    def forward(truth: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        coder: Any = vae  # diffusers types the outputs as unions
        posterior = coder.encode(truth).latent_dist
        drawn = coder.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        return drawn.float(), kl

    run = torch.compile(forward) if compiled else forward

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        truth = to_unit_range(pixels[np.sort(rng.integers(len(pixels), size=BATCH))])
        noise = torch.from_numpy(rng.standard_normal((BATCH, LATENT_CHANNELS, 16, 16), dtype=np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            drawn, kl = run(truth, noise)
        return reconstruction_loss(drawn, truth) + KL_WEIGHT * kl

    fit(FitConfig("vae", steps, 1.5e-3, weight_decay=1e-4), {"vae": vae}, loss, checkpoint, on_report)
    means, stds = encode_all(vae, pixels[:2000])
    spread = torch.from_numpy(means.astype(np.float32) ** 2 + stds.astype(np.float32) ** 2).mean().sqrt()
    vae.register_to_config(scaling_factor=round(1 / float(spread), 5))
    vae.set_default_attn_processor()
    return vae


@torch.no_grad()
def encode_all(vae: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every picture's latents, float16 (N, 8, 16, 16), unscaled."""
    means, stds = [], []
    for start in range(0, len(pixels), 128):
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(to_unit_range(pixels[start : start + 128])).latent_dist
        means.append(posterior.mean.half().numpy())
        stds.append(posterior.std.half().numpy())
    return np.concatenate(means), np.concatenate(stds)
