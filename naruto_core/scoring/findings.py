"""The risks that scores alone do not show, each looked for and said in one sentence."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from naruto_core.domain import Finding
from naruto_core.scoring import memorization
from naruto_core.scoring.resampling import (
    LEAST_PROMPTS,
    Difference,
    Estimate,
    bootstrap_share,
    difference,
    mean_measure,
)
from naruto_core.scoring.verdict import LEVEL

Vector = NDArray[np.float64]
RESAMPLES = 1000
NOT_MEASURED = "not measured"
NO_SIGN = 0.05  # largest share of copies that may still hide behind "no sign of memorization"
LEAST_HELD_OUT = round(1 / memorization.FLAGGED) - 1  # fewer cannot tell one in a hundred


def find_overfitting(
    run_id: str, drawn: Vector, of_held_out: Vector, prompts: Sequence[str], seed: int, calibration: str
) -> Finding:
    """Whether drawn pictures lie nearer to training pictures than `calibration` do: cosines (n,) and (m,)."""
    if len(of_held_out) < LEAST_HELD_OUT:
        told = f"copying cannot be judged: {len(of_held_out)} {calibration} are too few to compare with."
        return Finding(run_id, "overfitting", True, told, {"held_out": float(len(of_held_out))})
    ranks = memorization.ranks(drawn, of_held_out)
    flagged = bootstrap_share((ranks <= memorization.FLAGGED).astype(np.float64), prompts, RESAMPLES, seed)
    if not math.isfinite(flagged.low):
        told = f"copying cannot be judged with n = {len(set(prompts))} prompts: at least {LEAST_PROMPTS} are needed."
        return Finding(run_id, "overfitting", True, told, {"flagged": flagged.value})
    warning = flagged.low > memorization.most_by_chance(len(of_held_out))
    told = (
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
    return Finding(run_id, "overfitting", warning, told, figures)


def find_memorization(
    run_id: str, drawn: Vector, of_held_out: Vector, samples: Sequence[str], nearest: Sequence[str], calibration: str
) -> Finding:
    """Every picture that is a copy of a training picture, by name, and how many more there may be.

    `drawn` (n,) are cosines to the training picture that is `nearest` (n names), `of_held_out` (m,) those of pictures
    that were not trained on, which are called `calibration`. Whole copies only: no crops, no mirrored ones.
    """
    n, doubles = len(drawn), int((1 - of_held_out <= memorization.DOUBLE).sum())
    new = len(of_held_out) - doubles
    besides = f", {doubles} doubles of training pictures left out" if doubles else ""
    if new < memorization.FEWEST_NEW:
        sentence = (
            f"memorization cannot be judged: {new} {calibration}{besides} are too few to calibrate with, at least "
            f"{memorization.FEWEST_NEW} are needed."
        )
        return Finding(run_id, "memorization", True, sentence, {"held_out": float(new)})
    margin = memorization.copy_margin(of_held_out, n)
    named = [i for i in np.argsort(-drawn, kind="stable").tolist() if drawn[i] > margin]
    low, high = memorization.share_interval(len(named), n)
    counted = (
        f"{len(named)} of {n} drawn pictures lie nearer to a training picture than all {new} {calibration}{besides} by "
        f"the calibrated margin (cosine above {margin:.6f}, whole pictures only)"
    )
    if named:
        pairs = "; ".join(f"{samples[i]} is {nearest[i]} (cosine {drawn[i]:.4f})" for i in named)
        sentence = f"{counted}, {len(named) / n:.1%} [{low:.1%}, {high:.1%}] are copies: {pairs}."
    elif high <= NO_SIGN:
        sentence = f"no sign of memorization: {counted}; at most {high:.1%} (95 %) do."
    else:
        sentence = f"memorization cannot be excluded: {counted}, but up to {high:.1%} (95 %) may: draw more pictures."
    figures = {"copies": float(len(named)), "n": float(n), "low": low, "high": high, "margin": margin}
    return Finding(run_id, "memorization", bool(named) or high > NO_SIGN, sentence, figures)


def find_collapse(run_id: str, shift: Difference, spread: Difference, adapted: Estimate, real: Estimate) -> Finding:
    """Whether the shift from the reference got smaller (`shift` below 0) while variety fell below real pictures'."""
    if shift.high is None or spread.high is None:
        told = f"collapse cannot be judged with n = {shift.prompts} prompts: at least {LEAST_PROMPTS} are needed."
        return Finding(run_id, "collapse", True, told, {"vendi": adapted.value, "vendi_real": real.value})
    nearer, fewer = shift.high < 0, spread.high < 0
    warning = nearer and fewer and adapted.high < real.low
    told = (
        f"the adapted set holds {adapted.value:.1f} different pictures (Vendi score), real ones {real.value:.1f} "
        f"and the base {adapted.value - spread.value:.1f} at the same n: "
    )
    told += (
        "it comes nearer to the reference by drawing less variety; distances flatter such a model."
        if warning
        else "no sign of collapse."
    )
    figures = {"vendi": adapted.value, "vendi_real": real.value, "shift": shift.value, "spread": spread.value}
    return Finding(run_id, "collapse", warning, told, figures)


def find_generalisation(
    run_id: str, base: Vector, adapted: Vector, prompts: Sequence[str], tags: Mapping[str, Sequence[str]], seed: int
) -> Finding:
    """For which tags of prompts the adapter made things worse: sample scores (n,) of both, pair by pair."""
    worse: list[str] = []
    few: list[str] = []
    figures: dict[str, float] = {}
    names = np.asarray(prompts)
    for tag in sorted({tag for of_prompt in tags.values() for tag in of_prompt}):
        part = np.isin(names, [prompt for prompt, of_prompt in tags.items() if tag in of_prompt])
        if not part.any():
            continue
        values = np.concatenate([base[part], adapted[part]])
        found = difference(mean_measure(values), names[part].tolist(), RESAMPLES, seed)
        figures[tag] = found.value
        if found.low is None or found.high is None or found.p is None:
            few.append(f"{tag} (n = {found.prompts} prompts)")
        elif found.high < 0 and found.p < LEVEL:
            worse.append(f"{tag} ({found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}])")
    told = (
        f"the adapter agrees less with prompts of these kinds than the base does: {', '.join(worse)}."
        if worse
        else "no kind of prompt (by tag), taken alone, is followed less well than by the base."
    )
    if few and len(few) == len(figures):
        told = "generalisation cannot be judged by kind of prompt."
    if few:
        told += f" Of fewer than {LEAST_PROMPTS} prompts, and not judged: {', '.join(few)}."
    return Finding(run_id, "generalisation", bool(worse), told, figures)


def find_blanks(run_id: str, blank: Mapping[str, Vector]) -> Finding:
    """Pictures without content, by variant: 0 or 1 (n,) each."""
    counts = {variant: float(values.sum()) for variant, values in blank.items()}
    some = ", ".join(f"{count:.0f} of {variant}" for variant, count in counts.items() if count)
    told = f"pictures without content: {some}." if some else "no picture is without content."
    return Finding(run_id, "blank pictures", bool(some), told, counts)


def find_unusable(run_id: str, blind: Sequence[str], unmeasured: Sequence[str]) -> list[Finding]:
    """Metrics that cannot tell base from real here, and metrics that could not be had, with the reason."""
    found: list[Finding] = []
    if blind:
        told = f"these do not discriminate here (they cannot tell base from real pictures): {', '.join(blind)}."
        found.append(Finding(run_id, "blind metrics", True, told, {"count": float(len(blind))}))
    if unmeasured:
        found.append(Finding(run_id, NOT_MEASURED, True, "; ".join(unmeasured), {"count": float(len(unmeasured))}))
    return found
