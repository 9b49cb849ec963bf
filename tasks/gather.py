"""Gather: everything that a run's scores are computed from. No model runs when all features are kept already."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture, PromptSuite, Run, Sample, Split, Variant
from naruto_core.recipe import Recipe
from naruto_core.scoring.evidence import Evidence
from naruto_core.scoring.features import Extractor, Rows, load_extractor
from naruto_core.scoring.run_features import RunFeatures
from naruto_core.training.conditioning import join_caption
from tasks.embed import real_features, sample_features, text_features
from tasks.place import Place


@dataclass(frozen=True, slots=True)
class RealPictures:
    """A dataset version's pictures by what they are for; `held_out` is False when all were trained on."""

    reference: tuple[Picture, ...]
    training: tuple[Picture, ...]
    held_out: bool


def in_order(samples: Sequence[Sample], suite: PromptSuite) -> tuple[Sample, ...]:
    """Seed by seed, so that the first n are spread over all prompts."""
    seeds, prompts = list(suite.seeds), [prompt.slug for prompt in suite.prompts]
    return tuple(sorted(samples, key=lambda s: (seeds.index(s.seed), prompts.index(s.prompt))))


def real_pictures(place: Place, dataset: DatasetVersion, drawn: int) -> RealPictures:
    """The held-out part is the reference; where nothing is held out, all but as many pictures as were `drawn`.

    Those are what real pictures are shown by ("real"); at most half of all.
    """
    pictures = sorted(read_pictures(place.layout, dataset), key=lambda picture: picture.sha256)
    reference = tuple(p for p in pictures if p.split is Split.REFERENCE)
    if reference:
        return RealPictures(reference, tuple(p for p in pictures if p.split is Split.TRAIN), held_out=True)
    aside = min(drawn, len(pictures) // 2)
    return RealPictures(tuple(pictures[aside:]), tuple(pictures[:aside]), held_out=False)


def gather(place: Place, run: Run, recipe: Recipe, suite: PromptSuite, dataset: DatasetVersion) -> RunFeatures:
    """Features of all samples of the run and of the dataset's pictures, by every extractor of the recipe."""
    section, resolution = recipe.scoring, recipe.generation.resolution
    recorded = place.store.samples(run.id)
    samples = {v: in_order([s for s in recorded if s.variant is v], suite) for v in Variant}
    samples = {variant: rows for variant, rows in samples.items() if rows}
    prompts = [sample.prompt for sample in next(iter(samples.values()))]
    real = real_pictures(place, dataset, len(prompts))
    blank: dict[Variant, NDArray[np.bool_]] = {}

    def evidence(extractor: Extractor) -> Evidence:
        drawn: dict[Variant, Rows] = {}
        for variant, rows in samples.items():
            found = sample_features(place, run, variant, rows, extractor, section.batch_size)
            drawn[variant], blank[variant] = found.rows, found.blank
        kinds = [
            real_features(place, dataset, part, extractor, resolution, section.batch_size)
            for part in (real.reference, real.training)
        ]
        return Evidence(extractor.id, prompts, drawn, *kinds)

    sets = load_extractor(section.set_extractor, place.device)
    same = section.pair_extractor == section.set_extractor
    pairs = sets if same else load_extractor(section.pair_extractor, place.device)
    of_sets = evidence(sets)
    by_slug = {prompt.slug: prompt for prompt in suite.prompts}
    asked = [by_slug[slug] for slug in prompts]
    return RunFeatures(
        samples=samples,
        sets=of_sets,
        pairs=of_sets if same else evidence(pairs),
        more=tuple(evidence(load_extractor(name, place.device)) for name in section.more_set_extractors),
        texts=text_features(place, [p.text for p in asked], pairs),
        contents=text_features(place, [p.content for p in asked], pairs),
        captions=text_features(
            place, [join_caption(recipe.training.instance_prompt, p.caption) for p in real.training], pairs
        ),
        training=of_sets.real if real.held_out else np.concatenate([of_sets.reference, of_sets.real]),
        held_out=real.held_out,
        blank=blank,
    )
