"""Painter: load once, paint(prompts, seeds). A picture depends on its prompt and seed, not on its company.

Every batch has the same size, a short one being filled up with repeats: matrix kernels choose their order of
summation by shape, so only equal shapes give equal bytes. The size is the recipe's, raised to a power of two: of
6 rows (3 pictures, each with and without its prompt) MKL sums the last in another order than the first.
"""

import hashlib
import io
import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL.PngImagePlugin import PngInfo
from torch.utils.hooks import RemovableHandle

from naruto_core import devices
from naruto_core.artifacts import write_atomically
from naruto_core.errors import ModelUnusable
from naruto_core.recipe import GenerationSection
from naruto_core.sampling import NotFinite, decode_picture, make_scheduler

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image

_PROMPT_SHOWN = 100  # characters of it, in an error


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to paint: `text` from `seed`."""

    text: str
    seed: int


class Painter:
    """A loaded model that paints by one recipe section; it was loaded in the section's precision."""

    def __init__(self, pipeline: "StableDiffusionXLPipeline", section: GenerationSection) -> None:
        self.pipeline, self.section = pipeline, section
        self.device = pipeline.device  # asked once: the pipeline looks through all its parameters for it
        pipeline.scheduler = make_scheduler(section.scheduler, pipeline.scheduler.config)
        pipeline.unet.requires_grad_(False)  # nothing learns here, an adapter's weights neither
        devices.halve_frozen_layers(pipeline.unet, section.mixed_precision)

    def paint(self, jobs: Sequence[Job], on_step: Callable[[int], None] | None = None) -> "list[Image]":
        """At most `batch_size` pictures, in the order of `jobs`; `on_step` hears each finished step's number.

        Raises ModelUnusable, naming model, prompt and seed, when a picture's numbers are not finite.
        """
        section = self.section
        if not 0 < len(jobs) <= section.batch_size:
            raise ValueError(f"paint takes 1 to {section.batch_size} jobs, not {len(jobs)}")
        full = [*jobs, *[jobs[-1]] * (full_size(section.batch_size) - len(jobs))]
        latents = self._denoise(full, on_step)
        return [self._decode(job, one[None]) for job, one in zip(jobs, latents, strict=False)]

    def _decode(self, job: Job, latents: torch.Tensor) -> "Image":
        try:
            return decode_picture(self.pipeline, latents)
        except NotFinite as error:
            adapted = " with its adapter" if getattr(self.pipeline.unet, "peft_config", None) else ""
            prompt = job.text if len(job.text) <= _PROMPT_SHOWN else f"{job.text[:_PROMPT_SHOWN]}..."
            raise ModelUnusable(
                f"{self.pipeline.name_or_path or 'the model'}{adapted} cannot draw {prompt!r} with seed {job.seed}: "
                f"{error}"
            ) from error

    def _denoise(self, jobs: Sequence[Job], on_step: Callable[[int], None] | None) -> torch.Tensor:
        section = self.section

        def heard(_pipeline: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if on_step:
                on_step(step + 1)
            return kwargs

        # diffusers types what a pipeline returns by its many possibilities; this call has one
        draw: Any = self.pipeline
        with self.computing():
            return draw(
                prompt=[job.text for job in jobs],
                negative_prompt=[section.negative_prompt] * len(jobs),
                height=section.resolution,
                width=section.resolution,
                num_inference_steps=section.num_inference_steps,
                guidance_scale=section.guidance_scale,
                clip_skip=section.clip_skip,
                generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
                callback_on_step_end=heard,
                output_type="latent",
            ).images

    @contextmanager
    def computing(self) -> Generator[None]:
        """Without gradients, in the section's precision; on a CPU the sampler adds up in full."""
        # under autocast the UNet answers in half precision
        hook = self.pipeline.unet.register_forward_hook(_answer_in_full)
        precision = devices.autocast(self.section.mixed_precision, self.device)
        with torch.inference_mode(), precision, _removing(hook):
            yield


def full_size(batch_size: int) -> int:
    """The size that every batch is filled up to: the next power of two (see above)."""
    return 1 << (batch_size - 1).bit_length()


@contextmanager
def _removing(hook: RemovableHandle) -> Generator[None]:
    """Take `hook` away when the block ends."""
    try:
        yield
    finally:
        hook.remove()


def _answer_in_full(_module: torch.nn.Module, _inputs: object, output: object) -> object:
    """Lift a half-precision UNet answer to the latents' own dtype; leave a true half pipeline alone."""
    if torch.is_autocast_enabled("cpu") and isinstance(output, tuple):
        return tuple(part.float() for part in output)
    return output


def sample_id(run_id: str, variant: str, slug: str, seed: int) -> str:
    """An opaque name: the same sample always has the same, and nobody reads run or variant off it."""
    return hashlib.sha256(f"{run_id}\0{variant}\0{slug}\0{seed}".encode()).hexdigest()[:20]


def encode_png(picture: "Image", facts: dict[str, object]) -> bytes:
    """The picture as PNG, with `facts` (how it was drawn) as JSON in a text chunk called `naruto`; reproducible."""
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt("naruto", json.dumps(facts, sort_keys=True, ensure_ascii=False))
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def save_picture(picture: "Image", path: Path, facts: dict[str, object]) -> None:
    """Write `encode_png(picture, facts)` to `path`, atomically."""
    write_atomically(path, encode_png(picture, facts))
