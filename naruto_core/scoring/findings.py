"""Findings: the risks that scores alone do not show, each checked in every run and reported in one sentence.

Arguments: `run_id` is the run's; `drawn` (n,) and `held_out` (m,) are cosines to the nearest training picture, of drawn
pictures and of pictures that were not trained on; `prompts` (n,) are the drawn pictures' prompts; `calibration` names
the pictures of `held_out` in the sentence.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from naruto_core.domain import Finding
from naruto_core.recipe_sections import ScoringSection
from naruto_core.scoring import memorization
from naruto_core.scoring.feature_set import Vector
from naruto_core.scoring.resampling import (
    LEAST_PROMPTS,
    Difference,
    Estimate,
    bootstrap_share,
    difference,
    mean_measure,
)
from naruto_core.scoring.verdict import LEVEL

NOT_MEASURED = "not measured"
FUSED_MODEL = "fused model"
TRUNCATED_TEXT = "truncated text"
FUSED_LIMIT = 4.0  # grey levels, mean of a picture; measured in docs/decisions/0079-picture-cache.md
NO_SIGN = 0.05  # "no sign of memorization" is said only where at most this share (95 %) can be copies
LEAST_FOR_RANKS = round(1 / memorization.FLAGGED) - 1  # held-out pictures; with fewer no rank is as small as FLAGGED


def find_overfitting(
    run_id: str, drawn: Vector, held_out: Vector, prompts: Sequence[str], section: ScoringSection, calibration: str
) -> Finding:
    """Whether drawn pictures lie nearer to training pictures than held-out pictures do."""
    if len(held_out) < LEAST_FOR_RANKS:
        sentence = f"copying cannot be judged: {len(held_out)} {calibration} are too few to compare with."
        return Finding(run_id, "overfitting", True, sentence, {"held_out": float(len(held_out))})
    ranks = memorization.ranks(drawn, held_out)
    is_flagged = (ranks <= memorization.FLAGGED).astype(np.float64)
    flagged = bootstrap_share(is_flagged, prompts, section.resamples, section.seed)
    if not math.isfinite(flagged.low):
        sentence = (
            f"copying cannot be judged with n = {len(set(prompts))} prompts: at least {LEAST_PROMPTS} are needed."
        )
        return Finding(run_id, "overfitting", True, sentence, {"flagged": flagged.value})
    warning = flagged.low > memorization.most_by_chance(len(held_out))
    sentence = (
        f"{flagged.value:.1%} [{flagged.low:.1%}, {flagged.high:.1%}] of the adapted pictures lie nearer to a training "
        f"picture than 99 % of {calibration} do, where 1 % is expected: "
        f"{'look at the nearest pairs, they may be copies' if warning else 'no more than chance explains'}."
    )
    figures = {
        "flagged": flagged.value,
        "low": flagged.low,
        "high": flagged.high,
        "median_rank": float(np.median(ranks)),
    }
    return Finding(run_id, "overfitting", warning, sentence, figures)


def find_memorization(
    run_id: str, drawn: Vector, held_out: Vector, samples: Sequence[str], nearest: Sequence[str], calibration: str
) -> Finding:
    """Every drawn picture that is a copy of a training picture, by name, and how many more there may be.

    `samples` and `nearest` (n names) are each drawn picture and its nearest training picture. Only copies of whole
    pictures are seen: no crops, no mirrored copies.
    """
    n, doubles = len(drawn), int((1 - held_out <= memorization.DOUBLE).sum())
    calibrating = len(held_out) - doubles
    left_out = f", {doubles} doubles of training pictures left out" if doubles else ""
    if calibrating < memorization.LEAST_HELD_OUT:
        sentence = (
            f"memorization cannot be judged: {calibrating} {calibration}{left_out} are too few to calibrate with, at "
            f"least {memorization.LEAST_HELD_OUT} are needed."
        )
        return Finding(run_id, "memorization", True, sentence, {"held_out": float(calibrating)})
    margin = memorization.copy_margin(held_out, n)
    copies = [i for i in np.argsort(-drawn, kind="stable").tolist() if drawn[i] > margin]
    low, high = memorization.share_interval(len(copies), n)
    count = (
        f"{len(copies)} of {n} drawn pictures lie nearer to a training picture than all {calibrating} "
        f"{calibration}{left_out} by the calibrated margin (cosine above {margin:.6f}, whole pictures only)"
    )
    if copies:
        pairs = "; ".join(f"{samples[i]} is {nearest[i]} (cosine {drawn[i]:.4f})" for i in copies)
        sentence = f"{count}, {len(copies) / n:.1%} [{low:.1%}, {high:.1%}] are copies: {pairs}."
    elif high <= NO_SIGN:
        sentence = f"no sign of memorization: {count}; at most {high:.1%} (95 %) do."
    else:
        sentence = f"memorization cannot be excluded: {count}, but up to {high:.1%} (95 %) may: draw more pictures."
    figures = {"copies": float(len(copies)), "n": float(n), "low": low, "high": high, "margin": margin}
    return Finding(run_id, "memorization", bool(copies) or high > NO_SIGN, sentence, figures)


def find_collapse(run_id: str, shift: Difference, spread: Difference, adapted: Estimate, real: Estimate) -> Finding:
    """Whether the adapted set came nearer to the reference while its variety fell below that of real pictures.

    `shift` and `spread` are adapted minus base, of the distance to the reference and of the Vendi score.
    """
    if shift.high is None or spread.high is None:
        sentence = f"collapse cannot be judged with n = {shift.prompts} prompts: at least {LEAST_PROMPTS} are needed."
        return Finding(run_id, "collapse", True, sentence, {"vendi": adapted.value, "vendi_real": real.value})
    nearer, fewer = shift.high < 0, spread.high < 0
    warning = nearer and fewer and adapted.high < real.low
    sentence = (
        f"the adapted set holds {adapted.value:.1f} different pictures (Vendi score), real ones {real.value:.1f} "
        f"and the base {adapted.value - spread.value:.1f} at the same n: "
    )
    sentence += (
        "it comes nearer to the reference by drawing less variety; distances flatter such a model."
        if warning
        else "no sign of collapse."
    )
    figures = {"vendi": adapted.value, "vendi_real": real.value, "shift": shift.value, "spread": spread.value}
    return Finding(run_id, "collapse", warning, sentence, figures)


def find_generalisation(
    run_id: str,
    base: Vector,
    adapted: Vector,
    prompts: Sequence[str],
    tags: Mapping[str, Sequence[str]],
    section: ScoringSection,
) -> Finding:
    """The kinds of prompts that the adapted model follows less well than the base.

    `base` and `adapted` (n,) are sample scores, row by row of the same prompt and seed; `tags` are by prompt.
    """
    worse: list[str] = []
    few: list[str] = []
    figures: dict[str, float] = {}
    names = np.asarray(prompts)
    for tag in sorted({tag for of_prompt in tags.values() for tag in of_prompt}):
        selected = np.isin(names, [prompt for prompt, of_prompt in tags.items() if tag in of_prompt])
        if not selected.any():
            continue
        values = np.concatenate([base[selected], adapted[selected]])
        change = difference(mean_measure(values), names[selected].tolist(), section.resamples, section.seed)
        figures[tag] = change.value
        if change.low is None or change.high is None or change.p is None:
            few.append(f"{tag} (n = {change.prompts} prompts)")
        elif change.high < 0 and change.p < LEVEL:
            worse.append(f"{tag} ({change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}])")
    sentence = (
        f"the adapter agrees less with prompts of these kinds than the base does: {', '.join(worse)}."
        if worse
        else "no kind of prompt (by tag), taken alone, is followed less well than by the base."
    )
    if few and len(few) == len(figures):
        sentence = "generalisation cannot be judged by kind of prompt."
    if few:
        sentence += f" Of fewer than {LEAST_PROMPTS} prompts, and not judged: {', '.join(few)}."
    return Finding(run_id, "generalisation", bool(worse), sentence, figures)


def find_blanks(run_id: str, blank: Mapping[str, Vector]) -> Finding:
    """The number of pictures without content; `blank` is 0 or 1 (n,) by variant."""
    counts = {variant: float(values.sum()) for variant, values in blank.items()}
    blank_counts = ", ".join(f"{count:.0f} of {variant}" for variant, count in counts.items() if count)
    sentence = f"pictures without content: {blank_counts}." if blank_counts else "no picture is without content."
    return Finding(run_id, "blank pictures", bool(blank_counts), sentence, counts)


def find_fused_difference(run_id: str, largest: Sequence[float], mean: Sequence[float]) -> Finding:
    """Whether the fused model draws the adapted model's pictures.

    `largest` and `mean` (n values) are the largest and the mean difference of the pixels of each pair of pictures with
    the same prompt and seed, in grey levels from 0 to 255.
    """
    n, worst, overall = len(mean), max(mean), sum(mean) / len(mean)
    warning = worst > FUSED_LIMIT
    pictures = "1 picture" if n == 1 else f"{n} pictures"
    sentence = (
        f"in {pictures} of the same prompts and seeds the fused model differs from the adapted model by at most "
        f"{max(largest):.0f} of 255 in a pixel and {overall:.2f} on average (most in one picture: {worst:.2f}): "
    )
    sentence += (
        f"more than rounding did on the miniature ({FUSED_LIMIT:g}); look at both, and fuse again or export the "
        "adapter instead."
        if warning
        else f"below the limit of {FUSED_LIMIT:g}, which rounding did not reach on the miniature."
    )
    figures = {"pictures": float(n), "largest": max(largest), "mean": overall, "worst_mean": worst}
    return Finding(run_id, FUSED_MODEL, warning, sentence, figures)


def find_unusable(run_id: str, blind: Sequence[str], unmeasured: Sequence[str]) -> list[Finding]:
    """Metrics that cannot tell base from real pictures here, and metrics that were not measured, with the reason."""
    unusable: list[Finding] = []
    if blind:
        sentence = f"these do not discriminate here (they cannot tell base from real pictures): {', '.join(blind)}."
        unusable.append(Finding(run_id, "blind metrics", True, sentence, {"count": float(len(blind))}))
    if unmeasured:
        unusable.append(Finding(run_id, NOT_MEASURED, True, "; ".join(unmeasured), {"count": float(len(unmeasured))}))
    return unusable
