"""Features: of pictures and texts, computed once and kept; and everything that a run's scores are computed from."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naruto_core.artifacts import sha256_file
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import DatasetVersion, Picture, Prompt, PromptSuite, Sample, Split, Variant
from naruto_core.errors import RecordDamaged
from naruto_core.prompts import join_caption
from naruto_core.recipe_sections import ReferencePart
from naruto_core.scoring.feature_set import Extra, Features, FeatureSet, RunFeatures
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.registry import extractor_label
from naruto_core.scoring.sample_metrics import cosines, is_blank, load_head
from naruto_core.store.embedding_cache import EmbeddingCache, Embeddings
from tasks.context import RunContext, TaskContext, exclusive_device
from tasks.progress import unit_reporter

Load = Callable[[], Image.Image]
Rows = NDArray[np.float16]
_TEXTS_AT_ONCE = 256
_AGAIN = "`naruto run` with the choices of its run draws it again."


def sample_features(
    context: TaskContext, samples: Sequence[Sample], extractor: Extractor, batch_size: int, stage: str
) -> Embeddings:
    """Features of `samples`, in their order, and which of them are blank."""
    loads = {sample.sha256: partial(_open, context, sample) for sample in samples}
    return _embed(context, [sample.sha256 for sample in samples], loads, extractor, batch_size, stage)


def real_features(
    context: TaskContext, pictures: Sequence[Picture], extractor: Extractor, resolution: int, batch_size: int
) -> Rows:
    """Features of `pictures` of a dataset version, prepared as training saw them."""
    contents = [f"{picture.sha256}@{resolution}" for picture in pictures]
    loads = {
        content: partial(_open_real, context, picture, resolution)
        for content, picture in zip(contents, pictures, strict=True)
    }
    return _embed(context, contents, loads, extractor, batch_size, "score real").features


def text_features(context: TaskContext, texts: Sequence[str], extractor: Extractor) -> Rows:
    """Features (n, d) of `texts`; ModelUnusable for an extractor without a text tower."""
    contents = [f"text:{hashlib.sha256(text.encode()).hexdigest()}" for text in texts]
    by_content = dict(zip(contents, texts, strict=True))
    with EmbeddingCache(context.layout.embeddings) as cache:
        missing = cache.missing(extractor.id, contents)
        with exclusive_device(context, "score texts") if missing else nullcontext():
            for start in range(0, len(missing), _TEXTS_AT_ONCE):
                batch = missing[start : start + _TEXTS_AT_ONCE]
                rows = embed_texts(extractor, [by_content[content] for content in batch])
                cache.add(extractor.id, batch, rows, [False] * len(batch))
        return cache.read(extractor.id, contents).features


def _open(context: TaskContext, sample: Sample) -> Image.Image:
    """The sample's picture, if it is still the one that was recorded."""
    path = context.layout.root / sample.path
    if not path.exists():
        raise RecordDamaged(f"the picture {sample.path} is gone; {_AGAIN}")
    if sha256_file(path) != sample.sha256:
        raise RecordDamaged(f"the picture {sample.path} is not the one that was recorded; {_AGAIN}")
    return Image.open(path)


def _open_real(context: TaskContext, picture: Picture, resolution: int) -> Image.Image:
    return Image.fromarray(prepare(read_picture(context.layout, picture), (resolution, resolution)).pixels)


@dataclass(slots=True)
class _PictureReader:
    """Opens pictures and notes, by content, which are blank."""

    loads: Mapping[str, Load]
    blank: dict[str, bool]

    def __call__(self, content: str) -> Image.Image:
        picture = self.loads[content]()
        self.blank[content] = is_blank(picture)
        return picture


def _embed(
    context: TaskContext,
    contents: Sequence[str],
    loads: Mapping[str, Load],
    extractor: Extractor,
    batch_size: int,
    stage: str,
) -> Embeddings:
    """The features of `contents`; what was not kept yet is computed and kept, batch by batch."""
    with EmbeddingCache(context.layout.embeddings) as cache:
        if missing := cache.missing(extractor.id, contents):
            reader, done, report = _PictureReader(loads, {}), 0, unit_reporter(stage, len(missing), "picture")
            with exclusive_device(context, stage):
                for rows in embed_pictures(extractor, [partial(reader, content) for content in missing], batch_size):
                    batch = missing[done : done + len(rows)]
                    cache.add(extractor.id, batch, rows, [reader.blank.pop(content) for content in batch])
                    done += len(rows)
                    report(done)
        return cache.read(extractor.id, contents)


@dataclass(frozen=True, slots=True)
class RealPictures:
    """A dataset version's pictures by what they are for.

    `reference` is compared with, `perfect` stands for what a perfect model would draw. Of either, those that were not
    trained on are `new`: all of one of them, or none.
    """

    reference: tuple[Picture, ...]
    perfect: tuple[Picture, ...]
    trained_on: tuple[Picture, ...]
    new: tuple[Picture, ...]


def in_order(samples: Sequence[Sample], suite: PromptSuite) -> tuple[Sample, ...]:
    """Seed by seed, so that the first n are spread over all prompts."""
    seeds, prompts = list(suite.seeds), [prompt.slug for prompt in suite.prompts]
    return tuple(sorted(samples, key=lambda s: (seeds.index(s.seed), prompts.index(s.prompt))))


def real_pictures(context: TaskContext, dataset: DatasetVersion, part: ReferencePart, drawn: int) -> RealPictures:
    """The held-out or the training part is the reference, and the other one what a perfect model would draw.

    Where nothing is held out, as many pictures as were `drawn`, at most half of all, are left out of the reference.
    """
    pictures = tuple(sorted(read_pictures(context.layout, dataset), key=lambda picture: picture.sha256))
    new, trained_on = (tuple(p for p in pictures if p.split is split) for split in (Split.REFERENCE, Split.TRAIN))
    if not new:
        aside = min(drawn, len(pictures) // 2)
        return RealPictures(pictures[aside:], pictures[:aside], pictures, ())
    reference, perfect = (new, trained_on) if part == "held-out" else (trained_on, new)
    return RealPictures(reference, perfect, trained_on, new)


def run_features(context: RunContext) -> RunFeatures:
    """Features of all samples of the run and of the dataset's pictures, by every extractor of the recipe."""
    section, recorded = context.recipe.scoring, context.store.samples(context.run.id)
    samples = {v: in_order([s for s in recorded if s.variant is v], context.suite) for v in Variant}
    samples = {variant: rows for variant, rows in samples.items() if rows}
    slugs = [sample.prompt for sample in next(iter(samples.values()))]
    by_slug = {prompt.slug: prompt for prompt in context.suite.prompts}
    real = real_pictures(context, context.dataset, section.reference, len(slugs))
    inputs = _Inputs(context, samples, [by_slug[slug] for slug in slugs], real)
    sets, pairs = inputs.extractor(section.set_extractor), inputs.extractor(section.pair_extractor)
    of_sets = inputs.feature_set(section.set_extractor)
    return RunFeatures(
        samples=samples,
        sets=of_sets,
        pairs=of_sets if pairs is sets else inputs.feature_set(section.pair_extractor),
        further_sets=tuple(inputs.feature_set(name) for name in section.more_set_extractors),
        texts=inputs.texts(pairs),
        contents=text_features(context, [prompt.content for prompt in inputs.prompts], pairs),
        captions=inputs.captions(pairs),
        training=inputs.of_real(real.trained_on, sets),
        held_out=inputs.of_real(real.new, sets) if real.new else None,
        blank={variant: inputs.of_drawn(variant, sets).blank for variant in samples},
        extras=inputs.extras(pairs),
        training_names=tuple(picture.sha256[:12] for picture in real.trained_on),
        cmmd=inputs.feature_set(section.cmmd_extractor) if section.cmmd_extractor else None,
        tags={prompt.slug: prompt.tags for prompt in context.suite.prompts},
    )


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is embedded: samples by variant, their prompts row by row, real pictures."""

    context: RunContext
    samples: Mapping[Variant, tuple[Sample, ...]]
    prompts: Sequence[Prompt]
    real: RealPictures
    extractors: dict[str, Extractor] = field(default_factory=dict[str, Extractor])

    def extractor(self, name: str) -> Extractor:
        """The extractor `name` of the recipe, loaded once."""
        if name not in self.extractors:
            self.extractors[name] = load_extractor(name, lambda: self.context.device)
        return self.extractors[name]

    def of_drawn(self, variant: Variant, extractor: Extractor) -> Embeddings:
        rows, size = self.samples[variant], self.context.recipe.scoring.batch_size
        return sample_features(self.context, rows, extractor, size, f"score {variant}")

    def of_real(self, pictures: Sequence[Picture], extractor: Extractor) -> Features:
        resolution, size = self.context.recipe.generation.resolution, self.context.recipe.scoring.batch_size
        return real_features(self.context, pictures, extractor, resolution, size)

    def feature_set(self, name: str) -> FeatureSet:
        extractor = self.extractor(name)
        drawn = {variant: self.of_drawn(variant, extractor).features for variant in self.samples}
        reference, perfect = (self.of_real(part, extractor) for part in (self.real.reference, self.real.perfect))
        slugs = [prompt.slug for prompt in self.prompts]
        return FeatureSet(extractor.id, slugs, drawn, reference, perfect, extractor_label(name))

    def texts(self, extractor: Extractor) -> Features:
        return text_features(self.context, [prompt.text for prompt in self.prompts], extractor)

    def captions(self, extractor: Extractor) -> Features:
        phrase = self.context.recipe.instance_prompt
        return text_features(self.context, [join_caption(phrase, p.caption) for p in self.real.perfect], extractor)

    def extras(self, pairs: Extractor) -> dict[str, Extra]:
        """Metrics of the recipe's own choice."""
        section, extras = self.context.recipe.scoring, dict[str, Extra]()
        if section.preference_model:
            judge = load_extractor(section.preference_model, lambda: self.context.device)
            texts = self.texts(judge)
            values = {variant: cosines(self.of_drawn(variant, judge).features, texts) for variant in self.samples}
            values[Variant.REAL] = cosines(self.of_real(self.real.perfect, judge), self.captions(judge))
            extras["preference"] = Extra(judge.id, values)
        if section.aesthetic_head:
            head = load_head(Path(section.aesthetic_head))
            values = {variant: head(self.of_drawn(variant, pairs).features) for variant in self.samples}
            values[Variant.REAL] = head(self.of_real(self.real.perfect, pairs))
            extras["aesthetic"] = Extra(f"{pairs.id}+{head.id}", values)
        return extras
