"""Continuous batching: pictures join and leave a batch between two steps (Orca, Yu et al. 2022, sec. 3.1).

Kernels choose their order of summation by the number of pictures that the network gets (see `generation`). A batch
gives it as many as there are, in powers of two: then a lone picture takes its own time only, and rounding is all that
differs between sizes. A batch of fixed size is padded with repeats of a picture: then the bytes of a picture do not
depend on the others. Each picture has its own sampler: steps, guidance and prompts may differ within a batch, the
picture size may not.
"""

from collections import OrderedDict
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

_KEPT_TEXTS = 16  # encoded prompts of a batch; 0.6 MB each in SDXL


@dataclass(frozen=True, slots=True)
class Order:
    """One picture to draw: prompt `text`, seed, negative prompt, number of steps, guidance scale.

    `previews` are the steps after which a preview is wanted.
    """

    text: str
    seed: int
    negative_prompt: str
    num_inference_steps: int
    guidance_scale: float
    previews: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Preview:
    """What the picture will look like, as far as it can be told after `step` steps."""

    step: int
    picture: "Image"


@dataclass(frozen=True, slots=True)
class _Texts:
    """Text encodings of a picture as (negative, positive): hidden (1, T, D) and pooled (1, P) each."""

    hidden: tuple[torch.Tensor, torch.Tensor]
    pooled: tuple[torch.Tensor, torch.Tensor]


@dataclass(slots=True)
class _Slot:
    """A picture in the batch: latents (1, 4, h, w), and its text encodings.

    `noise` holds the generator of the picture's noise for a sampler that draws noise at every step, else it is empty.
    `predicted` is the noise-free picture (1, 4, h, w) that the last step predicted, where a preview of it is wanted.
    """

    order: Order
    scheduler: Any
    noise: dict[str, torch.Generator]
    latents: torch.Tensor
    texts: _Texts
    step: int = 0
    predicted: torch.Tensor | None = None


class ContinuousBatch:
    """`section.batch_size` slots (rounded up to a power of two) for pictures of one size, drawn by one Painter."""

    def __init__(self, painter: Painter, height: int, width: int, *, fixed_size: bool) -> None:
        """`height` and `width` in pixels, multiples of 8. `fixed_size`: the same bytes in any company; see above.

        Raises ModelUnusable for a UNet that embeds the guidance.
        """
        if painter.pipeline.unet.config["time_cond_proj_dim"] is not None:
            raise ModelUnusable(
                f"{painter.pipeline.name_or_path} was distilled with the guidance as an input (as LCM's own UNet), and "
                "batches that pictures join have none; train on its base with an LCM LoRA instead, or export the run."
            )
        self.painter, self.height, self.width, self.fixed_size = painter, height, width, fixed_size
        self.size = padded_batch_size(painter.section.batch_size)
        self._slots: dict[int, _Slot] = {}
        self._next = 0
        self._joined: tuple[list[_Slot], torch.Tensor, torch.Tensor] | None = None  # encodings of the last step
        self._encoded: OrderedDict[tuple[str, str], _Texts] = OrderedDict()  # least recently used first

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
        texts = self._encode(order.text, order.negative_prompt)
        generator = torch.Generator().manual_seed(order.seed)
        latents = self._noise(generator, texts.hidden[1].dtype) * scheduler.init_noise_sigma
        noise = {"generator": generator} if accepts_generator(scheduler) else {}
        self._next += 1
        self._slots[self._next] = _Slot(order, scheduler, noise, latents, texts)
        return self._next

    def leave(self, number: int) -> None:
        """Remove a picture; its slot is free at once."""
        self._slots.pop(number, None)

    def step(self) -> "dict[int, Image | Preview | int | NotFinite]":
        """Do one denoising step of every picture.

        By number: the steps done, or a preview after them, or the finished picture, which leaves. For a picture whose
        numbers overflowed, and that would be black, the result is a NotFinite.
        """
        slots = list(self._slots.values())
        with self.painter.inference():
            for first, last, size in self._network_calls(len(slots)):
                self._advance(slots[first:last], size)
        results: dict[int, Image | Preview | int | NotFinite] = {}
        for number, slot in list(self._slots.items()):
            results[number] = slot.step
            if slot.step == len(slot.scheduler.timesteps):
                results[number] = self._decode(slot.latents)
                self.leave(number)
            elif slot.predicted is not None:
                preview = self._decode(slot.predicted)
                slot.predicted = None
                results[number] = slot.step if isinstance(preview, NotFinite) else Preview(slot.step, preview)
        return results

    def _network_calls(self, n: int) -> list[tuple[int, int, int]]:
        """How the network gets `n` pictures: (first, behind the last, number of rows) of each call.

        On a CPU a batch is padded to a power of two, because one call is quicker than two. On a GPU, where a picture of
        1024 x 1024 pixels keeps all units busy, padding would only cost: 3 pictures are 2 and 1.
        """
        if self.fixed_size:
            return [(0, n, self.size)]
        if self.painter.device.type == "cpu":
            return [(0, n, padded_batch_size(n))]
        calls: list[tuple[int, int, int]] = []
        first = 0
        while first < n:
            size = 1 << ((n - first).bit_length() - 1)
            calls.append((first, first + size, size))
            first += size
        return calls

    def _decode(self, latents: torch.Tensor) -> "Image | NotFinite":
        try:
            return decode_picture(self.painter.pipeline, latents)
        except NotFinite as error:
            return error.with_traceback(None)  # a traceback would keep the model in memory

    def _advance(self, slots: list[_Slot], size: int) -> None:
        full = [*slots, *[slots[-1]] * (size - len(slots))]
        times = [slot.scheduler.timesteps[slot.step] for slot in full]
        noisy = [s.scheduler.scale_model_input(s.latents, t) for s, t in zip(full, times, strict=True)]
        hidden, pooled = self._text_encodings(full)
        output = self.painter.pipeline.unet(
            torch.cat(noisy * 2),
            torch.stack(times * 2),
            encoder_hidden_states=hidden,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": self._time_ids(2 * size, hidden.dtype)},
            return_dict=False,
        )[0]
        negative, positive = output.chunk(2)
        for row, slot in enumerate(slots):
            without, prompted = negative[row, None], positive[row, None]
            scale = slot.order.guidance_scale
            # as diffusers: no guidance up to a scale of 1
            noise = without + scale * (prompted - without) if scale > 1 else prompted
            if slot.step + 1 in slot.order.previews:
                slot.predicted = predict_original(slot.scheduler, noisy[row], noise, times[row])
            slot.latents = slot.scheduler.step(noise, times[row], slot.latents, **slot.noise, return_dict=False)[0]
            slot.step += 1

    def _text_encodings(self, full: list[_Slot]) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden and pooled encodings of a batch: negative prompts first, as in the pipeline (Ho & Salimans 2022)."""
        if self._joined is None or [*map(id, self._joined[0])] != [*map(id, full)]:
            hidden = torch.cat([slot.texts.hidden[part] for part in (0, 1) for slot in full])
            pooled = torch.cat([slot.texts.pooled[part] for part in (0, 1) for slot in full])
            self._joined = full, hidden, pooled
        return self._joined[1:]

    def _encode(self, text: str, negative_prompt: str) -> _Texts:
        """The encodings of a picture's prompts, in a batch of one, or of the fixed size; those used last are kept."""
        key = text, negative_prompt
        if key not in self._encoded:
            section, size = self.painter.section, self.size if self.fixed_size else 1
            with self.painter.inference():
                encoded = encode_prompts(
                    self.painter.pipeline,
                    [text] * size,
                    [negative_prompt] * size,
                    section.clip_skip,
                    section.max_token_length,
                    weighted=section.prompt_weights,
                )
            parts = {name: value[:1] for name, value in encoded.items()}
            self._encoded[key] = _Texts(
                (parts["negative_prompt_embeds"], parts["prompt_embeds"]),
                (parts["negative_pooled_prompt_embeds"], parts["pooled_prompt_embeds"]),
            )
            while len(self._encoded) > _KEPT_TEXTS:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def _noise(self, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
        """The noise (1, 4, h, w), drawn on the CPU: the same seed gives the same noise on every device."""
        pipeline = self.painter.pipeline
        factor = pipeline.vae_scale_factor
        shape = (1, pipeline.unet.config["in_channels"], self.height // factor, self.width // factor)
        return randn_tensor(shape, generator=generator, device=self.painter.device, dtype=dtype)

    def _time_ids(self, rows: int, dtype: torch.dtype) -> torch.Tensor:
        """SDXL's size and crop conditioning (Podell et al. 2023, sec. 2.2): no crop, at the picture's own size."""
        size = (self.height, self.width)
        ids = torch.tensor([[*size, 0, 0, *size]], dtype=dtype, device=self.painter.device)
        return ids.repeat(rows, 1)


def predict_original(scheduler: Any, noisy: torch.Tensor, output: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
    """The noise-free latents that the network's `output` at `time` implies (Song et al. 2021, eq. 12).

    `noisy` is what the network got: every sampler scales it to sqrt(a) x + sqrt(1 - a) noise, with a the schedule's
    cumulative alpha. `output` is the noise, or v (Salimans & Ho 2022, appendix D).
    """
    alpha = scheduler.alphas_cumprod[int(time)].to(noisy.device, torch.float32)
    if scheduler.config["prediction_type"] == "v_prediction":
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * output
    return (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt()
