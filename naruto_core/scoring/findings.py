"""Findings: the risks that scores alone do not show, each checked in every run and reported in one sentence.

Arguments: `run_id` is the run's; `drawn` (n,) and `held_out` (m,) are cosines to the nearest training picture, of drawn
pictures and of pictures that were not trained on; `prompts` (n,) are the drawn pictures' prompts; `calibration` names
the pictures of `held_out` in the sentence.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from naruto_core.domain import NOT_MEASURED, Finding
from naruto_core.errors import amount
from naruto_core.intervals import LEVEL, Estimate, exact_share, share_estimate
from naruto_core.scoring import memorization
from naruto_core.scoring.feature_set import StylePreference, Vector
from naruto_core.scoring.memorization import Nearness
from naruto_core.scoring.resampling import (
    LEAST_PROMPTS,
    Difference,
    difference,
    holm,
    mean_measure,
)

FUSED_MODEL = "fused model"
MODEL_CHANGE = "model change"
TRUNCATED_TEXT = "truncated text"
TRUNCATED_FOR_SCORES = "truncated for scores"
SAME_PICTURE = 4.0  # grey levels, mean of a picture that was drawn again; see docs/decisions/0079-picture-cache.md
# The smallest size that matters, of each finding that measures one: what is smaller is no warning, however significant.
SMALL_EFFECT = 0.25  # generalisation: standard deviations of the base's scores (Cohen 1988: 0.2 is a small effect)
HARDLY_MOVED = 1.0  # movement: grey levels; rounding alone gave 0.5 between fused and adapted model, see decision 79
OVERFITTED = 0.03  # overfitting: three times the share that is expected; a single copy is found by memorization
LOST_VARIETY = 0.1  # collapse: of real pictures' Vendi score; drawing two of eight hair colours costs 0.19
LEAST_BLANK = 1  # blank pictures: no prompt asks for an empty picture, so that each one is a failure
LEAST_COPIES = 1  # memorization: each copy may be somebody's picture
CUT_CAPTIONS = 0.01  # truncated text: a share of the captions; each cut prompt counts, because its samples are measured
LEAST_FOR_RANKS = round(1 / memorization.FLAGGED) - 1  # held-out pictures; with fewer no rank is as small as FLAGGED


def find_overfitting(run_id: str, drawn: Vector, held_out: Vector, prompts: Sequence[str], calibration: str) -> Finding:
    """Whether drawn pictures lie nearer to training pictures than held-out pictures do."""
    if len(held_out) < LEAST_FOR_RANKS:
        sentence = f"copying cannot be judged: {len(held_out)} {calibration} are too few to compare with."
        return Finding(run_id, "overfitting", True, sentence, {"held_out": float(len(held_out))})
    ranks = memorization.ranks(drawn, held_out)
    is_flagged = (ranks <= memorization.FLAGGED).astype(np.float64)
    flagged = share_estimate(is_flagged, prompts)
    if len(set(prompts)) < LEAST_PROMPTS:
        sentence = (
            f"copying cannot be judged with n = {_prompts(len(set(prompts)))}: at least {LEAST_PROMPTS} are needed."
        )
        return Finding(run_id, "overfitting", True, sentence, {"flagged": flagged.value})
    by_chance = flagged.low <= memorization.most_by_chance(len(held_out))
    warning = flagged.value >= OVERFITTED and not by_chance
    reason = "no more than chance explains" if by_chance else f"less than {OVERFITTED:.0%}, which is too few to matter"
    sentence = (
        f"{flagged.value:.1%} [{flagged.low:.1%}, {flagged.high:.1%}] of the adapted pictures lie nearer to a training "
        f"picture than 99 % of {calibration} do, where 1 % is expected: "
        f"{'look at the nearest pairs, they may be copies' if warning else reason}."
    )
    figures = {
        "flagged": flagged.value,
        "low": flagged.low,
        "high": flagged.high,
        "median_rank": float(np.median(ranks)),
    }
    return Finding(run_id, "overfitting", warning, sentence, figures)


def find_memorization(
    run_id: str, samples: Sequence[str], features: Nearness, pixels: Nearness | None, calibration: str
) -> Finding:
    """Every drawn picture that is a copy of a training picture, by name, and how many more there may be.

    `samples` (n names) are the drawn pictures. `features` finds copies of whole pictures, `pixels` crops and mirrored
    copies too (None: not compared). Each has half of `memorization.FALSE_ALARM`.
    """
    n, doubles = len(samples), len(features.calibrating) - features.new
    left_out = f", {doubles} doubles of training pictures left out" if doubles else ""
    if features.new < memorization.LEAST_HELD_OUT:
        sentence = (
            f"memorization cannot be judged: {features.new} {calibration}{left_out} are too few to calibrate with, at "
            f"least {memorization.LEAST_HELD_OUT} are needed."
        )
        return Finding(run_id, "memorization", True, sentence, {"held_out": float(features.new)})
    margin = features.margin(memorization.FALSE_ALARM / 2)
    pixel_margin = math.inf if pixels is None else pixels.margin(memorization.FALSE_ALARM / 2)
    pairs = _copies(samples, features, margin, "cosine")
    if pixels is not None:
        pairs |= _copies(samples, pixels, pixel_margin, "pixels of a crop or mirrored crop") | pairs
    share = exact_share(len(pairs) / n, n)
    low, high = share.low, share.high
    compared = f"; pixels of crops and mirrored crops, correlation above {pixel_margin:.6f}"
    count = (
        f"{len(pairs)} of {n} drawn pictures lie nearer to a training picture than all {features.new} "
        f"{calibration}{left_out} by the calibrated margin (cosine above {margin:.6f}"
        f"{compared if pixel_margin < math.inf else ', whole pictures only'})"
    )
    if pairs:
        sentence = f"{count}, {len(pairs) / n:.1%} [{low:.1%}, {high:.1%}] are copies: {'; '.join(pairs.values())}."
    elif high <= memorization.NO_SIGN:
        sentence = f"no sign of memorization: {count}; at most {high:.1%} (95 %) do."
    else:
        sentence = f"memorization cannot be excluded: {count}, but up to {high:.1%} (95 %) may: draw more pictures."
    figures = {"copies": float(len(pairs)), "n": float(n), "low": low, "high": high, "margin": margin}
    figures |= {"pixel_margin": pixel_margin} if pixel_margin < math.inf else {}
    warning = len(pairs) >= LEAST_COPIES or high > memorization.NO_SIGN
    return Finding(run_id, "memorization", warning, sentence, figures)


def _copies(samples: Sequence[str], nearness: Nearness, margin: float, measure: str) -> dict[int, str]:
    """The pictures beyond the margin, nearest first: {row: "sample is training picture (measure value)"}."""
    return {
        i: f"{samples[i]} is {nearness.nearest[i]} ({measure} {nearness.drawn[i]:.4f})"
        for i in np.argsort(-nearness.drawn, kind="stable").tolist()
        if nearness.drawn[i] > margin
    }


def find_collapse(run_id: str, shift: Difference, spread: Difference, adapted: Estimate, real: Estimate) -> Finding:
    """Whether the adapted set came nearer to the reference while its variety fell below that of real pictures.

    A warning needs a loss of `LOST_VARIETY` or more against real pictures. Where a collapse would look like this, and
    chance may explain it, "no sign" is not said.
    `shift` and `spread` are adapted minus base, of the distance to the reference and of the Vendi score.
    """
    if shift.high is None or spread.high is None or shift.p is None:
        sentence = f"collapse cannot be judged with n = {_prompts(shift.prompts)}: at least {LEAST_PROMPTS} are needed."
        return Finding(run_id, "collapse", True, sentence, {"vendi": adapted.value, "vendi_real": real.value})
    nearer, fewer = shift.high < 0, spread.high < 0
    lost = adapted.value <= (1 - LOST_VARIETY) * real.value
    warning = nearer and fewer and lost and adapted.high < real.low
    sentence = (
        f"the adapted set holds {adapted.value:.1f} different pictures (Vendi score), real ones {real.value:.1f} "
        f"and the base {adapted.value - spread.value:.1f} at the same n: "
    )
    if warning:
        sentence += "it comes nearer to the reference by drawing less variety; distances flatter such a model."
    elif lost and shift.value < 0 and spread.value < 0:
        sentence += "a collapse cannot be excluded, because chance may explain these differences: draw more prompts."
    else:
        sentence += "no sign of collapse."
    figures = {"vendi": adapted.value, "vendi_real": real.value, "shift": shift.value, "spread": spread.value}
    return Finding(run_id, "collapse", warning, sentence, figures)


def find_generalisation(
    run_id: str,
    base: Vector,
    adapted: Vector,
    prompts: Sequence[str],
    tags: Mapping[str, Sequence[str]],
    preference: StylePreference | None = None,
) -> Finding:
    """The kinds of prompts (tags) that the adapted model follows less well than the base.

    `base` and `adapted` (n,) are sample scores, row by row of the same prompt and seed; `tags` are by prompt. Reported
    is a difference that is significant after Holm's correction over the tags that can be judged (`judged_tags`), and
    at least `SMALL_EFFECT` standard deviations of the base's scores. What the network itself may prefer the new style
    by (`preference`, where it is known) is allowed for in every tag, as in the comparison over all prompts.
    """
    names = np.asarray(prompts)
    rows = {tag: np.isin(names, [p for p, of in tags.items() if tag in of]) for tag in _tags(prompts, tags)}
    counts = {tag: len(set(names[selected].tolist())) for tag, selected in rows.items()}
    judged, least = judged_tags(counts)
    smallest = SMALL_EFFECT * float(np.std(base))
    changes = {
        tag: difference(
            mean_measure(np.concatenate([base[rows[tag]], adapted[rows[tag]]])),
            names[rows[tag]].tolist(),
        )
        for tag in rows
    }
    if preference is not None:
        changes = {tag: change.allowing_for(preference.low, preference.high) for tag, change in changes.items()}
    adjusted = dict(zip(judged, holm([changes[tag].p or 0.0 for tag in judged]), strict=True))
    worse = [
        f"{tag} ({change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}], {_prompts(counts[tag])})"
        for tag, change in changes.items()
        if tag in adjusted and adjusted[tag] < LEVEL and change.value <= -smallest
        if change.low is not None and change.high is not None and change.high < 0
    ]
    few = [f"{tag} ({_prompts(counts[tag])})" for tag in rows if tag not in adjusted]
    if not judged:
        sentence = "generalisation cannot be judged by kind of prompt."
    elif worse:
        sentence = f"the adapter agrees less with prompts of these kinds than the base does: {', '.join(worse)}."
    else:
        sentence = (
            f"no kind of prompt is followed less well than by the base by {smallest:.3f} or more, as far as can be "
            f"told: {', '.join(f'{tag} ({_prompts(counts[tag])})' for tag in judged)}."
        )
    if few:
        sentence += f" Cannot be judged: {', '.join(few)}; at least {least} prompts are needed."
    if judged and preference is not None:
        sentence += (
            f" {preference.low:+.3f} to {preference.high:+.3f}, which may be the network's own preference of a style, "
            "is allowed for."
        )
    figures = {tag: change.value for tag, change in changes.items()}
    return Finding(run_id, "generalisation", bool(worse), sentence, figures)


def judged_tags(counts: Mapping[str, int]) -> tuple[list[str], int]:
    """The tags that can be judged, by their number of prompts; and the number of prompts that a further tag needs.

    The smallest p-value of n prompts is 2^(1 - n), see `LEAST_PROMPTS`. Times the number of tags that are judged, it
    must be below `LEVEL`; tags with the fewest prompts are left out until it is. Scores play no part in this choice.
    """
    judged = [tag for tag, count in counts.items() if count >= LEAST_PROMPTS]
    while judged and 2.0 ** (1 - min(counts[tag] for tag in judged)) * len(judged) >= LEVEL:
        fewest = min(counts[tag] for tag in judged)
        judged = [tag for tag in judged if counts[tag] > fewest]
    least = LEAST_PROMPTS
    while 2.0 ** (1 - least) * (len(judged) + 1) >= LEVEL:
        least += 1
    return judged, least


def _prompts(n: int) -> str:
    return amount(n, "prompt")


def _tags(prompts: Sequence[str], tags: Mapping[str, Sequence[str]]) -> list[str]:
    """The tags of prompts that were drawn."""
    return sorted({tag for prompt in set(prompts) for tag in tags.get(prompt, ())})


def find_blanks(run_id: str, blank: Mapping[str, Vector]) -> Finding:
    """The number of pictures without content; `blank` is 0 or 1 (n,) by variant. `LEAST_BLANK` are a warning."""
    counts = {variant: float(values.sum()) for variant, values in blank.items()}
    blank_counts = ", ".join(f"{count:.0f} of {variant}" for variant, count in counts.items() if count)
    sentence = f"pictures without content: {blank_counts}." if blank_counts else "no picture is without content."
    return Finding(run_id, "blank pictures", sum(counts.values()) >= LEAST_BLANK, sentence, counts)


def find_model_change(run_id: str, mean: Sequence[float], expected: int) -> Finding:
    """Whether a run's model still draws the pictures that it drew for the run.

    `mean` (n values) are the mean differences of the pixels of each canary picture, drawn now, from the recorded sample
    of the same prompt and seed, in grey levels from 0 to 255; `expected` pictures were asked for.
    """
    n, worst, changed = len(mean), max(mean), sum(value > SAME_PICTURE for value in mean)
    pictures = amount(n, "canary picture")
    few = f" (of {expected} that were asked for: the run has no more samples)" if n < expected else ""
    sentence = (
        f"the model has changed: {changed} of {pictures}{few} differ{'s' if changed == 1 else ''} from the run's own "
        f"samples of the same prompts and seeds by more than {SAME_PICTURE:g} of 255 grey levels (at most "
        f"{worst:.2f}); compare the base model's files, the adapter and the versions of libraries with those of the "
        "run."
        if changed
        else f"the model is steady: {pictures}{few} differ{'s' if n == 1 else ''} from the run's own samples of the "
        f"same prompts and seeds by at most {worst:.2f} of 255 grey levels on average (limit {SAME_PICTURE:g}). What "
        "differs in served pictures comes from what people ask for."
    )
    figures = {"pictures": float(n), "changed": float(changed), "worst_mean": worst}
    return Finding(run_id, MODEL_CHANGE, bool(changed), sentence, figures)


def find_fused_difference(run_id: str, largest: Sequence[float], mean: Sequence[float]) -> Finding:
    """Whether the fused model draws the adapted model's pictures.

    `largest` and `mean` (n values) are the largest and the mean difference of the pixels of each pair of pictures with
    the same prompt and seed, in grey levels from 0 to 255.
    """
    n, worst, overall = len(mean), max(mean), sum(mean) / len(mean)
    warning = worst > SAME_PICTURE
    sentence = (
        f"in {amount(n, 'picture')} of the same prompts and seeds the fused model differs from the adapted model by at "
        f"most {max(largest):.0f} of 255 in a pixel and {overall:.2f} on average (most in one picture: {worst:.2f}): "
    )
    sentence += (
        f"more than rounding did on the miniature ({SAME_PICTURE:g}); look at both, and fuse again or export the "
        "adapter instead."
        if warning
        else f"below the limit of {SAME_PICTURE:g}, which rounding did not reach on the miniature."
    )
    figures = {"pictures": float(n), "largest": max(largest), "mean": overall, "worst_mean": worst}
    return Finding(run_id, FUSED_MODEL, warning, sentence, figures)


def find_hardly_moved(run_id: str, differences: Vector, gauges: Mapping[str, float]) -> Finding:
    """Whether the adapter changed what the base draws.

    `differences` (n,) are mean absolute differences, in grey levels from 0 to 255, of the small pictures of base and
    adapted model with the same prompt and seed; `gauges` may explain them: "d" is Prodigy's step size at the end of
    the training over that of its first step, "largest B" the largest absolute value of the adapter's B matrices (all
    are 0 before the first step).
    """
    mean, n = float(np.mean(differences)), len(differences)
    explained = {
        "d": "Prodigy's step size d is {:.3g} times that of its first step",
        "largest B": "the largest value of the adapter's B matrices is {:.1e}",
    }
    reasons = "; ".join(text.format(gauges[name]) for name, text in explained.items() if name in gauges)
    warning = mean < HARDLY_MOVED
    sentence = (
        "the adapter has hardly moved: train longer, or with a higher learning rate"
        if warning
        else "the adapter changes the pictures"
    )
    sentence += (
        f": in {amount(n, 'pair')} of the same prompt and seed, its pictures differ from the base's by {mean:.2f} "
        f"of 255 grey levels on average (limit {HARDLY_MOVED:g}){'; ' + reasons if reasons else ''}."
    )
    figures = {"pictures": float(n), "mean": mean} | dict(gauges)
    return Finding(run_id, "movement", warning, sentence, figures)


def find_unusable(run_id: str, blind: Sequence[str], unmeasured: Sequence[str]) -> list[Finding]:
    """Metrics that cannot tell base from real pictures here, and metrics that were not measured, with the reason."""
    unusable: list[Finding] = []
    if blind:
        reason = "they cannot tell base from real pictures, or prefer the base's"
        sentence = f"these do not discriminate here ({reason}): {', '.join(blind)}."
        unusable.append(Finding(run_id, "blind metrics", True, sentence, {"count": float(len(blind))}))
    if unmeasured:
        unusable.append(Finding(run_id, NOT_MEASURED, True, "; ".join(unmeasured), {"count": float(len(unmeasured))}))
    return unusable
