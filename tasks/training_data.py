"""Training data: the styles of a run at the resolution of each stage, encoded once and kept; class pictures."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core import sdxl
from naruto_core.dataset.preprocessing import PLAIN, bucket_of, draw_view, prepare, shuffle_caption
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import DatasetVersion, Picture, Split
from naruto_core.generation import Job
from naruto_core.picture_cache import PictureCache
from naruto_core.prompts import begins_with, had_prompt_twice, insert_tokens
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_training import AugmentationSection
from naruto_core.training.batches import StyleData, TrainingData
from naruto_core.training.latent_cache import (
    CaptionedPicture,
    EncodingOptions,
    Examples,
    encode_examples,
    latent_cache_key,
)
from tasks.context import RunContext, TaskContext
from tasks.progress import reporter, unit_reporter

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


@dataclass(frozen=True, slots=True)
class ClassPictures:
    """Drawn class pictures: the file `paths[i]` shows `jobs[i]`."""

    jobs: tuple[Job, ...]
    paths: tuple[Path, ...]

    @property
    def key(self) -> str:
        """A digest of the pictures and their prompts: the name of a cached file has the digests of both."""
        names = "\n".join(path.name for path in self.paths)
        return f"class-{hashlib.sha256(names.encode()).hexdigest()[:24]}"


def class_jobs(recipe: Recipe) -> tuple[Job, ...]:
    """The class pictures that the recipe's prior asks for; () without a prior."""
    prior = recipe.training.prior
    if prior is None:
        return ()
    texts = prior.class_prompts
    return tuple(Job(texts[index % len(texts)], prior.seed + index) for index in range(prior.num_class_images))


def class_pictures(context: RunContext) -> ClassPictures:
    """The class pictures of the recipe's prior, drawn by the base model like the samples; only missing ones are drawn.

    The prior must be of kind `class_images`.
    """
    recipe, prior, jobs = context.recipe, context.recipe.training.prior, class_jobs(context.recipe)
    assert prior is not None
    section = recipe.generation.at_resolution(prior.resolution)
    cache = PictureCache(context.layout.picture_cache, recipe.model, section, context.device)
    paths = cache.find(jobs)
    missing = [job for job in jobs if job not in paths]
    report_count = unit_reporter("prior", len(missing), "picture")
    for drawn in cache.draw(missing):
        paths |= drawn
        report_count(len(missing) - (len(jobs) - len(paths)))
    return ClassPictures(jobs, tuple(paths[job] for job in jobs))


@dataclass(frozen=True, slots=True)
class StyleSource:
    """One style to learn: its pictures and the recipe's words for it."""

    name: str
    dataset: DatasetVersion
    instance_prompt: str
    loss_weight: float = 1.0
    repeats: int = 1


def style_sources(recipe: Recipe, datasets: Sequence[DatasetVersion]) -> list[StyleSource]:
    """The recipe's own style and the others, with their dataset versions, in the recipe's order."""
    main = StyleSource(MAIN_STYLE, datasets[0], recipe.training.instance_prompt)
    others = zip(recipe.styles, datasets[1:], strict=True)
    return [main, *(StyleSource(s.name, d, s.instance_prompt, s.loss_weight, s.repeats) for s, d in others)]


@dataclass(frozen=True, slots=True)
class TrainingPictures:
    """Encodes pictures for one training by `recipe`, with `pipeline`, into the caches of `context`."""

    context: TaskContext
    pipeline: "StableDiffusionXLPipeline"
    recipe: Recipe

    def stages(self, styles: Sequence[StyleSource], drawn: ClassPictures | None) -> list[TrainingData]:
        """One TrainingData for each stage of the recipe.

        Validation is on the first style's held-out pictures, in all stages at one resolution: losses of different
        resolutions could not be compared.
        """
        section = self.recipe.training
        wanted = section.validation
        held_out = wanted and self._held_out(styles[0], section.resolution, wanted.num_validation_images)
        return [
            TrainingData(
                stage.steps,
                tuple(self._style_data(style, stage.resolution) for style in styles),
                drawn and self._class_pictures(drawn, stage.resolution),
                held_out,
            )
            for stage in section.resolutions
        ]

    def _style_data(self, style: StyleSource, resolution: int) -> StyleData:
        pictures = self._of(style, Split.TRAIN)
        examples = self._encoded(style, pictures, resolution, self.recipe.training.augmentation, "")
        groups = self._by_size(pictures, resolution).values()
        repeats = tuple(picture.repeats for group in groups for picture in group)
        return StyleData(examples, style.loss_weight, style.repeats, None if set(repeats) <= {1} else repeats)

    def _held_out(self, style: StyleSource, resolution: int, limit: int) -> Examples | None:
        """A style of its own may have none: then it has no validation loss."""
        pictures = self._of(style, Split.REFERENCE)[:limit]
        return None if not pictures else self._encoded(style, pictures, resolution, None, f"held out {limit}")

    def _of(self, style: StyleSource, split: Split) -> list[Picture]:
        pictures = [p for p in read_pictures(self.context.layout, style.dataset) if p.split is split]
        return sorted(pictures, key=_name)

    def _encoded(
        self,
        style: StyleSource,
        pictures: Sequence[Picture],
        resolution: int,
        augmentation: AugmentationSection | None,
        part: str,
    ) -> Examples:
        step = self.recipe.training.bucket_reso_steps
        named = {_name(p): p for p in pictures}
        sized = self._by_size(pictures, resolution)
        size_of = {_name(picture): size for size, group in sized.items() for picture in group}

        def read(name: str, view: int) -> CaptionedPicture:
            return self._captioned(named[name], style.instance_prompt, size_of[name], augmentation, view)

        prompt = insert_tokens(style.instance_prompt, self.recipe.new_tokens)
        how = self._how(prompt, augmentation.views if augmentation else 1)
        if any(had_prompt_twice(picture.caption, style.instance_prompt) for picture in pictures):
            part = f"{part}, instance prompt once"
        key = self._key(style.dataset.id, part, resolution, step, how, augmentation)
        groups = [[_name(picture) for picture in group] for group in sized.values()]
        return encode_examples(self.pipeline, groups, read, how, self.context.layout.cache(key), reporter())

    def _by_size(self, pictures: Sequence[Picture], resolution: int) -> dict[tuple[int, int], list[Picture]]:
        """The pictures by their size (height, width) for training: in the order in which they are encoded."""
        step = self.recipe.training.bucket_reso_steps
        sized: dict[tuple[int, int], list[Picture]] = {}
        for picture in pictures:
            sized.setdefault(bucket_of(picture.width, picture.height, resolution, step), []).append(picture)
        return {size: sized[size] for size in sorted(sized)}

    def _captioned(
        self,
        picture: Picture,
        instance_prompt: str,
        size: tuple[int, int],
        augmentation: AugmentationSection | None,
        view: int,
    ) -> CaptionedPicture:
        data = read_picture(self.context.layout, picture)
        caption, look = picture.caption, PLAIN
        if augmentation:
            options = augmentation.random_flip, augmentation.random_crop, augmentation.color_jitter
            look = draw_view(*options, picture.sha256, view)
            if augmentation.shuffle_caption:
                has_prompt = begins_with(caption, instance_prompt)
                caption = shuffle_caption(caption, picture.sha256, view, keep_first=has_prompt)
        ready = prepare(data, size, look)
        words = insert_tokens(caption, self.recipe.new_tokens)
        return CaptionedPicture(picture.sha256[:12], words, ready.pixels, ready.original_size, ready.crop)

    def _class_pictures(self, drawn: ClassPictures, resolution: int) -> Examples:
        read = partial(_class_picture, drawn, resolution)
        names, how = [str(index) for index in range(len(drawn.jobs))], self._how("", 1)
        folder = self.context.layout.cache(self._key(drawn.key, "", resolution, None, how, None))
        return encode_examples(self.pipeline, [names], read, how, folder, reporter())

    def _how(self, instance_prompt: str, views: int) -> EncodingOptions:
        section = self.recipe.training
        frozen = section.text_encoder_lr is None and section.textual_inversion is None
        return EncodingOptions(instance_prompt, frozen, section.clip_skip, section.max_token_length, views)

    def _key(
        self,
        source: str,
        part: str,
        resolution: int,
        step: int | None,
        how: EncodingOptions,
        augmentation: AugmentationSection | None,
    ) -> str:
        looks = augmentation and augmentation.model_dump()
        model, tokens = sdxl.identity(self.recipe.model), self.recipe.new_tokens
        precision = self.recipe.training.mixed_precision, self.pipeline.vae.dtype
        return latent_cache_key(source, part, model, resolution, step, str(how), looks, tokens, precision)


def _name(picture: Picture) -> str:
    return picture.sha256 + picture.caption


def _class_picture(drawn: ClassPictures, resolution: int, name: str, _view: int) -> CaptionedPicture:
    index = int(name)
    ready = prepare(drawn.paths[index].read_bytes(), (resolution, resolution))
    return CaptionedPicture(f"class {name}", drawn.jobs[index].text, ready.pixels, ready.original_size, ready.crop)
