"""Class pictures for prior preservation: what the base draws before it is taught anything.

DreamBooth's second term (Ruiz et al. 2022, eq. 2): the adapter goes on learning what the base drew for
the class prompts, so that these prompts still give what they gave. The folder is named by everything
the pictures depend on: a stopped drawing goes on with the missing ones, later runs find all of them. A picture
that is not what was drawn is drawn again.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

from naruto_core import sdxl
from naruto_core.artifacts import Manifest
from naruto_core.domain import Progress
from naruto_core.generation import Job, Painter, save_picture
from naruto_core.recipe import GenerationSection, ModelSection
from naruto_core.recipe_training import PriorSection
from tasks.place import Place
from tasks.reporting import reporter

_PIXELS = 2  # raised when the same settings come to draw other pixels: what was kept before is not used


@dataclass(frozen=True, slots=True)
class ClassPictures:
    """Drawn class pictures: `key` names them and their folder; picture i shows `jobs[i]`."""

    key: str
    folder: Path
    jobs: tuple[Job, ...]

    def path(self, index: int) -> Path:
        return self.folder / f"{index:06d}.png"


def class_pictures(
    place: Place, model: ModelSection, prior: PriorSection, drawing: GenerationSection, seed: int
) -> ClassPictures:
    """The class pictures, drawn by the base as `drawing` draws samples; only the missing ones are drawn."""
    texts = prior.class_prompts
    jobs = tuple(Job(texts[index % len(texts)], seed + index) for index in range(prior.num_class_images))
    how = drawing.model_dump(mode="json", exclude={"suite", "variants", "prompts", "seeds"})
    parts = json.dumps([_PIXELS, sdxl.identity(model), [(job.text, job.seed) for job in jobs], how], sort_keys=True)
    key = f"class-{hashlib.sha256(parts.encode()).hexdigest()[:24]}"
    pictures = ClassPictures(key, place.layout.cache(key), jobs)
    names = {pictures.path(index).name: index for index in range(len(jobs))}
    missing = [names[name] for name in Manifest(pictures.folder).unproven(names)]
    if missing:
        painter = Painter(sdxl.load_pipeline(model, drawing.mixed_precision, place.device), drawing)
        _draw(painter, pictures, missing)
    return pictures


def _draw(painter: Painter, pictures: ClassPictures, missing: list[int]) -> None:
    report, began, size = reporter(), time.monotonic(), painter.section.batch_size
    total = len(pictures.jobs)
    for start in range(0, len(missing), size):
        batch = missing[start : start + size]
        for index, picture in zip(batch, painter.paint([pictures.jobs[i] for i in batch]), strict=True):
            job = pictures.jobs[index]
            save_picture(picture, pictures.path(index), {"class_prompt": job.text, "seed": job.seed})
        Manifest(pictures.folder).add([pictures.path(index).name for index in batch])
        done, spent = start + len(batch), time.monotonic() - began
        left = spent / done * (len(missing) - done)
        report(Progress("prior", total - len(missing) + done, total, "picture", spent, left))
