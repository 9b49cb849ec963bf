"""Continuous batching: pictures join and leave between any two steps (Orca, Yu et al. 2022, sec. 3.1).

The network always sees the same number of pictures, free places being filled with repeats, so that a picture's bytes
do not depend on its company (see `generation`). Each picture has a sampler of its own: steps, guidance and prompts may
differ within a batch, the size may not.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from naruto_core.generation import Painter, full_size
from naruto_core.sampling import NotFinite, decode_picture, make_scheduler

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, slots=True)
class Order:
    """One picture: `text` from `seed`, away from `negative_prompt`, in so many steps at a guidance scale."""

    text: str
    seed: int
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float


@dataclass(slots=True)
class _Place:
    """A picture under way: latents (1, 4, h, w); prompts as (negative, positive), each (1, tokens, width)."""

    order: Order
    scheduler: Any
    latents: torch.Tensor
    words: tuple[torch.Tensor, torch.Tensor]
    pooled: tuple[torch.Tensor, torch.Tensor]
    step: int = 0


class ContinuousBatch:
    """`section.batch_size` places (raised to a power of two) for pictures of one size by one Painter's model."""

    def __init__(self, painter: Painter, height: int, width: int) -> None:
        """`height` and `width` in pixels, multiples of 8."""
        self.painter, self.height, self.width = painter, height, width
        self.size = full_size(painter.section.batch_size)
        self._places: dict[int, _Place] = {}
        self._next = 0
        self._prompts: tuple[list[_Place], torch.Tensor, torch.Tensor] | None = None  # of the last step

    @property
    def free(self) -> int:
        """How many pictures may still join."""
        return self.size - len(self._places)

    def join(self, order: Order) -> int:
        """Give `order` a place from the next step on; the number that `step` will speak of it by."""
        if not self.free:
            raise ValueError(f"all {self.size} places are taken")
        scheduler = make_scheduler(self.painter.section.scheduler, self.painter.pipeline.scheduler.config)
        scheduler.set_timesteps(order.num_inference_steps, device=self.painter.device)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        negative, positive, pooled_negative, pooled = self._encode(order)
        latents = self._noise(order.seed, positive.dtype) * scheduler.init_noise_sigma
        self._next += 1
        self._places[self._next] = _Place(order, scheduler, latents, (negative, positive), (pooled_negative, pooled))
        return self._next

    def leave(self, number: int) -> None:
        """Forget a picture; its place is free at once."""
        self._places.pop(number, None)

    def step(self) -> "dict[int, Image | int | NotFinite]":
        """One denoising step of every picture: the steps each has behind it, or the picture, which then has left.

        In place of a picture that would be black, because its numbers overflowed, the reason.
        """
        with self.painter.computing():
            self._advance(list(self._places.values()))
        told: dict[int, Image | int | NotFinite] = {}
        for number, place in list(self._places.items()):
            told[number] = place.step
            if place.step == len(place.scheduler.timesteps):
                told[number] = self._decode(place.latents)
                self.leave(number)
        return told

    def _decode(self, latents: torch.Tensor) -> "Image | NotFinite":
        try:
            return decode_picture(self.painter.pipeline, latents)
        except NotFinite as error:
            return error.with_traceback(None)  # which would hold the model

    def _advance(self, places: list[_Place]) -> None:
        full = [*places, *[places[-1]] * (self.size - len(places))]
        times = [place.scheduler.timesteps[place.step] for place in full]
        noisy = [p.scheduler.scale_model_input(p.latents, t) for p, t in zip(full, times, strict=True)]
        words, pooled = self._words(full)
        answer = self.painter.pipeline.unet(
            torch.cat(noisy * 2),
            torch.stack(times * 2),
            encoder_hidden_states=words,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self._time_ids(words.dtype)},
            return_dict=False,
        )[0]
        without, with_prompt = answer.chunk(2)
        for row, place in enumerate(places):
            one, other = without[row, None], with_prompt[row, None]
            scale = place.order.guidance_scale
            # diffusers draws without guidance up to 1
            noise = one + scale * (other - one) if scale > 1 else other
            place.latents = place.scheduler.step(noise, times[row], place.latents, return_dict=False)[0]
            place.step += 1

    def _words(self, full: list[_Place]) -> tuple[torch.Tensor, torch.Tensor]:
        """All prompts of a batch: negative ones first, as the pipeline has them (Ho & Salimans 2022)."""
        if self._prompts is None or [*map(id, self._prompts[0])] != [*map(id, full)]:
            words = torch.cat([place.words[part] for part in (0, 1) for place in full])
            pooled = torch.cat([place.pooled[part] for part in (0, 1) for place in full])
            self._prompts = full, words, pooled
        return self._prompts[1:]

    def _encode(self, order: Order) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """(negative, positive, pooled negative, pooled), each of one picture, encoded in the batch's own shape."""
        pipeline: Any = self.painter.pipeline
        with self.painter.computing():
            positive, negative, pooled, pooled_negative = pipeline.encode_prompt(
                prompt=[order.text] * self.size,
                negative_prompt=[order.negative_prompt] * self.size,
                do_classifier_free_guidance=True,
                device=self.painter.device,
                clip_skip=self.painter.section.clip_skip,
            )
        return negative[:1], positive[:1], pooled_negative[:1], pooled[:1]

    def _noise(self, seed: int, dtype: torch.dtype) -> torch.Tensor:
        """Drawn on the CPU: the same seed is the same noise on every device."""
        pipeline = self.painter.pipeline
        small = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config["in_channels"], self.height // small, self.width // small)
        return randn_tensor(
            shape, generator=torch.Generator().manual_seed(seed), device=self.painter.device, dtype=dtype
        )

    def _time_ids(self, dtype: torch.dtype) -> torch.Tensor:
        """SDXL's size-and-crop conditioning (Podell et al. 2023, sec. 2.2): uncropped, at the size that is drawn."""
        size = (self.height, self.width)
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype, device=self.painter.device)
        return ids.repeat(2 * self.size, 1)
