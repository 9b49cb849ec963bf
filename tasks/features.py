"""Features: of pictures and texts, computed once and kept; and everything that a run's scores are computed from."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open

from naruto_core.artifacts import LORA_FILE, sha256_file
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import DatasetVersion, Picture, Prompt, PromptSuite, Sample, Split, Variant
from naruto_core.errors import RecordDamaged
from naruto_core.prompts import join_caption, without_phrase
from naruto_core.recipe_sections import ReferencePart
from naruto_core.scoring.feature_set import OTHER_STYLES, Extra, Features, FeatureSet, PixelSet, RunFeatures
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor, pixel_extractor
from naruto_core.scoring.model_metrics import MODEL_METRICS
from naruto_core.scoring.registry import extractor_label
from naruto_core.scoring.sample_metrics import is_blank
from naruto_core.scoring.style_preference import known_preference
from naruto_core.store.embedding_cache import EmbeddingCache, Embeddings
from tasks.context import RunContext, TaskContext, exclusive_device
from tasks.progress import say, unit_reporter
from tasks.sharing import fetch_embeddings, publish_embeddings

if TYPE_CHECKING:
    import torch

Rows = NDArray[np.float16]
DRAWN_WORLD = "world:naruto"  # the source of pictures in the style whose preference is known
_TEXTS_AT_ONCE = 256
_AGAIN = "`naruto run` with the choices of its run draws it again."


def sample_features(
    context: TaskContext, samples: Sequence[Sample], extractor: Extractor, batch_size: int, stage: str
) -> Embeddings:
    """Features of `samples`, in their order, and which of them are blank."""
    return _embed(context, samples, 0, extractor, batch_size, stage)


def real_features(
    context: TaskContext, pictures: Sequence[Picture], extractor: Extractor, resolution: int, batch_size: int
) -> Rows:
    """Features of `pictures` of a dataset version, prepared as training saw them."""
    return _embed(context, pictures, resolution, extractor, batch_size, "score real").features


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


def content_key(source: Sample | Picture, resolution: int) -> str:
    """What the embedding cache knows a picture by; one of a dataset is prepared at `resolution`."""
    return source.sha256 if isinstance(source, Sample) else f"{source.sha256}@{resolution}"


def _open(context: TaskContext, source: Sample | Picture, resolution: int) -> Image.Image:
    """The picture, if it is still the one that was recorded."""
    if isinstance(source, Picture):
        return Image.fromarray(prepare(read_picture(context.layout, source), (resolution, resolution)).pixels)
    path = context.layout.root / source.path
    if not path.exists():
        raise RecordDamaged(f"the picture {source.path} is gone; {_AGAIN}")
    if sha256_file(path) != source.sha256:
        raise RecordDamaged(f"the picture {source.path} is not the one that was recorded; {_AGAIN}")
    return Image.open(path)


@dataclass(frozen=True, slots=True)
class EmbeddedBatch:
    """Features (b, d) of one batch of pictures, their keys, and which of them are blank."""

    contents: list[str]
    features: Rows
    blank: list[bool]


def embed_batches(
    context: TaskContext, sources: Sequence[Sample | Picture], resolution: int, extractor: Extractor, batch_size: int
) -> Iterator[EmbeddedBatch]:
    """Embed `sources` in batches of `batch_size`, and yield them one by one; the last one may be shorter."""
    blank: dict[str, bool] = {}

    def read(source: Sample | Picture, content: str) -> Image.Image:
        picture = _open(context, source, resolution)
        blank[content] = is_blank(picture)
        return picture

    contents, done = [content_key(source, resolution) for source in sources], 0
    loads = [partial(read, source, content) for source, content in zip(sources, contents, strict=True)]
    for rows in embed_pictures(extractor, loads, batch_size):
        batch = contents[done : done + len(rows)]
        yield EmbeddedBatch(batch, rows.astype(np.float16), [blank.pop(content) for content in batch])
        done += len(rows)


def missing_sources(
    cache: EmbeddingCache, sources: Sequence[Sample | Picture], resolution: int, extractor: Extractor
) -> list[Sample | Picture]:
    """Those of `sources` that have no embedding yet, each once."""
    by_content = {content_key(source, resolution): source for source in sources}
    return [by_content[content] for content in cache.missing(extractor.id, list(by_content))]


def _embed(
    context: TaskContext,
    sources: Sequence[Sample] | Sequence[Picture],
    resolution: int,
    extractor: Extractor,
    batch_size: int,
    stage: str,
) -> Embeddings:
    """The features of `sources`; what was neither kept yet nor published is computed and kept, batch by batch."""
    contents = [content_key(source, resolution) for source in sources]
    with EmbeddingCache(context.layout.embeddings) as cache:
        missing = missing_sources(cache, sources, resolution, extractor)
        if missing and fetch_embeddings(context, cache, extractor.id, contents):
            missing = missing_sources(cache, sources, resolution, extractor)
        if missing:
            done, report = 0, unit_reporter(stage, len(missing), "picture")
            with exclusive_device(context, stage):
                for batch in embed_batches(context, missing, resolution, extractor, batch_size):
                    cache.add(extractor.id, batch.contents, batch.features, batch.blank)
                    done += len(batch.contents)
                    report(done)
            publish_embeddings(context, cache, extractor.id, contents)
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


def run_pictures(context: RunContext) -> tuple[dict[Variant, tuple[Sample, ...]], RealPictures]:
    """The samples of the run by variant, and the dataset's pictures: what its scores are computed from."""
    recorded = context.store.samples(context.run.id)
    samples = {v: in_order([s for s in recorded if s.variant is v], context.suite) for v in Variant}
    samples = {variant: rows for variant, rows in samples.items() if rows}
    drawn = len(next(iter(samples.values())))
    return samples, real_pictures(context, context.dataset, context.recipe.scoring.reference, drawn)


def run_features(context: RunContext, *, risks: bool = False) -> RunFeatures:
    """Features of all samples of the run and of the dataset's pictures, by every extractor of the recipe.

    With `risks`, also what only the findings on risks need: small pictures, and numbers of the training.
    """
    section, (samples, real) = context.recipe.scoring, run_pictures(context)
    slugs = [sample.prompt for sample in next(iter(samples.values()))]
    by_slug = {prompt.slug: prompt for prompt in context.suite.prompts}
    inputs = _Inputs(context, samples, [by_slug[slug] for slug in slugs], real)
    sets, pairs = inputs.extractor(section.set_extractor), inputs.extractor(section.pair_extractor)
    of_sets = inputs.feature_set(section.set_extractor)
    return RunFeatures(
        samples=samples,
        sets=of_sets,
        pairs=of_sets if pairs is sets else inputs.feature_set(section.pair_extractor),
        further_sets=tuple(inputs.feature_set(name) for name in section.more_set_extractors),
        texts=inputs.embedded(inputs.texts(Variant.BASE), pairs),
        contents=inputs.embedded(inputs.contents(Variant.BASE), pairs),
        captions=inputs.embedded(inputs.texts(Variant.REAL), pairs),
        training=inputs.of_real(real.trained_on, sets),
        held_out=inputs.of_real(real.new, sets) if real.new else None,
        blank={variant: inputs.of_drawn(variant, sets).blank for variant in samples},
        extras=inputs.extras(),
        pixels=inputs.pixels() if risks else None,
        gauges=_training_gauges(context) if risks else {},
        other_styles=frozenset(prompt.slug for prompt in context.suite.prompts if OTHER_STYLES in prompt.tags),
        training_names=tuple(picture.sha256[:12] for picture in real.trained_on),
        cmmd=inputs.feature_set(section.cmmd_extractor) if section.cmmd_extractor else None,
        preference=known_preference(pairs.id) if context.dataset.source.startswith(DRAWN_WORLD) else None,
    )


def _training_gauges(context: RunContext) -> dict[str, float]:
    """What explains how far the adapter moved: Prodigy's d over its first value, and the largest value of B."""
    gauges: dict[str, float] = {}
    d = [step.gauges["d"] for step in context.store.steps(context.run.id) if "d" in step.gauges]
    if d and d[0] > 0:
        gauges["d"] = d[-1] / d[0]
    paths = [context.layout.absolute(adapter.path) for adapter in context.store.adapters(context.run.id)]
    of_files = [_largest_b(path) for path in paths if path.name == LORA_FILE and path.exists()]
    return gauges | ({"largest B": max(of_files)} if of_files else {})


def _largest_b(path: Path) -> float:
    """The largest absolute value of the B matrices of the adapter file at `path`, read without torch."""
    with safe_open(path, framework="numpy") as file:
        matrices = (file.get_tensor(key) for key in file.keys() if ".lora_B." in key)  # noqa: SIM118 (no mapping)
        return max((float(np.abs(matrix).max()) for matrix in matrices), default=0.0)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What is embedded: samples by variant, their prompts row by row, real pictures."""

    context: RunContext
    samples: Mapping[Variant, tuple[Sample, ...]]
    prompts: Sequence[Prompt]
    real: RealPictures
    kept: dict[str, Extractor] = field(default_factory=dict[str, Extractor])

    def extractor(self, name: str) -> Extractor:
        """The extractor `name` of the recipe. Only the two main ones are kept: others free their memory after use."""
        if name in self.kept:
            return self.kept[name]
        extractor, section = load_extractor(name, self.choose_device), self.context.recipe.scoring
        if name in (section.set_extractor, section.pair_extractor):
            self.kept[name] = extractor
        return extractor

    def of_drawn(self, variant: Variant, extractor: Extractor, rows: Sequence[int] | None = None) -> Embeddings:
        samples, size = self.samples[variant], self.context.recipe.scoring.batch_size
        chosen = samples if rows is None else [samples[row] for row in rows]
        return sample_features(self.context, chosen, extractor, size, f"score {variant}")

    def of_real(self, pictures: Sequence[Picture], extractor: Extractor) -> Features:
        resolution, size = self.context.recipe.generation.resolution, self.context.recipe.scoring.batch_size
        return real_features(self.context, pictures, extractor, resolution, size)

    def feature_set(self, name: str) -> FeatureSet:
        extractor = self.extractor(name)
        drawn = {variant: self.of_drawn(variant, extractor).features for variant in self.samples}
        reference, perfect = (self.of_real(part, extractor) for part in (self.real.reference, self.real.perfect))
        slugs = [prompt.slug for prompt in self.prompts]
        return FeatureSet(extractor.id, slugs, drawn, reference, perfect, extractor_label(name))

    # what metrics with a model of their own need: `scoring.model_metrics.Inputs`

    def choose_device(self) -> "torch.device":
        return self.context.device

    def pixels(self) -> PixelSet | None:
        """Small pictures of the adapted model and of the dataset; None without samples, or where pictures are gone."""
        if Variant.ADAPTED not in self.samples:
            return None
        extractor = pixel_extractor()
        try:
            drawn = self.of_drawn(Variant.ADAPTED, extractor).features
            base = self.of_drawn(Variant.BASE, extractor).features if Variant.BASE in self.samples else None
            training, new = self.of_real(self.real.trained_on, extractor), self.real.new
            return PixelSet(drawn, training, self.of_real(new, extractor) if new else training[:0], base)
        except RecordDamaged as error:
            say(f"pixels are not compared for copies: {error}")
            return None

    @property
    def pairs(self) -> Extractor:
        return self.extractor(self.context.recipe.scoring.pair_extractor)

    @property
    def variants(self) -> Sequence[Variant]:
        return (*self.samples, Variant.REAL)

    def texts(self, variant: Variant) -> list[str]:
        if variant is Variant.REAL:
            phrase = self.context.recipe.instance_prompt
            return [join_caption(phrase, picture.caption) for picture in self.real.perfect]
        if self.context.recipe.generation.prompt_weights:
            from naruto_core.text_encoding import without_weights  # imports torch

            return [without_weights(prompt.text) for prompt in self.prompts]
        return [prompt.text for prompt in self.prompts]

    def contents(self, variant: Variant) -> list[str]:
        if variant is Variant.REAL:
            phrase = self.context.recipe.instance_prompt
            return [without_phrase(picture.caption, phrase) or phrase for picture in self.real.perfect]
        return [prompt.content for prompt in self.prompts]

    def pictures(self, variant: Variant, extractor: Extractor, rows: Sequence[int] | None = None) -> Features:
        if variant is Variant.REAL:
            perfect = self.real.perfect
            return self.of_real(perfect if rows is None else [perfect[row] for row in rows], extractor)
        return self.of_drawn(variant, extractor, rows).features

    def embedded(self, texts: Sequence[str], extractor: Extractor) -> Features:
        return text_features(self.context, texts, extractor)

    def extras(self) -> dict[str, Extra]:
        """The metrics whose model the recipe names."""
        extras: dict[str, Extra] = {}
        for key, compute in MODEL_METRICS.items():
            if name := getattr(self.context.recipe.scoring, key):
                extras |= compute(name, self)
        return extras
