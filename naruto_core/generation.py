"""Batch generation: a Painter draws pictures by one recipe. A picture does not depend on the others in its batch.

Every batch has the same size; a short one is padded with repeats: matrix kernels choose their order of
summation by shape, so that only equal shapes give equal bytes. The size is the recipe's, rounded up to a power of 2:
of 6 rows (3 pictures, each with and without its prompt), MKL sums the last in another order than the first.
"""

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.hooks import RemovableHandle

from naruto_core import devices
from naruto_core.artifacts import write_atomically
from naruto_core.errors import ModelUnusable
from naruto_core.picture_file import encode_picture
from naruto_core.recipe_sections import GenerationSection
from naruto_core.recipe_training import Precision
from naruto_core.sampling import NotFinite, decode_picture, make_scheduler
from naruto_core.text_encoding import encode_prompts

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image

_PROMPT_SHOWN = 100  # characters of the prompt in an error


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to draw: the prompt `text`, and the seed of its noise."""

    text: str
    seed: int


class Painter:
    """Draws pictures with `pipeline` by one recipe section; the pipeline was loaded in the section's precision."""

    def __init__(self, pipeline: "StableDiffusionXLPipeline", section: GenerationSection) -> None:
        self.pipeline, self.section = pipeline, section
        self.device = pipeline.device  # read once: the pipeline searches all its parameters for it
        pipeline.scheduler = make_scheduler(section.scheduler, pipeline.scheduler.config)
        pipeline.unet.requires_grad_(False)  # an adapter's weights too
        devices.halve_frozen_layers(pipeline.unet, section.mixed_precision)

    def paint(self, jobs: Sequence[Job], on_step: Callable[[int], None] | None = None) -> "list[Image]":
        """Draw at most `batch_size` pictures, in the order of `jobs`; `on_step` is called with the steps done.

        Raises ModelUnusable, with model, prompt and seed, when a picture is not finite; ValueError for a wrong number.
        """
        latents = self.denoise(jobs, on_step)
        return [decode_job(self.pipeline, job, picture[None]) for job, picture in zip(jobs, latents, strict=True)]

    def denoise(self, jobs: Sequence[Job], on_step: Callable[[int], None] | None = None) -> torch.Tensor:
        """The latents (B, 4, h, w) of `jobs`; where the section has a refiner, as they are handed over to it.

        Raises ValueError for a wrong number of jobs.
        """
        section = self.section
        if not 0 < len(jobs) <= section.batch_size:
            raise ValueError(f"paint takes 1 to {section.batch_size} jobs, not {len(jobs)}")
        full = [*jobs, *[jobs[-1]] * (padded_batch_size(section.batch_size) - len(jobs))]
        return self._denoise(full, on_step)[: len(jobs)]

    def _denoise(self, jobs: Sequence[Job], on_step: Callable[[int], None] | None) -> torch.Tensor:
        section = self.section

        def on_step_end(_pipeline: Any, step: int, _t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
            if on_step:
                on_step(step + 1)
            return kwargs

        # diffusers types the result as a union; this call has one type
        draw: Any = self.pipeline
        handed_over: dict[str, Any] = {"denoising_end": section.refiner.high_noise_frac} if section.refiner else {}
        with self.inference():
            texts = encode_prompts(
                self.pipeline,
                [job.text for job in jobs],
                [section.negative_prompt] * len(jobs),
                section.clip_skip,
                section.max_token_length,
                weighted=section.prompt_weights,
            )
            return draw(
                **texts,
                height=section.resolution,
                width=section.resolution,
                num_inference_steps=section.num_inference_steps,
                guidance_scale=section.guidance_scale,
                generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
                callback_on_step_end=on_step_end,
                output_type="latent",
                **handed_over,
            ).images

    def inference(self) -> AbstractContextManager[None]:
        """See `inference`, for this painter's pipeline."""
        return inference(self.pipeline.unet, self.section.mixed_precision, self.device)


@contextmanager
def inference(unet: torch.nn.Module, precision: Precision, device: torch.device) -> Generator[None]:
    """Inside the block: no gradients, `precision`; on a CPU the sampler still computes in fp32."""
    hook = unet.register_forward_hook(_output_in_fp32)  # under autocast the UNet's output is half precision
    with torch.inference_mode(), devices.autocast(precision, device), _removing(hook):
        yield


def decode_job(pipeline: Any, job: Job, latents: torch.Tensor) -> "Image":
    """The picture of the latents (1, 4, h, w) of `job`; ModelUnusable, with model, prompt and seed, if not finite."""
    try:
        return decode_picture(pipeline, latents)
    except NotFinite as error:
        adapted = " with its adapter" if getattr(pipeline.unet, "peft_config", None) else ""
        prompt = job.text if len(job.text) <= _PROMPT_SHOWN else f"{job.text[:_PROMPT_SHOWN]}..."
        raise ModelUnusable(
            f"{pipeline.name_or_path or 'the model'}{adapted} cannot draw {prompt!r} with seed {job.seed}: {error}"
        ) from error


def padded_batch_size(batch_size: int) -> int:
    """The size that every batch is padded to: the next power of two (see above)."""
    return 1 << (batch_size - 1).bit_length()


@contextmanager
def _removing(hook: RemovableHandle) -> Generator[None]:
    """Remove `hook` when the block ends."""
    try:
        yield
    finally:
        hook.remove()


def _output_in_fp32(_module: torch.nn.Module, _inputs: object, output: object) -> object:
    """A forward hook: convert the UNet's half-precision output to fp32 under CPU autocast; else leave it."""
    if torch.is_autocast_enabled("cpu") and isinstance(output, tuple):
        return tuple(part.float() for part in output)
    return output


def sample_id(run_id: str, variant: str, slug: str, seed: int) -> str:
    """An opaque id, equal for the same sample; run and variant cannot be read from it."""
    return hashlib.sha256(f"{run_id}\0{variant}\0{slug}\0{seed}".encode()).hexdigest()[:20]


def save_picture(picture: "Image", path: Path, facts: dict[str, object]) -> None:
    """Write `picture` with `facts` (see `picture_file`) as `path`, atomically. Raises StorageFailed."""
    write_atomically(path, encode_picture(picture, facts))
