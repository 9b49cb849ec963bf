"""SDXL's second stage: the base model does the first denoising steps, a refiner the last (Podell et al. 2023, 2.5).

As in diffusers' documentation ("base to refiner model"): the base stops at `high_noise_frac` with `denoising_end` and
hands latents over, the refiner goes on from there with `denoising_start`. All pictures pass the first stage before the
refiner is loaded, so the two models are never in memory together.
"""

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from naruto_core import devices
from naruto_core.artifacts import atomic_file
from naruto_core.errors import ModelUnusable, amount
from naruto_core.generation import Job, Painter, decode_job, inference, padded_batch_size
from naruto_core.recipe_sections import GenerationSection, RefinerSection
from naruto_core.recipe_training import Precision
from naruto_core.sampling import complete_schedule, make_scheduler, vae_dtype
from naruto_core.sdxl import locate, quiet_loading

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLImg2ImgPipeline
    from PIL.Image import Image

_PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder_2": "CLIPTextModelWithProjection"}


def check_refiner(section: RefinerSection) -> None:
    """Raise ModelUnusable when the refiner is missing, or a folder that is not one; nothing is downloaded or loaded."""
    source, revision = locate(section.base, section.revision)
    if revision:
        return
    try:
        index: dict[str, Any] = json.loads((Path(source) / "model_index.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"cannot load {section.base} as an SDXL refiner: no model_index.json: {error}") from error
    if not index.get("requires_aesthetics_score") or index.get("text_encoder", [None, None])[0] is not None:
        raise _not_a_refiner(section)


def _not_a_refiner(section: RefinerSection) -> ModelUnusable:
    return ModelUnusable(f"generation.refiner.base: {section.base} is an SDXL base model, not its refiner.")


def load_refiner(section: RefinerSection, precision: Precision, device: torch.device) -> Any:
    """The refiner as a `StableDiffusionXLImg2ImgPipeline` on `device`, frozen.

    Raises ModelUnusable when it is missing, is no SDXL refiner (which has the second text encoder only), has no
    safetensors files, or when a weight is in no file.
    """
    from diffusers import StableDiffusionXLImg2ImgPipeline

    source, revision = locate(section.base, section.revision)
    dtype = devices.weights_dtype(precision, device)
    try:
        with quiet_loading(show_progress=revision is not None):
            parts = {part: _load_part(section, part, dtype) for part in _PARTS}
            pipeline = StableDiffusionXLImg2ImgPipeline.from_pretrained(
                source, revision=revision, add_watermarker=False, use_safetensors=True, **parts
            )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL refiner: {reason}") from error
    settings: Any = pipeline.config
    if getattr(pipeline, "text_encoder", None) is not None or not settings.requires_aesthetics_score:
        raise _not_a_refiner(section)
    for model in parts.values():
        model.requires_grad_(False).eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _load_part(section: RefinerSection, part: str, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    source, revision = locate(section.base, section.revision)
    kind: Any = getattr(transformers if part == "text_encoder_2" else diffusers, _PARTS[part])
    options: dict[str, Any] = {"subfolder": part, "revision": revision or "main"}  # ignored for a folder
    if part == "vae":
        dtype = vae_dtype(kind.load_config(source, **options), dtype)
    model, report = kind.from_pretrained(
        source, dtype=dtype, variant=section.variant, use_safetensors=True, output_loading_info=True, **options
    )
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"cannot load {part} of {source}: its files lack {amount(len(missing), 'weight')}, first {missing[0]}."
        )
    return model


class Refiner:
    """The second stage by one recipe section, whose `refiner` is set; `pipeline` was loaded by `load_refiner`."""

    def __init__(self, pipeline: "StableDiffusionXLImg2ImgPipeline", section: GenerationSection) -> None:
        self.pipeline, self.section = pipeline, section
        loaded: Any = pipeline
        loaded.scheduler = make_scheduler(section.scheduler, complete_schedule(loaded.scheduler.config))
        devices.halve_frozen_layers(loaded.unet, section.mixed_precision)

    def refine(self, jobs: Sequence[Job], latents: torch.Tensor) -> "list[Image]":
        """The finished pictures of `jobs` from the `latents` (B, 4, h, w) of the first stage, in a batch of full size.

        Raises ModelUnusable when a picture is not finite.
        """
        section, stage = self.section, self.section.refiner
        assert stage is not None
        size = padded_batch_size(section.batch_size)
        full = [*jobs, *[jobs[-1]] * (size - len(jobs))]
        started = torch.cat([latents, latents[-1:].expand(size - len(jobs), *latents.shape[1:])])
        draw: Any = self.pipeline
        with inference(draw.unet, section.mixed_precision, draw.device):
            finished = draw(
                prompt=[job.text for job in full],
                negative_prompt=[section.negative_prompt] * size,
                image=started.to(draw.device),
                num_inference_steps=section.num_inference_steps,
                denoising_start=stage.high_noise_frac,
                guidance_scale=section.guidance_scale,
                generator=[torch.Generator().manual_seed(job.seed) for job in full],
                output_type="latent",
            ).images
        return [decode_job(self.pipeline, job, picture[None]) for job, picture in zip(jobs, finished, strict=False)]


@dataclass(frozen=True, slots=True)
class BatchDrawing:
    """Draws many pictures by `section`, batch by batch, with the refiner where the section has one.

    With a refiner, the latents of the first stage are kept in `folder` until their pictures are drawn, so that a
    drawing that was stopped goes on; `folder` must belong to one model and section.
    """

    section: GenerationSection
    device: torch.device
    folder: Path

    def draw(
        self,
        load_painter: Callable[[], Painter],
        jobs: Sequence[Job],
        on_step: Callable[[int, int], None] | None = None,
    ) -> "Iterator[list[tuple[Job, Image]]]":
        """Draw `jobs`, and yield the pictures of each batch. `load_painter` is called only if a picture needs it.

        `on_step` is called with the pictures of the batch and the steps done by the base model. Raises ModelUnusable.
        """
        size = self.section.batch_size
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        if not batches:
            return
        if self.section.refiner is None:
            painter = load_painter()
            for batch in batches:
                yield list(zip(batch, painter.paint(batch, _counted(on_step, len(batch))), strict=True))
            return
        self._first_stage(load_painter, batches, on_step)
        refiner = Refiner(load_refiner(self.section.refiner, self.section.mixed_precision, self.device), self.section)
        for batch in batches:
            files = [self._file(job) for job in batch]
            latents = torch.cat([load_file(file)["latents"] for file in files])
            yield list(zip(batch, refiner.refine(batch, latents), strict=True))
            for file in files:
                file.unlink(missing_ok=True)

    def _first_stage(
        self,
        load_painter: Callable[[], Painter],
        batches: Sequence[Sequence[Job]],
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        """Write the latents of all jobs that are not there yet. The base model is freed on return."""
        missing = [batch for batch in batches if not all(self._file(job).is_file() for job in batch)]
        painter = load_painter() if missing else None
        for batch in missing:
            assert painter is not None
            for job, latents in zip(batch, painter.denoise(batch, _counted(on_step, len(batch))), strict=True):
                with atomic_file(self._file(job)) as scratch:
                    save_file({"latents": latents[None].cpu().contiguous()}, scratch)
        del painter
        gc.collect()  # else a reference cycle may keep the base model while the refiner is loaded

    def _file(self, job: Job) -> Path:
        name = hashlib.sha256(f"{job.seed}\0{job.text}".encode()).hexdigest()[:32]
        return self.folder / f"{name}.safetensors"


def _counted(on_step: Callable[[int, int], None] | None, pictures: int) -> Callable[[int], None] | None:
    return None if on_step is None else lambda step: on_step(pictures, step)
