"""What a metric declares, and the register of all metrics.

Each metric registers itself beside its function, in `set_metrics.py` or `sample_metrics.py`. Everything else reads the
register through `metrics.py`: evaluation, comparison, report, the recipe's names, the reference page of the docs. A new
metric is one function and one `register(...)` in one of these two files, and its test.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

ExtractorKind = Literal["set", "pair", "cmmd", "similarity", "own"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What every metric declares.

    name: as in recipes, tables and the database. A renamed metric is a new one.
    version: the formula and its constants; ends with a number, which grows when values change.
    better: 1 where more is better, -1 where less is better, 0 where neither is.
    sees, blind: one sentence each: what it measures, and what it cannot see.
    paper: the source of the method; empty where it is our own.
    extractor: which network's features it needs: that of `scoring.set_extractor` ("set"), that of
        `scoring.pair_extractor` ("pair", which reads texts too), that of `scoring.cmmd_extractor` ("cmmd"; where there
        is none, the pair extractor), the first of `scoring.more_set_extractors` ("similarity"; where there is none,
        the set extractor), or a model of its own ("own").
    headline: its place in the headline table of a run (`naruto scores`), from 1; 0 where it is not in it.
    title: what that table calls it, in words of at most 18 letters.
    in_lists: whether the list of all runs (`naruto runs`) has room for it.
    decimals: digits after the point that are worth showing.
    """

    name: str
    version: str
    better: Literal[-1, 0, 1]
    sees: str
    blind: str
    paper: str = ""
    extractor: ExtractorKind = "set"
    headline: int = 0
    title: str = ""
    in_lists: bool = False
    decimals: int = 3

    def is_named_by(self, names: Sequence[str]) -> bool:
        """Whether `names` of a recipe contain this metric."""
        return self.name in names


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


INCEPTION = "inception"
_DINOV2 = re.compile(r"dinov2(?:[-_](small|base|large|giant))?|vit_(small|base|large|giant)\w*dinov2")


def extractor_label(name: str) -> str:
    """The short name that metrics of the extractor `name` of a recipe end with, e.g. `judge` in `fd-judge`.

    The last part of a folder or of a hub id in lower case, without commit: `ViT-L-14/openai` is `vit-l-14`. DINOv2 is
    `dinov2` in its usual size (ViT-L), and `dinov2-small`, `dinov2-base`, `dinov2-giant` else.
    """
    kind, _, rest = name.partition(":")
    if kind == INCEPTION:
        return INCEPTION
    path = (rest if rest and "/" not in kind else name).partition("@")[0].rstrip("/")
    architecture, _, tag = path.partition("/")
    part = architecture if re.match(r"(ViT|RN|convnext|coca|EVA)", architecture) and "/" not in tag else ""
    label = (part or path.rpartition("/")[2]).lower()
    if found := _DINOV2.search(label):
        size = found[1] or found[2] or "large"
        return "dinov2" if size == "large" else f"dinov2-{size}"
    return re.sub(r"[^a-z0-9]+", "-", label).strip("-") or kind
