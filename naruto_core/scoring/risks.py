"""Which risks a run is examined for, and with which of its features."""

from collections.abc import Iterator

from naruto_core.domain import Finding, PromptSuite, Variant
from naruto_core.errors import NarutoError
from naruto_core.recipe import ScoringSection
from naruto_core.scoring import findings
from naruto_core.scoring.catalogue import SET_METRICS
from naruto_core.scoring.copying import nearest
from naruto_core.scoring.evidence import compared, estimate
from naruto_core.scoring.run_features import RunFeatures, Values, Vector


def find_risks(
    run_id: str, features: RunFeatures, values: Values, suite: PromptSuite, section: ScoringSection
) -> Iterator[Finding]:
    """Blank pictures, overfitting, memorization, and against the base generalisation and collapse."""
    yield findings.find_blanks(run_id, {str(v): of["blank"] for v, of in values.items() if "blank" in of})
    if Variant.ADAPTED not in values:
        return
    adapted, prompts, seed = values[Variant.ADAPTED], features.prompts(), section.seed
    who = "held-out pictures" if features.new is not None else "training pictures (to the other ones)"
    if "copying" in adapted and "copying" in values[Variant.REAL]:
        new = values[Variant.REAL]["copying"]
        yield findings.find_overfitting(run_id, adapted["copying"], new, prompts, seed, who)
        yield _memorization(run_id, features, new, who)
    if Variant.BASE not in values:
        return
    base, tags = values[Variant.BASE], {prompt.slug: prompt.tags for prompt in suite.prompts}
    if "clip-content" in base and "clip-content" in adapted:
        pair = base["clip-content"], adapted["clip-content"]
        yield findings.find_generalisation(run_id, *pair, prompts, tags, seed)
    yield _collapse(run_id, features, section)


def _memorization(run_id: str, features: RunFeatures, new: Vector, who: str) -> Finding:
    cosines, which = nearest(features.sets.drawn[Variant.ADAPTED], features.training)
    samples = [f"{s.id} ({s.prompt}, seed {s.seed})" for s in features.samples[Variant.ADAPTED]]
    names = features.training_names or [f"training picture {i}" for i in range(len(features.training))]
    return findings.find_memorization(run_id, cosines, new, samples, [names[i] for i in which.tolist()], who)


def _collapse(run_id: str, features: RunFeatures, section: ScoringSection) -> Finding:
    evidence, by_name = features.sets, {metric.name: metric for metric in SET_METRICS}
    pair = evidence.drawn[Variant.BASE], evidence.drawn[Variant.ADAPTED]
    try:
        shift, spread = (
            compared(evidence, by_name[name], *pair, section.resamples, section.seed) for name in ("mmd", "vendi")
        )
        kinds = (estimate(evidence, by_name["vendi"], variant) for variant in (Variant.ADAPTED, Variant.REAL))
        return findings.find_collapse(run_id, shift, spread, *kinds)
    except NarutoError as error:
        return Finding(run_id, "collapse", True, f"collapse cannot be judged: {error}")
