"""A loss that means something from step to step: the same held-out pictures, noises and timesteps every time.

The training loss jumps with the timesteps a batch happens to draw. This one is a function of the
weights alone: when it turns upwards, the adapter has begun to learn the pictures by heart. (Fixed
timesteps as in kohya-ss/sd-scripts.)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from naruto_core.training.conditioning import TextEncoding
from naruto_core.training.examples import Examples
from naruto_core.training.loss import add_noise, denoising_loss, target_of

if TYPE_CHECKING:
    from diffusers import DDPMScheduler, UNet2DConditionModel

TIMESTEPS = (200, 400, 600, 800)


@torch.no_grad()
def validation_loss(
    unet: "UNet2DConditionModel",
    examples: Examples,
    scheduler: "DDPMScheduler",
    encode: Callable[[str], TextEncoding] | None = None,
) -> torch.Tensor:
    """Mean unweighted denoising error over all of `examples` at TIMESTEPS; a number on the device.

    `encode` makes a caption's encoding (1, ...) where the encoders learn; None where `examples` have them. Leaves
    the UNet in training mode, and no generator touched.
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
        text = encode(examples.texts[row]) if encode else _known(examples, row)
        hidden, pooled = (
            one.to(device, unet.dtype).expand(len(t), *one.shape[1:]) for one in (text.hidden, text.pooled)
        )
        sizes = examples.time_ids[[row]].to(device).expand(len(t), -1)
        noisy = add_noise(scheduler, clean, noise, t).to(unet.dtype)
        predicted = unet(noisy, t, hidden, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
        weights = torch.ones(len(t), device=device)
        losses.append(denoising_loss(predicted, target_of(scheduler, clean, noise, t), weights))
    unet.train()
    return torch.stack(losses).mean()


def _known(examples: Examples, row: int) -> TextEncoding:
    assert examples.hidden is not None
    assert examples.pooled is not None
    return TextEncoding(examples.hidden[[row]], examples.pooled[[row]])
