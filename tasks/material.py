"""What a training learns from: its styles, at each stage's resolution, encoded once and kept by content."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from naruto_core import sdxl
from naruto_core.dataset.preprocessing import PLAIN, bucket_of, draw_view, prepare, shuffle_caption
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import DatasetVersion, Picture, Split
from naruto_core.prompts import put_tokens
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_training import AugmentationSection
from naruto_core.training.batches import Style, TrainingData
from naruto_core.training.latent_cache import Captioned, Encoding, Examples, encode_examples, examples_key
from tasks.place import Place
from tasks.prior import ClassPictures
from tasks.reporting import reporter

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


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
class Material:
    """Encodes pictures for one training by `recipe`, with `pipeline`, into the caches of `place`."""

    place: Place
    pipeline: "StableDiffusionXLPipeline"
    recipe: Recipe

    def stages(self, styles: Sequence[StyleSource], drawn: ClassPictures | None) -> list[TrainingData]:
        """One TrainingData for each stage of the recipe; validation is on the first style's held-out pictures."""
        section = self.recipe.training
        wanted = section.validation
        return [
            TrainingData(
                stage.steps,
                tuple(Style(self._pictures(s, stage.resolution), s.loss_weight, s.repeats) for s in styles),
                drawn and self._class_pictures(drawn, stage.resolution),
                wanted and self._held_out(styles[0], stage.resolution, wanted.num_validation_images),
            )
            for stage in section.resolutions
        ]

    def _pictures(self, style: StyleSource, resolution: int) -> Examples:
        pictures = self._of(style, Split.TRAIN)
        return self._encoded(style, pictures, resolution, self.recipe.training.augmentation, "")

    def _held_out(self, style: StyleSource, resolution: int, limit: int) -> Examples | None:
        """A style of its own may have none: then it has no validation loss."""
        pictures = self._of(style, Split.REFERENCE)[:limit]
        return None if not pictures else self._encoded(style, pictures, resolution, None, f"held out {limit}")

    def _of(self, style: StyleSource, split: Split) -> list[Picture]:
        pictures = [p for p in read_pictures(self.place.layout, style.dataset) if p.split is split]
        return sorted(pictures, key=lambda p: p.sha256 + p.caption)

    def _encoded(
        self,
        style: StyleSource,
        pictures: Sequence[Picture],
        resolution: int,
        augmentation: AugmentationSection | None,
        part: str,
    ) -> Examples:
        step = self.recipe.training.bucket_reso_steps
        named = {p.sha256 + p.caption: p for p in pictures}
        shapes: dict[tuple[int, int], list[str]] = {}
        for name, picture in named.items():
            shapes.setdefault(bucket_of(picture.width, picture.height, resolution, step), []).append(name)
        size_of = {name: size for size, group in shapes.items() for name in group}

        def read(name: str, view: int) -> Captioned:
            return self._captioned(named[name], size_of[name], augmentation, view)

        prompt = put_tokens(style.instance_prompt, self.recipe.new_tokens)
        how = self._how(prompt, augmentation.views if augmentation else 1)
        key = self._key(style.dataset.id, part, resolution, step, how, augmentation)
        groups = [shapes[size] for size in sorted(shapes)]
        return encode_examples(self.pipeline, groups, read, how, self.place.layout.cache(key), reporter())

    def _captioned(
        self, picture: Picture, size: tuple[int, int], augmentation: AugmentationSection | None, view: int
    ) -> Captioned:
        data = read_picture(self.place.layout, picture)
        caption, look = picture.caption, PLAIN
        if augmentation:
            options = augmentation.random_flip, augmentation.random_crop, augmentation.color_jitter
            look = draw_view(*options, picture.sha256, view)
            if augmentation.shuffle_caption:
                caption = shuffle_caption(caption, picture.sha256, view)
        ready = prepare(data, size, look)
        words = put_tokens(caption, self.recipe.new_tokens)
        return Captioned(picture.sha256[:12], words, ready.pixels, ready.original_size, ready.crop)

    def _class_pictures(self, drawn: ClassPictures, resolution: int) -> Examples:
        read = partial(_class_picture, drawn, resolution)
        names, how = [str(index) for index in range(len(drawn.jobs))], self._how("", 1)
        folder = self.place.layout.cache(self._key(drawn.key, "", resolution, None, how, None))
        return encode_examples(self.pipeline, [names], read, how, folder, reporter())

    def _how(self, instance_prompt: str, views: int) -> Encoding:
        section = self.recipe.training
        frozen = section.text_encoder_lr is None and section.textual_inversion is None
        return Encoding(instance_prompt, frozen, section.clip_skip, views)

    def _key(
        self,
        source: str,
        part: str,
        resolution: int,
        step: int | None,
        how: Encoding,
        augmentation: AugmentationSection | None,
    ) -> str:
        looks = augmentation and augmentation.model_dump()
        model, tokens = sdxl.identity(self.recipe.model), self.recipe.new_tokens
        precision = self.recipe.training.mixed_precision, self.pipeline.vae.dtype
        return examples_key(source, part, model, resolution, step, str(how), looks, tokens, precision)


def _class_picture(drawn: ClassPictures, resolution: int, name: str, _view: int) -> Captioned:
    index = int(name)
    ready = prepare(drawn.path(index).read_bytes(), (resolution, resolution))
    return Captioned(f"class {name}", drawn.jobs[index].text, ready.pixels, ready.original_size, ready.crop)
