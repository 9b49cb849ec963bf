"""Scores and comparisons as people read them: lines, cells between anchors, Markdown tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naruto_core.card.facts import escape, table
from naruto_core.domain import Score, Variant
from naruto_core.scoring.discrimination import ENOUGH
from naruto_core.scoring.metrics import BY_NAME
from naruto_core.store.queries import measurement_of

if TYPE_CHECKING:
    from naruto_core.scoring.comparison import Comparison


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
    same = {s.variant: s.value for s in scores if measurement_of(s) == measurement_of(score)}
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
    rulers = sorted({measurement_of(score) for score in scores})
    return [_line([s for s in scores if measurement_of(s) == one], scores) for one in rulers]


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


_HEAD = ("metric", "first", "second", "difference", "95 % interval", "n", "verdict on the second")
_NOTE = (
    "Bold: the primary metrics, named in the recipe. Difference: second minus first, over the same prompts and seeds; "
    "intervals over prompts; verdicts after Holm's correction. It is these two models that are told apart: the same "
    "recipe trained with other rounding or another seed is another model too."
)


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of every metric; of the `pictures` of the same prompt and seed, `same` are the same bytes."""

    first: str
    second: str
    metrics: Sequence["Comparison"]
    pictures: int
    same: int

    def worse(self) -> list[str]:
        """The primary metrics by which the second is worse."""
        return [one.metric for one in self.metrics if one.primary and one.verdict.word == "worse"]


def headline(found: Compared) -> tuple[str, str]:
    """What is said of the second, in a few words, and why: the worst verdict by a primary metric, and all of them."""
    if found.same == found.pictures:  # nothing was measured that could differ
        return "The same pictures", f"all {found.pictures:,} of the second are the first's, byte for byte."
    primary = [one for one in found.metrics if one.primary]
    if not primary:
        return "Not judged", "none of the primary metrics could be had of both."
    words = {one.verdict.word for one in primary}
    said = next((word for word in ("worse", "better", "undecided") if word in words), "")
    said = said or ("alike" if words == {"alike"} else "")
    said = said or ("neither better nor worse" if words & {"alike", "more", "less"} else "not judged")
    return f"{said.capitalize()} by the primary metrics", f"{'; '.join(f'{x.metric} {x.verdict}' for x in primary)}."


def comparison_markdown(found: Compared) -> str:
    """Headline and table, primary metrics first."""
    said, why = headline(found)
    sides = f"First: {escape(found.first)}. Second: {escape(found.second)}."
    same = f"{found.same:,} of {found.pictures:,} pictures are the same bytes."
    rows = table(_HEAD, [_cells(one) for one in found.metrics])
    return "\n\n".join([f"**{said}**: {escape(why)}", f"{sides} {same}", rows, _NOTE])


def _cells(one: "Comparison") -> list[str]:
    figures = comparison_figures(one)
    name, verdict = (f"**{escape(text)}**" if one.primary else escape(text) for text in (one.metric, str(one.verdict)))
    return [name, *figures, str(one.n), verdict]


def comparison_figures(one: "Comparison") -> list[str]:
    """First, second, difference and its interval, as far as they were measured."""
    places, found = digits(one.metric), one.difference
    change, bounds = (found.value, (found.low, found.high)) if found else (None, None)
    values = [number_text(value, f".{places}f") for value in (one.first, one.second)]
    return [*values, number_text(change, f"+.{places}f"), interval_text(bounds, f"+.{places}f")]
