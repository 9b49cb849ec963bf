"""Previews: an adapter while it trains, as files, as a sheet of pictures beside the base's, and as scores."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from naruto_core import picture_file
from naruto_core.artifacts import link_or_copy
from naruto_core.contact_sheet import SheetBlock, write_sheet
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Split
from naruto_core.generation import Job, Painter, save_picture
from naruto_core.picture_cache import PictureCache
from naruto_core.prompts import insert_tokens
from naruto_core.scoring import memorization, sample_metrics
from naruto_core.scoring.features import Extractor, Rows, embed_pictures, embed_texts, load_extractor
from naruto_core.training.checkpoint_selection import PREVIEW_SCORE
from naruto_core.training.weights import Weights, write_files
from tasks.context import RunContext
from tasks.features import real_features
from tasks.training_data import StyleSource

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image


class Preview:
    """Called with a step: writes the adapter as it is, draws the first prompts with one seed, and measures them.

    The base model draws its pictures of these prompts once, before the first step. Scores compare the previews of one
    run: a few pictures, far too few to compare runs. Pictures are drawn in the precision of the training, because the
    weights are kept in it. Each step has a folder below `folder`.
    """

    def __init__(self, context: RunContext, styles: Sequence[StyleSource], folder: Path) -> None:
        section, recipe = context.recipe.training.previews, context.recipe
        assert section is not None  # previews are made when the recipe asks for them
        self.context, self.recipe, self.section, self.folder = context, recipe, section, folder
        precision = recipe.training.mixed_precision
        as_trained = recipe.generation.model_copy(update={"mixed_precision": precision})
        self.drawing = as_trained.at_resolution(section.resolution)
        pictures = [picture for style in styles for picture in read_pictures(context.layout, style.dataset)]
        self.held_out, self.trained_on = (
            [p for p in pictures if p.split is split] for split in (Split.REFERENCE, Split.TRAIN)
        )
        self.prompts, self.seed = context.suite.prompts[: section.prompts], context.suite.seeds[0]
        self.base_pictures = self._draw_base(folder / "base")

    def _draw_base(self, folder: Path) -> list[Path]:
        """The base model's pictures of the prompts, from the cache where they were drawn before."""
        cache = PictureCache(self.context.layout.picture_cache, self.recipe.model, self.drawing, self.context.device)
        jobs, paths = [Job(prompt.text, self.seed) for prompt in self.prompts], self._paths(folder)
        files = cache.find(jobs)
        for drawn in cache.draw([job for job in jobs if job not in files]):
            files |= drawn
        for job, path in zip(jobs, paths, strict=True):
            link_or_copy(files[job], path)
        return paths

    def __call__(self, pipeline: "StableDiffusionXLPipeline", steps: int, weights: Weights) -> dict[str, float]:
        """What is measured of the adapter in `pipeline` after `steps` steps."""
        folder = self.folder / f"step-{steps:06d}"
        write_files(pipeline, weights, folder)
        paths = self._paths(folder)
        self._draw(paths, pipeline, self.recipe.new_tokens)
        names = [f"step {steps}", "base"]
        rows = zip(self.prompts, paths, self.base_pictures, strict=True)
        blocks = [SheetBlock(prompt.text, (now, base)) for prompt, now, base in rows]
        write_sheet(blocks, names, folder / f"sheet{picture_file.SUFFIX}")
        return self._scores(paths)

    def _paths(self, folder: Path) -> list[Path]:
        return [folder / f"{index:03d}{picture_file.SUFFIX}" for index in range(len(self.prompts))]

    def _draw(self, paths: Sequence[Path], pipeline: "StableDiffusionXLPipeline", tokens: Mapping[str, str]) -> None:
        painter = Painter(pipeline, self.drawing)
        jobs, size = [Job(insert_tokens(p.text, tokens), self.seed) for p in self.prompts], painter.section.batch_size
        for start in range(0, len(jobs), size):
            part = slice(start, start + size)
            for path, job, picture in zip(paths[part], jobs[part], painter.paint(jobs[part]), strict=True):
                save_picture(picture, path, {"prompt": job.text, "seed": job.seed})

    def _scores(self, paths: Sequence[Path]) -> dict[str, float]:
        if not self.section.score:
            return {}
        # loaded again each time: between two previews the memory belongs to the training
        extractor = load_extractor(self.recipe.scoring.pair_extractor, self.context.device)
        texts = embed_texts(extractor, [p.text for p in self.prompts])
        rows = _features(extractor, paths)
        return {
            PREVIEW_SCORE: float(np.mean(sample_metrics.cosines(rows, texts))),
            "copying_rank": self._copying_rank(extractor, rows),
        }

    def _copying_rank(self, extractor: Extractor, rows: Rows) -> float:
        """The median of the pictures' ranks among new pictures, by nearness to training pictures: low is near."""
        size, batch = self.drawing.resolution, self.recipe.scoring.batch_size
        training = real_features(self.context, self.trained_on, extractor, size, batch)
        new = real_features(self.context, self.held_out, extractor, size, batch) if self.held_out else None
        marks = sample_metrics.nearness_of_held_out(new, training)
        return float(np.median(memorization.ranks(sample_metrics.nearness(rows, training), marks)))


def _features(extractor: Extractor, paths: Sequence[Path]) -> Rows:
    loads = [partial(_opened, path) for path in paths]
    return np.concatenate(list(embed_pictures(extractor, loads, len(loads))))


def _opened(path: Path) -> "Image":
    from PIL import Image

    return Image.open(path)
