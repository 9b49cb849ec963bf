"""The leaderboard: a row for each run, a column for each measurement, and which runs may be the best of a column.

Scores stand in one column only where metric, extractor, version, reference pictures, prompts and seeds are the same.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

from naruto_core.domain import Measurement, Score, Variant, measurement_of
from naruto_core.intervals import LEVEL
from naruto_core.scoring.metrics import decimals, find_metric, headline_metrics
from naruto_core.scoring.set_metrics import SetMetric
from naruto_core.store.queries import RunSummary

_ARROWS = {-1: " ↓", 0: "", 1: " ↑"}
_TRAINED = (Variant.ADAPTED, Variant.FUSED)  # the same model, but for rounding: the first that was measured counts


class Place(StrEnum):
    """Where a run stands in a column."""

    BEST = "best"  # the best value
    TIED = "tied"  # not told apart from the best: it may be the best model
    WORSE = "worse"  # not the best model (wrong for the best one in at most 5 % of columns)


class Group(StrEnum):
    """The kind of a column."""

    HEADLINE = "headline"
    SETS = "sets of pictures"
    PICTURES = "single pictures"


@dataclass(frozen=True, slots=True, order=True)
class ColumnKey:
    """What scores of one column have in common; `suite` and `seeds` are of the prompts, "" where not recorded."""

    measurement: Measurement
    suite: str
    seeds: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column: `title` for people, e.g. "Fréchet distance (fd-judge) ↓"; `better` as in the register of metrics."""

    key: ColumnKey
    title: str
    better: int
    decimals: int
    group: Group
    runs: int

    @property
    def headline(self) -> bool:
        """Whether it is in the headline table of a run."""
        return self.group is Group.HEADLINE


@dataclass(frozen=True, slots=True)
class Row:
    """A run with the score and the place of its trained model in each column that has one."""

    summary: RunSummary
    scores: Mapping[ColumnKey, Score]
    places: Mapping[ColumnKey, Place]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All columns, headline metrics first, and a row for each run in the order given."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """A headline metric of a run: base, trained model and real pictures, measured alike.

    `change` is trained minus base with its paired 95 % interval (None, None where there is none); None when it was not
    compared. `word` says where the interval lies, "" without a change.
    """

    metric: str
    title: str
    better: int
    decimals: int
    base: Score | None
    trained: Score | None
    real: Score | None
    change: tuple[float, float | None, float | None] | None
    word: str


def column_key(score: Score) -> ColumnKey:
    """The column of a score."""
    return ColumnKey(measurement_of(score), str(score.details.get("suite", "")), str(score.details.get("seeds", "")))


def leaderboard(summaries: Sequence[RunSummary]) -> Leaderboard:
    """The leaderboard of `summaries`, with the scores of their trained models."""
    by_run = [trained_scores(summary.scores) for summary in summaries]
    counts = Counter(key for scores in by_run for key in scores)
    columns = _columns(counts)
    places: list[dict[ColumnKey, Place]] = [{} for _ in summaries]
    for column in columns:
        measured = [(index, scores[column.key]) for index, scores in enumerate(by_run) if column.key in scores]
        for (index, _), place in zip(measured, rank_places([s for _, s in measured], column.better), strict=True):
            if place is not None:
                places[index][column.key] = place
    rows = (Row(*row) for row in zip(summaries, by_run, places, strict=True))
    return Leaderboard(tuple(columns), tuple(rows))


def trained_scores(scores: Iterable[Score]) -> dict[ColumnKey, Score]:
    """The set scores of the trained model by column."""
    by_column: dict[ColumnKey, Score] = {}
    for score in scores:
        if score.sample_id is None and score.variant in _TRAINED:
            key = column_key(score)
            if key not in by_column or score.variant is Variant.ADAPTED:
                by_column[key] = score
    return by_column


def anchor(scores: Iterable[Score], key: ColumnKey, variant: Variant) -> Score | None:
    """The score of the base or of real pictures, of the run with `scores`, to compare a column with.

    None where it was not measured, and for real pictures that were measured with other texts than the suite's.
    """
    return next((score for score in _alike(scores, key, variant) if "anchor" not in score.details), None)


def rank_places(scores: Sequence[Score], better: int) -> list[Place | None]:
    """The place of each score; None for all where neither direction is better, or where fewer than two are measured.

    A run is worse when its distance to the best value is more than chance explains, for a level of 5 % over all runs
    (Gupta 1965, subset selection, with Bonferroni's bound): the truly best model is called worse in at most 5 % of
    columns. Errors are taken as independent; runs on the same prompts have errors in common, so that the rule is on the
    safe side. A score without an interval is never called worse.
    """
    if not better or len(scores) < 2:
        return [None] * len(scores)
    z = NormalDist().inv_cdf(1 - LEVEL / (len(scores) - 1))
    values = [better * score.value for score in scores]
    best = max(range(len(scores)), key=values.__getitem__)
    error_of_best = standard_error(scores[best])
    return [
        Place.BEST
        if index == best
        else Place.WORSE
        if values[best] - value > z * math.hypot(error_of_best, standard_error(score))
        else Place.TIED
        for index, (value, score) in enumerate(zip(values, scores, strict=True))
    ]


_Z_95 = NormalDist().inv_cdf(1 - LEVEL / 2)  # once: there are thousands of scores


def standard_error(score: Score) -> float:
    """The standard error by the width of the 95 % interval; infinite where there is no interval."""
    if score.interval is None:
        return math.inf
    return (score.interval[1] - score.interval[0]) / 2 / _Z_95


def headline_rows(scores: Sequence[Score]) -> list[HeadlineRow]:
    """The headline metrics of one run, of the newest measurement of each."""
    trained = trained_scores(scores)
    newest = {key.measurement.metric: key for key in trained}
    return [
        _headline_row(title, newest[metric], trained[newest[metric]], scores)
        for metric, title in headline_metrics(newest).items()
    ]


def leaderboard_csv(board: Leaderboard) -> str:
    """CSV with a line for each run and column: value, interval, n, place and how it was measured."""
    memory = io.StringIO()
    writer = csv.writer(memory, lineterminator="\n")
    writer.writerow([
        "run", "state", "metric", "value", "low", "high", "n", "place", "extractor", "version", "reference", "prompts",
        "seeds",
    ])  # fmt: skip
    for row in board.rows:
        for key, score in row.scores.items():
            measured, place = key.measurement, row.places.get(key)
            writer.writerow([
                row.summary.run.id, row.summary.run.state.value, measured.metric, score.value,
                *(score.interval or ("", "")), score.n, place.value if place else "", measured.extractor,
                measured.version, measured.reference, key.suite, key.seeds,
            ])  # fmt: skip
    return memory.getvalue()


def _headline_row(title: str, key: ColumnKey, trained: Score, scores: Sequence[Score]) -> HeadlineRow:
    name, details = key.measurement.metric, trained.details
    metric, change = find_metric(name), None
    if "change" in details:
        low, high = (float(details[end]) if end in details else None for end in ("change_low", "change_high"))
        change = float(details["change"]), low, high
    base, real = (next(_alike(scores, key, variant), None) for variant in (Variant.BASE, Variant.REAL))
    better = metric.better if metric else 0
    return HeadlineRow(
        name, title, better, decimals(name), base, trained, real, change, str(details.get("change_word", ""))
    )


def _alike(scores: Iterable[Score], key: ColumnKey, variant: Variant) -> Iterator[Score]:
    return (s for s in scores if s.variant is variant and s.sample_id is None and measurement_of(s) == key.measurement)


def _columns(counts: Mapping[ColumnKey, int]) -> list[Column]:
    titles = headline_metrics(key.measurement.metric for key in counts)
    order = {name: place for place, name in enumerate(titles)}
    by_metric: dict[str, list[ColumnKey]] = {}
    for key in counts:
        by_metric.setdefault(key.measurement.metric, []).append(key)
    columns: list[Column] = []
    for name in sorted(by_metric, key=lambda name: (order.get(name, len(order)), name)):
        metric = find_metric(name)
        better = metric.better if metric else 0
        short = f"{titles[name]} ({name})" if name in titles else name
        for key in sorted(by_metric[name], key=lambda key: (-counts[key], key)):
            title = f"{short}{_suffix(key, by_metric[name])}{_ARROWS[better]}"
            group = (
                Group.HEADLINE if name in titles else Group.SETS if isinstance(metric, SetMetric) else Group.PICTURES
            )
            columns.append(Column(key, title, better, decimals(name), group, counts[key]))
    return columns


def _suffix(key: ColumnKey, others: Sequence[ColumnKey]) -> str:
    """What tells the column from others of its metric."""
    fields = {
        "extractor": key.measurement.extractor,
        "version": key.measurement.version,
        "reference": key.measurement.reference,
    }
    parts = [text for name, text in fields.items() if len({getattr(other.measurement, name) for other in others}) > 1]
    parts += [f"prompts {key.suite[:6] or 'unknown'}"] if len({other.suite for other in others}) > 1 else []
    parts += [f"seeds {key.seeds or 'unknown'}"] if len({other.seeds for other in others}) > 1 else []
    return f", {'; '.join(parts)}" if parts else ""
