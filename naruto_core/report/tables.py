"""Scores and comparisons as text: lines, table cells, Markdown tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naruto_core.card.facts import escape, table
from naruto_core.domain import Score, Variant, distinct_variants, measurement_of
from naruto_core.report.score_table import anchored
from naruto_core.scoring.discrimination import ENOUGH
from naruto_core.scoring.metrics import decimals, find_metric

if TYPE_CHECKING:
    from naruto_core.scoring.comparison import Comparison


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One metric of a run's variants, as a row of a table.

    metric: its name.
    cells: value, interval and anchored value for each of `scored_variants`; "" where it was not measured.
    n: the numbers of pictures.
    discrimination: how well the metric tells base from real pictures.
    blind_here: whether that is too badly to trust it.
    description: what the metric sees, and what it is blind to.
    """

    metric: str
    cells: tuple[str, ...]
    n: str
    discrimination: str
    blind_here: bool
    description: str


def discrimination_text(score: Score) -> tuple[str, bool]:
    """How well the metric of a REAL score tells base from real pictures; and whether too badly to trust it."""
    if (auc := score.details.get("auc")) is None:
        return "", False
    blind = float(auc) < ENOUGH
    interval = f"{auc:.2f} [{score.details['auc_low']:.2f}, {score.details['auc_high']:.2f}]"
    inverted = float(score.details["auc_high"]) < 0.5
    problem = " is inverted here: it prefers the base" if inverted else " does not discriminate here" if blind else ""
    return interval + problem, blind


def interval_text(bounds: tuple[float | None, float | None] | None, form: str) -> str:
    """`low … high`, each in the format `form`; "none" where there is no interval."""
    low, high = bounds or (None, None)
    return "none" if low is None or high is None else f"{low:{form}} … {high:{form}}"


def number_text(value: float | None, form: str) -> str:
    """`value` in the format `form`; "" where it was not measured."""
    return "" if value is None else f"{value:{form}}"


def scored_variants(scores: Sequence[Score]) -> list[Variant]:
    """The variants that `scores` are of, in their usual order; see `distinct_variants`."""
    return distinct_variants({score.variant for score in scores})


def score_lines(scores: Sequence[Score]) -> list[ScoreLine]:
    """All set scores and means of a run, one line a measurement (metric, extractor, version)."""
    measurements = sorted({measurement_of(score) for score in scores})
    return [_line([s for s in scores if measurement_of(s) == measurement], scores) for measurement in measurements]


def _line(of_measurement: Sequence[Score], scores: Sequence[Score]) -> ScoreLine:
    name, by_variant = of_measurement[0].metric, {score.variant: score for score in of_measurement}
    discrimination, blind = discrimination_text(by_variant[Variant.REAL]) if Variant.REAL in by_variant else ("", False)
    metric = find_metric(name)
    return ScoreLine(
        metric=name,
        cells=tuple(_cell(by_variant[v], scores) if v in by_variant else "" for v in scored_variants(scores)),
        n=", ".join(dict.fromkeys(str(score.n) for score in of_measurement)),
        discrimination=discrimination,
        blind_here=blind,
        description=f"{metric.sees} {metric.blind}" if metric else "",
    )


def _cell(score: Score, scores: Sequence[Score]) -> str:
    places, position = decimals(score.metric), anchored(score, scores)
    bounds = "no interval" if score.interval is None else ", ".join(f"{bound:.{places}f}" for bound in score.interval)
    return f"{score.value:.{places}f} [{bounds}]" + ("" if position is None else f" ({position:.2f})")


_HEAD = ("metric", "first", "second", "difference", "95 % interval", "n", "verdict on the second")
_NOTE = (
    "Bold: the primary metrics, named in the recipe. Difference: second minus first, over the same prompts and seeds; "
    "intervals over prompts; verdicts after Holm's correction. The verdicts are on these two models: the same recipe "
    "trained with other rounding or another seed gives another model."
)


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison of two models.

    `first` and `second` name them in full; `metrics` are all comparisons. Of `pictures` with the same prompt and seed,
    `same` are equal byte for byte.
    """

    first: str
    second: str
    metrics: Sequence["Comparison"]
    pictures: int
    same: int

    def worse(self) -> list[str]:
        """The primary metrics with which the second is worse."""
        return [comparison.metric for comparison in self.metrics if _is_worse(comparison)]


def _is_worse(comparison: "Comparison") -> bool:
    return comparison.primary and comparison.verdict.word == "worse"


def headline(compared: Compared) -> tuple[str, str]:
    """The verdict on the second in a few words, the worst one by a primary metric; and the verdicts of all of them."""
    if compared.same == compared.pictures:  # nothing was measured that could differ
        return "The same pictures", f"all {compared.pictures:,} of the second are the first's, byte for byte."
    primary = [comparison for comparison in compared.metrics if comparison.primary]
    if not primary:
        return "Not judged", "none of the primary metrics was measured for both."
    verdicts = "; ".join(f"{comparison.metric} {comparison.verdict}" for comparison in primary)
    summary = _summary({comparison.verdict.word for comparison in primary})
    return f"{summary} by the primary metrics", f"{verdicts}."


def _summary(words: set[str]) -> str:
    for word in ("worse", "better", "undecided"):
        if word in words:
            return word.capitalize()
    if words == {"alike"}:
        return "Alike"
    return "Not judged" if words & {"cannot be judged", "not measured"} else "Neither better nor worse"


def comparison_markdown(compared: Compared) -> str:
    """Headline and table, primary metrics first."""
    verdict, reason = headline(compared)
    sides = f"First: {escape(compared.first)}. Second: {escape(compared.second)}."
    same = f"{compared.same:,} of {compared.pictures:,} pictures are the same bytes."
    rows = table(_HEAD, [_cells(comparison) for comparison in compared.metrics])
    return "\n\n".join([f"**{verdict}**: {escape(reason)}", f"{sides} {same}", rows, _NOTE])


def _cells(comparison: "Comparison") -> list[str]:
    name, verdict = escape(comparison.metric), escape(str(comparison.verdict))
    if comparison.primary:
        name, verdict = f"**{name}**", f"**{verdict}**"
    return [name, *comparison_figures(comparison), str(comparison.n), verdict]


def comparison_figures(comparison: "Comparison") -> list[str]:
    """First, second, difference and its interval; "" and "none" where they were not measured."""
    places, difference = decimals(comparison.metric), comparison.difference
    change, bounds = (difference.value, (difference.low, difference.high)) if difference else (None, None)
    values = [number_text(value, f".{places}f") for value in (comparison.first, comparison.second)]
    return [*values, number_text(change, f"+.{places}f"), interval_text(bounds, f"+.{places}f")]
