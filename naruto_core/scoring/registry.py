"""What a metric declares, and the register of all metrics.

Each metric registers itself beside its function, in `set_metrics.py` or `sample_metrics.py`. Everything else reads the
register through `metrics.py`: evaluation, comparison, report, the recipe's names, the reference page of the docs. A new
metric is one function and one `register(...)` in one of these two files, and its test.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

ExtractorKind = Literal["set", "pair", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What every metric declares.

    name: as in recipes, tables and the database. A renamed metric is a new one.
    version: the formula and its constants; ends with a number, which grows when values change.
    better: 1 where more is better, -1 where less is better, 0 where neither is.
    sees, blind: one sentence each: what it measures, and what it cannot see.
    paper: the source of the method; empty where it is our own.
    extractor: which network's features it needs: that of `scoring.set_extractor`, that of `scoring.pair_extractor`
        (which reads texts too), or one of its own.
    headline: whether short tables show it (the table at the end of a run).
    decimals: digits after the point that are worth showing.
    """

    name: str
    version: str
    better: Literal[-1, 0, 1]
    sees: str
    blind: str
    paper: str = ""
    extractor: ExtractorKind = "set"
    headline: bool = False
    decimals: int = 3


AnyMetric = TypeVar("AnyMetric", bound=Metric)
_METRICS: dict[str, Metric] = {}


def register(metric: AnyMetric) -> AnyMetric:
    """Add `metric` to the register and return it; ValueError for a name that is taken."""
    if metric.name in _METRICS:
        raise ValueError(f"there is already a metric {metric.name}")
    _METRICS[metric.name] = metric
    return metric


def registered(kind: type[AnyMetric]) -> tuple[AnyMetric, ...]:
    """All metrics of `kind` whose modules were imported, in the order of their registration."""
    return tuple(metric for metric in _METRICS.values() if isinstance(metric, kind))
