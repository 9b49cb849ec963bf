"""An optional objective beside the noise: the denoised picture should have the real one's style.

Style as Gatys, Ecker & Bethge 2016 measure it: the Gram matrix of feature channels, which knows how often
features occur together and nothing of where. Features are the latents themselves, or the first of the VAE's decoder.
"""

from typing import TYPE_CHECKING, Any

import torch

from naruto_core.recipe_training import StyleLossSection

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def gram(features: torch.Tensor) -> torch.Tensor:
    """Gram matrices (B, C, C) of features (B, C, h, w), per pixel: their size does not depend on the picture's."""
    flat = features.float().flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def style_loss(
    section: StyleLossSection, vae: "AutoencoderKL", denoised: torch.Tensor, clean: torch.Tensor, trust: torch.Tensor
) -> torch.Tensor:
    """Weighted mean squared distance of the Gram matrices of `denoised` and `clean` latents (B, 4, h, w).

    `trust` (B,) in 0 .. 1 is how much a denoised picture says at its timestep: alpha-bar.
    """
    real, made = (_features(section, vae, latents) for latents in (clean, denoised))
    distance = (gram(made) - gram(real)).square().mean(dim=(1, 2))
    return section.weight * (distance * trust).mean()


def _features(section: StyleLossSection, vae: "AutoencoderKL", latents: torch.Tensor) -> torch.Tensor:
    if section.features == "latent":
        return latents
    config: Any = vae.config
    inner = (latents / config.scaling_factor).to(vae.dtype)
    if vae.post_quant_conv is not None:
        inner = vae.post_quant_conv(inner)
    return vae.decoder.mid_block(vae.decoder.conv_in(inner))
