"""The picture cache: the base model draws a picture once, for all runs of a NARUTO_HOME.

A picture is found by everything that it depends on. The name of its file has the sha256 of its bytes, too: a file is
compared with it before use, and a damaged picture is drawn again. Files are written atomically and never changed, so
that several processes can use the cache at once.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from naruto_core import sdxl
from naruto_core.artifacts import link_or_copy, sha256_bytes, sha256_file, write_atomically
from naruto_core.devices import computed_precision
from naruto_core.generation import Job, Painter, padded_batch_size
from naruto_core.picture_file import SUFFIX, encode_picture
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.refiner import BatchDrawing

if TYPE_CHECKING:
    from PIL.Image import Image

_DRAWING_VERSION = 3  # raised when the same options come to draw other pixels: earlier pictures are not used then


class PictureCache:
    """The pictures that the base model `model` draws by `section` on `device`, as files below `folder`."""

    def __init__(self, folder: Path, model: ModelSection, section: GenerationSection, device: torch.device) -> None:
        self._folder, self._model, self._section, self._device = folder, model, section, device
        # a picture depends on the size of a padded batch, not on how many pictures of it were asked for
        self._options = section.drawing_options | {
            "batch_size": padded_batch_size(section.batch_size),
            "mixed_precision": computed_precision(section.mixed_precision, device),
        }
        self._common = [_DRAWING_VERSION, sdxl.identity(model), model.variant, device.type, self._options]
        if stage := section.refiner:
            self._common.append(
                sdxl.identity(ModelSection.model_validate(stage.model_dump(exclude={"high_noise_frac"})))
            )

    def find(self, jobs: Iterable[Job]) -> dict[Job, Path]:
        """The files of those of `jobs` that were drawn before, whole as they were written."""
        files = ((job, self._find(job)) for job in dict.fromkeys(jobs))
        return {job: path for job, path in files if path}

    def draw(self, jobs: Iterable[Job], on_step: Callable[[int, int], None] | None = None) -> Iterator[dict[Job, Path]]:
        """Draw `jobs`, and yield the files of each batch; without jobs no model is loaded.

        `on_step` is called with the number of pictures of the batch and the steps done. Raises ModelUnusable for a
        model that cannot be loaded or a picture that is not finite, and StorageFailed.
        """
        folder = self._folder / "latents" / sha256_bytes(json.dumps(self._common, sort_keys=True).encode())[:24]
        drawing = BatchDrawing(self._section, self._device, folder)
        for batch in drawing.draw(self._load_painter, list(dict.fromkeys(jobs)), on_step):
            yield {job: self._write(job, picture) for job, picture in batch}

    def add(self, job: Job, picture: Path) -> None:
        """Keep the file `picture`, which another cache drew for `job`."""
        key = self._key(job)
        path = self._folder / key[:2] / _file_name(key, sha256_file(picture))
        if not path.exists():
            link_or_copy(picture, path)

    def _load_painter(self) -> Painter:
        section = self._section
        return Painter(sdxl.load_pipeline(self._model, section.mixed_precision, self._device), section)

    def _key(self, job: Job) -> str:
        return sha256_bytes(json.dumps([*self._common, job.text, job.seed], sort_keys=True).encode())

    def _find(self, job: Job) -> Path | None:
        key = self._key(job)
        for path in sorted((self._folder / key[:2]).glob(f"{key}.*{SUFFIX}")):
            if path.name == _file_name(key, sha256_file(path)):
                return path
        return None

    def _write(self, job: Job, picture: "Image") -> Path:
        """Write `picture`; its facts name no run, because every run gets the same bytes."""
        facts: dict[str, object] = {"variant": "base", "prompt": job.text, "seed": job.seed}
        data = encode_picture(picture, facts | self._options)
        key = self._key(job)
        path = self._folder / key[:2] / _file_name(key, sha256_bytes(data))
        write_atomically(path, data)
        return path


def _file_name(key: str, sha256: str) -> str:
    return f"{key}.{sha256}{SUFFIX}"
