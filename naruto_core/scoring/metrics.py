"""All metrics by name, and what can be said of a metric by its name alone.

To add a metric, open `set_metrics.py` or `sample_metrics.py`: it registers itself there.
"""

from collections.abc import Sequence
from dataclasses import replace

from naruto_core.errors import RecipeInvalid
from naruto_core.scoring.registry import Metric, registered
from naruto_core.scoring.sample_metrics import SampleMetric
from naruto_core.scoring.set_metrics import SetMetric

SET_METRICS = registered(SetMetric)
SAMPLE_METRICS = registered(SampleMetric)
_FURTHER = tuple(replace(metric, name=metric.further_name) for metric in SET_METRICS if metric.further_name)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in (*SET_METRICS, *_FURTHER, *SAMPLE_METRICS)}

HEADLINE_METRICS = tuple(
    name
    for metric in (*SET_METRICS, *SAMPLE_METRICS)
    if metric.headline
    for name in (metric.name, *(metric.by_tag.values() if isinstance(metric, SampleMetric) else ()))
)


_BETTER = {name: metric.better for name, metric in BY_NAME.items()} | {
    name: metric.better for metric in SAMPLE_METRICS for name in metric.by_tag.values()
}


def direction(name: str) -> str:
    """Where a score called `name` is good, for tables: "lower is better", "higher is better", or ""."""
    return {-1: "lower is better", 1: "higher is better"}.get(_BETTER.get(name, 0), "")


def decimals(name: str) -> int:
    """Digits after the point that are worth showing of a score; 3 for a name that is not registered."""
    return BY_NAME[name].decimals if name in BY_NAME else 3


def check_metric_names(names: Sequence[str], source: str) -> None:
    """Raise RecipeInvalid for `names` that are not metrics; `source` says in the message where they come from."""
    if unknown := [name for name in names if name not in BY_NAME]:
        known = ", ".join(sorted(BY_NAME))
        raise RecipeInvalid(f"{source}: {', '.join(unknown)} is not a metric; the metrics are {known}.")
