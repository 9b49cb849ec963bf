"""The short table of a run's scores: what a person asks first. `naruto scores` and the end of a run print it.

The word of a row says what the interval beside it says: the paired 95 % interval of adapted minus base, which is
recorded with the adapted model's scores.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from naruto_core.domain import Finding, Measurement, Score, Variant, measurement_of
from naruto_core.errors import amount
from naruto_core.scoring.memorization import NO_SIGN
from naruto_core.scoring.metrics import decimals, direction, headline_metrics

if TYPE_CHECKING:
    from naruto_core.judging.decision import WinRate
    from naruto_core.scoring.comparison import Comparison

WIDTH = 100  # columns of the table, at most
_HEAD = ("metric", "base", "adapted", "real", "adapted - base [95 %]", "change")
_ARROWS = {"lower is better": "↓", "higher is better": "↑"}


def change_of(comparison: "Comparison") -> dict[str, str | float]:
    """What a comparison of base and adapted says, for `Score.details`: the word comes from the interval alone."""
    difference, better = comparison.difference, direction(comparison.metric)
    if difference is None:
        return {"change_word": "not measured"}
    change: dict[str, str | float] = {"change": difference.value}
    if comparison.verdict.word == "alike":
        return change | {"change_low": difference.value, "change_high": difference.value, "change_word": "alike"}
    if difference.low is None or difference.high is None:
        return change | {"change_word": "cannot be judged"}
    change |= {"change_low": difference.low, "change_high": difference.high}
    if any(difference.allowance):
        change |= {"allowance_low": difference.allowance[0], "allowance_high": difference.allowance[1]}
    if difference.p is None:  # an interval of so few prompts says little of a distribution that is not normal
        return change | {"change_word": "cannot be judged"}
    if difference.low <= 0 <= difference.high:
        return change | {"change_word": "undecided"}
    words = {"higher is better": ("better", "worse"), "lower is better": ("worse", "better")}.get(
        better, ("more", "less")
    )
    return change | {"change_word": words[0] if difference.value > 0 else words[1]}


def with_changes(scores: Sequence[Score], comparisons: "Sequence[Comparison]") -> list[Score]:
    """`scores` of a run, those of the adapted model over all prompts with their `change_of` from the base."""
    changes = {(c.metric, c.extractor): change_of(c) for c in comparisons}

    def change(score: Score) -> dict[str, str | float]:
        is_mean = score.sample_id is None and score.variant is Variant.ADAPTED
        return changes.get((score.metric, score.extractor), {}) if is_mean else {}

    return [replace(score, details=score.details | change(score)) if change(score) else score for score in scores]


def headline_table(scores: Sequence[Score], findings: Sequence[Finding], win_rate: "WinRate | None" = None) -> str:
    """The headline metrics as lines of at most `WIDTH` columns, with base, adapted and real as columns.

    `scores` are all scores of a run; `win_rate` is the adapted model's by people's votes, of comparisons with its base.
    """
    means = {score.metric: score for score in scores if score.sample_id is None}
    titles = headline_metrics(means)
    newest = {name: means[name] for name in titles}
    rows = [_row(name, title, measurement_of(newest[name]), scores) for name, title in titles.items()]
    rows += [_copies(finding) for finding in findings if finding.name == "memorization"]
    rows += [_wins(win_rate)] if win_rate else []
    lines = aligned([_HEAD, *rows])
    shown = [s for s in scores if s.sample_id is None and s.variant is Variant.ADAPTED and s.metric in titles]
    counts = sorted({score.n for score in shown})
    if counts:
        lines += f"\n\nn = {', '.join(map(str, counts))} pictures of each model. " + _NOTE
    return "\n".join([lines, *_allowances(scores, titles)])


def _allowances(scores: Sequence[Score], names: Iterable[str]) -> list[str]:
    """A line for each metric in the table whose network has a known preference of a style."""
    return [
        f"{score.metric}: the interval allows for what the measuring network itself prefers a style by,\n"
        f"{_signed(details['allowance_low'], score.metric)} to {_signed(details['allowance_high'], score.metric)}."
        for score in scores
        if score.metric in names and "allowance_low" in (details := score.details)
    ]


_NOTE = (
    "↓ lower is better, ↑ higher is better; real: pictures\nthat a perfect model would draw. The change says where "
    "the interval lies; one metric in 20 differs\nby chance alone (`naruto compare` corrects for that)."
)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(name: str, title: str, measurement: Measurement, scores: Sequence[Score]) -> list[str]:
    by_variant = {s.variant: s for s in scores if s.sample_id is None and measurement_of(s) == measurement}
    values = [
        short_number(by_variant[variant].value, name) if variant in by_variant else ""
        for variant in (Variant.BASE, Variant.ADAPTED, Variant.REAL)
    ]
    label = f"{title} ({name}) {_ARROWS.get(direction(name), '')}".rstrip()
    return [label, *values, *_change(by_variant.get(Variant.ADAPTED), name)]


def _change(adapted: Score | None, name: str) -> tuple[str, str]:
    details = adapted.details if adapted else {}
    word, value = str(details.get("change_word", "")), details.get("change")
    if value is None:
        return "", word
    if "change_low" not in details:
        return f"{_signed(value, name)} [no interval]", word
    return (
        f"{_signed(value, name)} [{_signed(details['change_low'], name)}, {_signed(details['change_high'], name)}]",
        word,
    )


def anchored(score: Score, scores: Sequence[Score]) -> float | None:
    """(value - base) / (real - base) by the same measurement; None where either is missing, or both are equal.

    Real pictures that were measured with their own captions are no anchor for the suite's prompts.
    """
    same = {
        s.variant: s.value for s in scores if measurement_of(s) == measurement_of(score) and "anchor" not in s.details
    }
    base, real = same.get(Variant.BASE), same.get(Variant.REAL)
    return None if base is None or real is None or base == real else (score.value - base) / (real - base) + 0.0


def short_number(value: float, metric: str) -> str:
    """`value` with three digits that count, and no more after the point than the metric shows."""
    size = math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(decimals(metric), max(0, 2 - size))}f}"


def _signed(value: str | float, metric: str) -> str:
    text = short_number(float(value), metric)
    return text if text.startswith("-") else f"+{text}"


def _copies(finding: Finding) -> list[str]:
    figures, title = finding.figures, "copies of training pictures ↓"
    if "copies" not in figures or "high" not in figures:
        return [title, "", "", "", "", "cannot be judged"]
    copies, n = figures["copies"], figures.get("n", 0)
    word = "copies" if copies else "no sign" if figures["high"] <= NO_SIGN else "not excluded"
    interval = f"{figures.get('low', 0.0):.1%} to {figures['high']:.1%} of all"
    return [title, "", f"{copies:.0f} of {n:.0f}", "", interval, word]


def _wins(rate: "WinRate") -> list[str]:
    low, high = rate.low, rate.high
    word = "better" if low > 0.5 else "worse" if high < 0.5 else "undecided"
    votes = amount(rate.votes, "vote")
    return ["human win rate ↑", "", f"{rate.value:.0%}", "", f"{low:.1%} to {high:.1%}, {votes}", word]
