"""A loss that means something from step to step: the same held-out pictures, noises and timesteps every time.

The training loss jumps with the timesteps a batch happens to draw. This one is a function of the
weights alone: when it turns upwards, the adapter has begun to learn the pictures by heart. (Fixed
timesteps as in kohya-ss/sd-scripts.)
"""

from typing import TYPE_CHECKING

import torch

from naruto_core import sdxl
from naruto_core.recipe import Precision
from naruto_core.training.examples import Examples
from naruto_core.training.loss import NoiseSchedule, denoising_loss

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

TIMESTEPS = (200, 400, 600, 800)


@torch.no_grad()
def validation_loss(
    pipeline: "StableDiffusionXLPipeline", examples: Examples, schedule: NoiseSchedule, precision: Precision
) -> torch.Tensor:
    """Mean unweighted denoising error over all of `examples` at TIMESTEPS; a number on the device.

    Text comes from the encodings made before training, whether or not the encoders learn: what is
    followed is the UNet's adapter. Leaves the UNet in training mode, and no generator touched.
    """
    unet, device = pipeline.unet, examples.mean.device
    t = torch.tensor(TIMESTEPS, device=device)
    losses: list[torch.Tensor] = []
    unet.eval()
    for row in range(len(examples)):
        generator = torch.Generator().manual_seed(row)
        noise = torch.randn((len(t), *examples.mean.shape[1:]), generator=generator).to(device)
        clean = examples.mean[row].float().expand_as(noise)
        again = torch.full((len(t),), row, device=device)
        condition = {"text_embeds": examples.pooled[again], "time_ids": examples.time_ids[again]}
        noisy = schedule.add_noise(clean, noise, t).to(unet.dtype)
        with sdxl.autocast(precision, device):
            predicted = unet(noisy, t, examples.hidden[again], added_cond_kwargs=condition).sample
        losses.append(denoising_loss(schedule, predicted, clean, noise, t, None))
    unet.train()
    return torch.stack(losses).mean()
