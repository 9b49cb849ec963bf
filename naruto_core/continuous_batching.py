"""Continuous batching: pictures join and leave a batch between two steps (Orca, Yu et al. 2022, sec. 3.1).

The network always gets the same number of pictures; free slots are padded with repeats, so that a picture's bytes
do not depend on the others (see `generation`). Each picture has its own sampler: steps, guidance and prompts may
differ within a batch, the picture size may not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from naruto_core.errors import ModelUnusable
from naruto_core.generation import Painter, padded_batch_size
from naruto_core.sampling import NotFinite, accepts_generator, decode_picture, make_scheduler
from naruto_core.text_encoding import encode_prompts

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to draw: prompt `text`, seed, negative prompt, number of steps, guidance scale."""

    text: str
    seed: int
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float


@dataclass(slots=True)
class _Slot:
    """A picture in the batch: latents (1, 4, h, w); `hidden` and `pooled` text encodings as (negative, positive).

    `noise` holds the generator of the picture's noise for a sampler that draws noise at every step, else it is empty.
    """

    order: Order
    scheduler: Any
    noise: dict[str, torch.Generator]
    latents: torch.Tensor
    hidden: tuple[torch.Tensor, torch.Tensor]
    pooled: tuple[torch.Tensor, torch.Tensor]
    step: int = 0


class ContinuousBatch:
    """`section.batch_size` slots (rounded up to a power of two) for pictures of one size, drawn by one Painter."""

    def __init__(self, painter: Painter, height: int, width: int) -> None:
        """`height` and `width` in pixels, multiples of 8. Raises ModelUnusable for a UNet that embeds the guidance."""
        if painter.pipeline.unet.config["time_cond_proj_dim"] is not None:
            raise ModelUnusable(
                f"{painter.pipeline.name_or_path} was distilled with the guidance as an input (as LCM's own UNet), and "
                "batches that pictures join have none; train on its base with an LCM LoRA instead, or export the run."
            )
        self.painter, self.height, self.width = painter, height, width
        self.size = padded_batch_size(painter.section.batch_size)
        self._slots: dict[int, _Slot] = {}
        self._next = 0
        self._prompts: tuple[list[_Slot], torch.Tensor, torch.Tensor] | None = None  # of the last step

    @property
    def free(self) -> int:
        """The number of free slots."""
        return self.size - len(self._slots)

    def join(self, order: Order) -> int:
        """Give `order` a slot from the next step on; its number in the results of `step`. ValueError when full."""
        if not self.free:
            raise ValueError(f"all {self.size} slots are taken")
        scheduler = make_scheduler(self.painter.section.scheduler, self.painter.pipeline.scheduler.config)
        scheduler.set_timesteps(order.num_inference_steps, device=self.painter.device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        negative, positive, pooled_negative, pooled = self._encode(order)
        generator = torch.Generator().manual_seed(order.seed)
        latents = self._noise(generator, positive.dtype) * scheduler.init_noise_sigma
        noise = {"generator": generator} if accepts_generator(scheduler) else {}
        self._next += 1
        self._slots[self._next] = _Slot(
            order, scheduler, noise, latents, (negative, positive), (pooled_negative, pooled)
        )
        return self._next

    def leave(self, number: int) -> None:
        """Remove a picture; its slot is free at once."""
        self._slots.pop(number, None)

    def step(self) -> "dict[int, Image | int | NotFinite]":
        """Do one denoising step of every picture. By number: the steps done, or the finished picture, which leaves.

        For a picture whose numbers overflowed, and that would be black, the result is a NotFinite.
        """
        with self.painter.inference():
            self._advance(list(self._slots.values()))
        results: dict[int, Image | int | NotFinite] = {}
        for number, slot in list(self._slots.items()):
            results[number] = slot.step
            if slot.step == len(slot.scheduler.timesteps):
                results[number] = self._decode(slot.latents)
                self.leave(number)
        return results

    def _decode(self, latents: torch.Tensor) -> "Image | NotFinite":
        try:
            return decode_picture(self.painter.pipeline, latents)
        except NotFinite as error:
            return error.with_traceback(None)  # a traceback would keep the model in memory

    def _advance(self, slots: list[_Slot]) -> None:
        full = [*slots, *[slots[-1]] * (self.size - len(slots))]
        times = [slot.scheduler.timesteps[slot.step] for slot in full]
        noisy = [s.scheduler.scale_model_input(s.latents, t) for s, t in zip(full, times, strict=True)]
        hidden, pooled = self._text_encodings(full)
        output = self.painter.pipeline.unet(
            torch.cat(noisy * 2),
            torch.stack(times * 2),
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self._time_ids(hidden.dtype)},
            return_dict=False,
        )[0]
        negative, positive = output.chunk(2)
        for row, slot in enumerate(slots):
            without, prompted = negative[row, None], positive[row, None]
            scale = slot.order.guidance_scale
            # as diffusers: no guidance up to a scale of 1
            noise = without + scale * (prompted - without) if scale > 1 else prompted
            slot.latents = slot.scheduler.step(noise, times[row], slot.latents, **slot.noise, return_dict=False)[0]
            slot.step += 1

    def _text_encodings(self, full: list[_Slot]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden and pooled encodings of a batch: negative prompts first, as in the pipeline (Ho & Salimans 2022)."""
        if self._prompts is None or [*map(id, self._prompts[0])] != [*map(id, full)]:
            hidden = torch.cat([slot.hidden[part] for part in (0, 1) for slot in full])
            pooled = torch.cat([slot.pooled[part] for part in (0, 1) for slot in full])
            self._prompts = full, hidden, pooled
        return self._prompts[1:]

    def _encode(self, order: Order) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(negative, positive, pooled negative, pooled) of one picture, encoded in a batch of the same size."""
        section = self.painter.section
        with self.painter.inference():
            encoded = encode_prompts(
                self.painter.pipeline,
                [order.text] * self.size,
                [order.negative_prompt] * self.size,
                section.clip_skip,
                section.max_token_length,
            )
        names = ("negative_prompt_embeds", "prompt_embeds", "negative_pooled_prompt_embeds", "pooled_prompt_embeds")
        negative, positive, pooled_negative, pooled = (encoded[name][:1] for name in names)
        return negative, positive, pooled_negative, pooled

    def _noise(self, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        """The noise (1, 4, h, w), drawn on the CPU: the same seed gives the same noise on every device."""
        pipeline = self.painter.pipeline
        factor = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config["in_channels"], self.height // factor, self.width // factor)
        return randn_tensor(shape, generator=generator, device=self.painter.device, dtype=dtype)

    def _time_ids(self, dtype: torch.dtype) -> torch.Tensor:
        """SDXL's size and crop conditioning (Podell et al. 2023, sec. 2.2): no crop, at the picture's own size."""
        size = (self.height, self.width)
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype, device=self.painter.device)
        return ids.repeat(2 * self.size, 1)
