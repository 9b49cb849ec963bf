"""All metrics by name, and what can be said of a metric by its name alone.

To add a metric, open `set_metrics.py` or `sample_metrics.py`: it registers itself there.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from naruto_core.errors import RecipeInvalid
from naruto_core.scoring.registry import INCEPTION, Metric, extractor_label, registered
from naruto_core.scoring.sample_metrics import SampleMetric
from naruto_core.scoring.set_metrics import ON_BASE_STYLES, SetMetric

if TYPE_CHECKING:  # `naruto scores` needs the names of metrics, and no recipe
    from naruto_core.recipe_sections import ScoringSection

SET_METRICS = registered(SetMetric)
SAMPLE_METRICS = registered(SampleMetric)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in (*SET_METRICS, *SAMPLE_METRICS)}
_FAMILIES = {metric.family: metric for metric in SET_METRICS if metric.family}
_OF_TAGS: dict[str, Metric] = {name: metric for metric in SAMPLE_METRICS for name in metric.by_tag.values()}


def find_metric(name: str) -> Metric | None:
    """The metric whose scores are called `name`, e.g. `mmd`, `fd-dinov2` or `mmd on base styles`; None: unknown."""
    of_tag = _OF_TAGS.get(name)
    if of_tag or not name.endswith(ON_BASE_STYLES):
        return of_tag or BY_NAME.get(name) or _of_family(name)
    metric = find_metric(name.removesuffix(ON_BASE_STYLES))
    return metric.on_base_styles() if isinstance(metric, SetMetric) and metric.base_styles else None


def _of_family(name: str) -> SetMetric | None:
    family, _, label = name.partition("-")
    return replace(_FAMILIES[family], name=name) if label and family in _FAMILIES else None


def headline_metrics(names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that are in the headline table of a run, in its order, with the title of each."""
    known = [metric for name in dict.fromkeys(names) if name not in _OF_TAGS and (metric := find_metric(name))]
    shown = sorted((metric for metric in known if metric.headline), key=lambda metric: metric.headline)
    return {metric.name: metric.title for metric in shown}


def is_in_lists(name: str) -> bool:
    """Whether the list of all runs shows scores called `name`."""
    metric = None if name in _OF_TAGS else find_metric(name)
    return metric is not None and metric.in_lists


def direction(name: str) -> str:
    """Where a score called `name` is good, for tables: "lower is better", "higher is better", or ""."""
    metric = find_metric(name)
    return {-1: "lower is better", 1: "higher is better"}.get(metric.better if metric else 0, "")


def compares_with_training(name: str) -> bool:
    """Whether a score called `name` always compares with the training pictures, whatever the reference set is."""
    metric = find_metric(name)
    return isinstance(metric, SampleMetric) and metric.compares_with == "training"


def decimals(name: str) -> int:
    """Digits after the point that are worth showing of a score; 3 for a name that is not registered."""
    metric = find_metric(name)
    return metric.decimals if metric else 3


def metric_names(section: "ScoringSection") -> tuple[str, ...]:
    """The names of all metrics that a recipe with `section` can have measured, in the order of their registration."""
    labels = dict.fromkeys(map(extractor_label, (section.set_extractor, *section.more_set_extractors)))
    names: list[str] = []
    for metric in (*SET_METRICS, *SAMPLE_METRICS):
        if isinstance(metric, SetMetric) and metric.family:
            names += [metric.name if label == INCEPTION else f"{metric.family}-{label}" for label in labels]
        else:
            names.append(metric.name)
    return tuple(names)


def check_metric_names(section: "ScoringSection", source: str) -> None:
    """Raise RecipeInvalid when `primary` of `section` names what is not measured, or two extractors have one label.

    A metric with a model of its own is measured only where the recipe names that model.

    `source` says in the message which file this is.
    """
    extractors = tuple(dict.fromkeys((section.set_extractor, *section.more_set_extractors)))
    labels = [extractor_label(name) for name in extractors]
    if repeated := sorted({label for label in labels if labels.count(label) > 1}):
        same = " and ".join(name for name, label in zip(extractors, labels, strict=True) if label == repeated[0])
        raise RecipeInvalid(
            f"{source}: scoring.more_set_extractors: {same} are both called {repeated[0]} in the names of metrics: "
            "leave one out, or copy one to a folder with another name."
        )
    known = metric_names(section)
    for name in section.primary:
        metric = BY_NAME.get(name)
        needed = metric.requires if isinstance(metric, SampleMetric) else ""
        if needed and getattr(section, needed.removeprefix("scoring.")) is None:
            raise RecipeInvalid(f"{source}: scoring.primary: {name} is measured only where {needed} names its model.")
        if name in known:
            continue
        if isinstance(metric, SetMetric):
            other = f"{metric.family}-{labels[0]}"
            raise RecipeInvalid(
                f"{source}: scoring.primary: {name} is measured with Inception only, and scoring.set_extractor is "
                f"{section.set_extractor}: there it is called {other}."
            )
        raise RecipeInvalid(
            f"{source}: scoring.primary: {name} is not a metric; the metrics are {', '.join(sorted(known))}."
        )
