"""Gather: everything that a run's scores are computed from. No model runs when all features are kept already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture, Prompt, PromptSuite, Run, Sample, Split, Variant
from naruto_core.recipe import Recipe, ReferencePart
from naruto_core.scoring.feature_set import FeatureSet, RunFeatures
from naruto_core.scoring.features import Extractor, load_extractor
from naruto_core.scoring.sample_metrics import Extra, cosines, load_head
from naruto_core.scoring.set_metric import Features
from naruto_core.store.embedding_cache import Embedded
from naruto_core.training.latent_cache import join_caption
from tasks.embed import real_features, sample_features, text_features
from tasks.place import Place


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


def real_pictures(place: Place, dataset: DatasetVersion, wanted: ReferencePart, drawn: int) -> RealPictures:
    """The held-out or the training part is the reference, and the other one what a perfect model would draw.

    Where nothing is held out, as many pictures as were `drawn`, at most half of all, are left out of the reference.
    """
    pictures = tuple(sorted(read_pictures(place.layout, dataset), key=lambda picture: picture.sha256))
    new, trained_on = (tuple(p for p in pictures if p.split is split) for split in (Split.REFERENCE, Split.TRAIN))
    if not new:
        aside = min(drawn, len(pictures) // 2)
        return RealPictures(pictures[aside:], pictures[:aside], pictures, ())
    reference, perfect = (new, trained_on) if wanted == "held-out" else (trained_on, new)
    return RealPictures(reference, perfect, trained_on, new)


def gather(place: Place, run: Run, recipe: Recipe, suite: PromptSuite, dataset: DatasetVersion) -> RunFeatures:
    """Features of all samples of the run and of the dataset's pictures, by every extractor of the recipe."""
    section, recorded = recipe.scoring, place.store.samples(run.id)
    samples = {v: in_order([s for s in recorded if s.variant is v], suite) for v in Variant}
    samples = {variant: rows for variant, rows in samples.items() if rows}
    slugs = [sample.prompt for sample in next(iter(samples.values()))]
    by_slug = {prompt.slug: prompt for prompt in suite.prompts}
    real = real_pictures(place, dataset, section.reference, len(slugs))
    material = _Material(
        place=place,
        recipe=recipe,
        samples=samples,
        asked=[by_slug[slug] for slug in slugs],
        real=real,
    )
    sets = load_extractor(section.set_extractor, place.device)
    same = section.pair_extractor == section.set_extractor
    pairs = sets if same else load_extractor(section.pair_extractor, place.device)
    of_sets = material.evidence(sets)
    return RunFeatures(
        samples=samples,
        sets=of_sets,
        pairs=of_sets if same else material.evidence(pairs),
        more=tuple(material.evidence(load_extractor(name, place.device)) for name in section.more_set_extractors),
        texts=material.texts(pairs),
        contents=text_features(place, [prompt.content for prompt in material.asked], pairs),
        captions=material.captions(pairs),
        training=material.of_real(real.trained_on, sets),
        new=material.of_real(real.new, sets) if real.new else None,
        blank={variant: material.of_drawn(variant, sets).blank for variant in samples},
        extras=material.extras(pairs),
        training_names=tuple(picture.sha256[:12] for picture in real.trained_on),
    )


@dataclass(frozen=True, slots=True)
class _Material:
    """What there is to embed: samples by variant, the prompts asked for row by row, real pictures."""

    place: Place
    recipe: Recipe
    samples: Mapping[Variant, tuple[Sample, ...]]
    asked: Sequence[Prompt]
    real: RealPictures

    def of_drawn(self, variant: Variant, extractor: Extractor) -> Embedded:
        rows, size = self.samples[variant], self.recipe.scoring.batch_size
        return sample_features(self.place, rows, extractor, size, f"score {variant}")

    def of_real(self, pictures: Sequence[Picture], extractor: Extractor) -> Features:
        resolution, size = self.recipe.generation.resolution, self.recipe.scoring.batch_size
        return real_features(self.place, pictures, extractor, resolution, size)

    def evidence(self, extractor: Extractor) -> FeatureSet:
        drawn = {variant: self.of_drawn(variant, extractor).features for variant in self.samples}
        kinds = (self.of_real(part, extractor) for part in (self.real.reference, self.real.perfect))
        return FeatureSet(extractor.id, [prompt.slug for prompt in self.asked], drawn, *kinds)

    def texts(self, extractor: Extractor) -> Features:
        return text_features(self.place, [prompt.text for prompt in self.asked], extractor)

    def captions(self, extractor: Extractor) -> Features:
        phrase = self.recipe.training.instance_prompt
        return text_features(self.place, [join_caption(phrase, p.caption) for p in self.real.perfect], extractor)

    def extras(self, pairs: Extractor) -> dict[str, Extra]:
        """Metrics of the recipe's own choice."""
        section, found = self.recipe.scoring, dict[str, Extra]()
        if section.preference_model:
            judge = load_extractor(section.preference_model, self.place.device)
            texts = self.texts(judge)
            values = {variant: cosines(self.of_drawn(variant, judge).features, texts) for variant in self.samples}
            values[Variant.REAL] = cosines(self.of_real(self.real.perfect, judge), self.captions(judge))
            found["preference"] = Extra(judge.id, values)
        if section.aesthetic_head:
            head = load_head(Path(section.aesthetic_head))
            values = {variant: head(self.of_drawn(variant, pairs).features) for variant in self.samples}
            values[Variant.REAL] = head(self.of_real(self.real.perfect, pairs))
            found["aesthetic"] = Extra(f"{pairs.id}+{head.id}", values)
        return found
