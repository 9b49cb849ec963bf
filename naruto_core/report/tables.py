"""Scores as people read them: a line a metric, a cell a variant, between its two anchors."""

from collections.abc import Sequence
from dataclasses import dataclass

from naruto_core.domain import Score, Variant
from naruto_core.scoring.discrimination import ENOUGH
from naruto_core.scoring.metrics import BY_NAME
from naruto_core.store.reports import ruler


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One metric of all variants, in words."""

    metric: str
    cells: tuple[str, ...]
    n: str
    tells: str
    blind_here: bool
    words: str


def anchored(score: Score, scores: Sequence[Score]) -> float | None:
    """(value - base) / (real - base) of the same metric; None where either is missing, or they are alike."""
    same = {s.variant: s.value for s in scores if ruler(s) == ruler(score)}
    base, real = same.get(Variant.BASE), same.get(Variant.REAL)
    return None if base is None or real is None or base == real else (score.value - base) / (real - base) + 0.0


def tells_base_from_real(score: Score) -> tuple[str, bool]:
    """Of a REAL score, how well its metric discriminates here, in words; and whether too badly to be believed."""
    if (auc := score.details.get("auc")) is None:
        return "", False
    blind = float(auc) < ENOUGH
    words = f"{auc:.2f} [{score.details['auc_low']:.2f}, {score.details['auc_high']:.2f}]"
    return words + (" does not discriminate here" if blind else ""), blind


def digits(metric: str) -> int:
    """Decimals worth showing."""
    return 1 if metric in ("fid", "fd", "kid") else 3


def interval_text(bounds: tuple[float | None, float | None] | None, form: str) -> str:
    """`low … high`, each in the format `form`; "none" where there is no interval."""
    low, high = bounds or (None, None)
    return "none" if low is None or high is None else f"{low:{form}} … {high:{form}}"


def number_text(value: float | None, form: str) -> str:
    """`value` in the format `form`; "" where it was not measured."""
    return "" if value is None else f"{value:{form}}"


def score_lines(scores: Sequence[Score]) -> list[ScoreLine]:
    """All set scores and means of a run."""
    rulers = sorted({ruler(score) for score in scores})
    return [_line([s for s in scores if ruler(s) == one], scores) for one in rulers]


def _line(of_metric: Sequence[Score], scores: Sequence[Score]) -> ScoreLine:
    metric, by_variant = of_metric[0].metric, {score.variant: score for score in of_metric}
    tells, blind = tells_base_from_real(by_variant[Variant.REAL]) if Variant.REAL in by_variant else ("", False)
    known = BY_NAME.get("fid" if metric == "fd" else metric)
    return ScoreLine(
        metric=metric,
        cells=tuple(_cell(by_variant[v], scores) if v in by_variant else "" for v in Variant),
        n=", ".join(dict.fromkeys(str(score.n) for score in of_metric)),
        tells=tells,
        blind_here=blind,
        words=f"{known.sees} {known.blind}" if known else "",
    )


def _cell(score: Score, scores: Sequence[Score]) -> str:
    places, placed = digits(score.metric), anchored(score, scores)
    bounds = "no interval" if score.interval is None else ", ".join(f"{one:.{places}f}" for one in score.interval)
    return f"{score.value:.{places}f} [{bounds}]" + ("" if placed is None else f" ({placed:.2f})")
