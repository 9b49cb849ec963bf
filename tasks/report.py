"""Report: everything about one run that a person wants to see, gathered for the page."""

from pathlib import Path

import numpy as np
from PIL import Image

from naruto_core.artifacts import write_atomically
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture
from naruto_core.domain import Picture, Sample, Variant
from naruto_core.report.page import Neighbours, ReportFacts, image_url, picture_url, report_page
from naruto_core.scoring import memorization
from naruto_core.scoring.feature_set import RunFeatures
from naruto_core.scoring.sample_metrics import nearness_of_held_out
from tasks.compare import compare_sides, side_of
from tasks.context import TaskContext, recorded_run, with_run
from tasks.features import real_pictures, run_features

NEIGHBOURS, MOST_NEIGHBOURS = 12, 48  # pairs shown; the more where there are copies


def write_report(context: TaskContext, name: str, path: Path) -> Path:
    """One self-contained HTML page on the run called `name`, at `path`; NarutoError for a run without scores."""
    run = context.store.run(name)
    opened = recorded_run(context, run.id)
    recipe, suite, dataset = opened.recipe, opened.suite, opened.dataset
    run_context = with_run(context, opened)
    features = run_features(run_context)
    samples = [sample for sample in context.store.samples(run.id) if sample.seed == suite.seeds[0]]
    both = {Variant.BASE, Variant.ADAPTED} <= features.samples.keys()
    base, adapted = (side_of(run_context, v.value, v, features) for v in (Variant.BASE, Variant.ADAPTED))
    real = real_pictures(context, dataset, recipe.scoring.reference, len(features.prompts()))
    findings = context.store.findings(run.id)
    copies = sum(int(finding.figures.get("copies", 0)) for finding in findings)
    facts = ReportFacts(
        run=run,
        suite=suite,
        scores=[score for score in context.store.scores(run.id) if score.sample_id is None],
        findings=findings,
        comparisons=compare_sides(context.layout, base, adapted, recipe.scoring) if both else [],
        steps=context.store.steps(run.id),
        pictures={(s.prompt, s.variant): context.layout.absolute(s.path) for s in samples},
        neighbours=_neighbours(context, features, real.trained_on, recipe.generation.resolution, copies),
    )
    write_atomically(path, report_page(facts).encode())
    return path


def _neighbours(
    context: TaskContext, features: RunFeatures, training: tuple[Picture, ...], resolution: int, copies: int
) -> list[Neighbours]:
    """The adapted pictures that come nearest to a training picture, nearest first; every copy, up to 48."""
    if Variant.ADAPTED not in features.samples:
        return []
    cosines, which = memorization.nearest(features.sets.drawn[Variant.ADAPTED], features.training)
    ranks = memorization.ranks(cosines, nearness_of_held_out(features.held_out, features.training))
    order = np.argsort(-cosines)[: max(NEIGHBOURS, min(copies, MOST_NEIGHBOURS))].tolist()
    rows = features.samples[Variant.ADAPTED]
    return [_pair(context, rows[i], training[which[i]], float(cosines[i]), float(ranks[i]), resolution) for i in order]


def _pair(
    context: TaskContext, drawn: Sample, near: Picture, cosine: float, rank: float, resolution: int
) -> Neighbours:
    data = read_picture(context.layout, near)
    prepared = Image.fromarray(prepare(data, (resolution, resolution)).pixels)
    url = picture_url(context.layout.absolute(drawn.path))
    return Neighbours(drawn.id, drawn.prompt, near.caption, url, image_url(prepared), cosine, rank)
