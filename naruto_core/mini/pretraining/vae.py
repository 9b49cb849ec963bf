"""Stage 1: the VAE, trained on pictures of every kind (see `composition` for the reason)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional as F

from naruto_core.mini.pretraining.architecture import LATENT_CHANNELS, LATENT_SIDE, create_vae
from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit, half_precision

BATCH = 4  # whole pictures; of crops, as many as have the same number of pixels
CROP = 64  # pixels on a side: a step of many small crops learns more than one of few pictures, at the same cost
CROP_SHARE = 0.8  # of the steps; the rest sees whole pictures, as norms and attention see them later
FIRST_LOG_VARIANCE = -5.0  # of the posterior: latents of unit variance would drown in noise while the VAE learns little
KL_WEIGHT = 5.0e-4  # relative to the reconstruction error per pixel; keeps latents near unit scale
EDGE_WEIGHT = 1.0  # outlines are few pixels, but people notice them most
MATRIX_RATE = 0.02  # of Muon: 306 steps reach 16.7 dB, where AdamW reaches 13.8 dB in 419 (the same CPU time)
ENCODED_TOGETHER = 32  # pictures


def to_unit_range(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in -1..1."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def reconstruction_loss(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Squared plus absolute error, and squared differences of neighbouring pixels at full and at half resolution."""
    loss = F.mse_loss(drawn, truth) + 0.5 * F.l1_loss(drawn, truth)
    for _ in range(2):
        for ours, theirs in zip(_edges(drawn), _edges(truth), strict=True):
            loss = loss + 0.5 * EDGE_WEIGHT * F.mse_loss(ours, theirs)
        drawn, truth = F.avg_pool2d(drawn, 2), F.avg_pool2d(truth, 2)
    return loss


def _varied(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pictures (B, H, W, 3), each perhaps mirrored; every fourth with its colour channels in another order."""
    pixels = np.where(rng.random((len(pixels), 1, 1, 1)) < 0.5, pixels[:, :, ::-1], pixels)
    mixed = [p[..., rng.permutation(3)] if rng.random() < 0.25 else p for p in pixels]
    return np.stack(mixed)


def _crops(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One random square of CROP pixels of each picture."""
    corners = rng.integers(0, pixels.shape[1] - CROP + 1, (len(pixels), 2))
    return np.stack([p[y : y + CROP, x : x + CROP] for p, (y, x) in zip(pixels, corners, strict=True)])


def pretrain_vae(
    pixels: np.ndarray, steps: int, seed: int, checkpoint: Path, on_report: Callable[[FitReport], None], compiled: bool
) -> AutoencoderKL:
    """A VAE trained on `pixels` (uint8, N x 128 x 128 x 3) whose latents are standardised, see `standardise`."""
    torch.manual_seed(seed)
    vae = create_vae()
    vae.set_attn_processor(AttnProcessor())  # on CPUs it trains about 2x faster than SDPA
    cast(Any, vae).quant_conv.bias.data[LATENT_CHANNELS:] += FIRST_LOG_VARIANCE

    def forward(truth: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        coder: Any = vae  # diffusers types the outputs as unions
        posterior = coder.encode(truth).latent_dist
        drawn = coder.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1.0 - posterior.logvar).float().mean()
        return drawn.float(), kl

    run = torch.compile(forward) if compiled else forward

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((seed, step))
        crops = step < CROP_SHARE * steps
        count = BATCH * (SIZE // CROP) ** 2 if crops else BATCH
        side = LATENT_SIDE * CROP // SIZE if crops else LATENT_SIDE
        chosen = _varied(pixels[np.sort(rng.integers(len(pixels), size=count))], rng)
        truth = to_unit_range(_crops(chosen, rng) if crops else chosen).contiguous(memory_format=torch.channels_last)
        noise = torch.from_numpy(rng.standard_normal((count, LATENT_CHANNELS, side, side), dtype=np.float32))
        with half_precision():
            drawn, kl = run(truth, noise)
        return reconstruction_loss(drawn, truth) + KL_WEIGHT * kl

    module: Any = vae  # diffusers declares `to` for another class
    module.to(memory_format=torch.channels_last)
    fit(
        FitConfig("vae", steps, 1.5e-3, matrix_rate=MATRIX_RATE, weight_decay=1e-4),
        {"vae": vae},
        loss,
        checkpoint,
        on_report,
    )
    module.to(memory_format=torch.contiguous_format)
    vae.set_default_attn_processor()
    standardise(vae, pixels[:2000])
    return vae


@torch.no_grad()
def standardise(vae: Any, pixels: np.ndarray) -> None:
    """Change `vae` in place so that every channel of the latents of `pixels` has mean 0 and variance 1.

    `scaling_factor`, which becomes 1, is one number for all channels; with 16 channels their deviations differ. The
    1 x 1 convolutions behind the encoder and before the decoder can scale and shift each channel, so the round trip
    of a picture stays the same.
    """
    means, deviations = (part.astype(np.float32) for part in encode_all(vae, pixels))
    shift = torch.from_numpy(means.mean((0, 2, 3)))
    scale = torch.from_numpy(np.sqrt(means.var((0, 2, 3)) + np.square(deviations).mean((0, 2, 3))))
    channels = len(scale)
    inner, outer = vae.quant_conv, vae.post_quant_conv
    outer.bias += (outer.weight[:, :, 0, 0] * shift).sum(1)
    outer.weight *= scale[None, :, None, None]
    inner.weight[:channels] /= scale[:, None, None, None]
    inner.bias[:channels] = (inner.bias[:channels] - shift) / scale
    inner.bias[channels:] -= 2 * scale.log()  # the second half is the logarithm of the variance
    vae.register_to_config(scaling_factor=1.0)


@torch.no_grad()
def encode_all(vae: Any, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every picture's latents, float16 (N, 16, 16, 16), unscaled."""
    means, stds = [], []
    for start in range(0, len(pixels), ENCODED_TOGETHER):
        with half_precision():
            posterior = vae.encode(to_unit_range(pixels[start : start + ENCODED_TOGETHER])).latent_dist
        means.append(posterior.mean.half().numpy())
        stds.append(posterior.std.half().numpy())
    return np.concatenate(means), np.concatenate(stds)


@torch.no_grad()
def round_trip(vae: Any, pixels: np.ndarray) -> torch.Tensor:
    """Encode and decode uint8 (N, 128, 128, 3) with an AutoencoderKL; the pictures (N, 3, 128, 128) in -1..1."""
    batches = to_unit_range(pixels).split(ENCODED_TOGETHER)
    return torch.cat([vae.decode(vae.encode(b).latent_dist.mean).sample for b in batches]).clamp(-1, 1)
