"""What `naruto compare` shows: two models, metric by metric."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from flows.terminal import Listing, columns
from naruto_core.intervals import p_text
from naruto_core.report.tables import (
    Compared,
    comparison_figures,
    comparison_markdown,
    headline,
)
from tasks.kept_comparison import kept_comparison

if TYPE_CHECKING:
    from naruto_core.scoring.comparison import Comparison


def compared(first: str, second: str) -> Compared:
    """Every metric of both models with the difference, its interval, and a verdict on the second."""
    if kept := kept_comparison(first, second):
        return kept
    from tasks.compare import compare_models  # it imports what reads recipes, pictures and features
    from tasks.context import task_context

    with task_context() as context:
        return compare_models(context, first, second)


def nothing_to_compare(*models: str) -> Listing | None:
    """A sentence when the NARUTO_HOME of one of them is not there; None when all are."""
    from tasks.compare import missing_home

    missing = next((home for name in models if (home := missing_home(name))), None)
    return Listing([], f"Nothing to compare with yet: there is no record in {missing}.") if missing else None


def list_comparison(comparison: Compared, *, markdown: bool = False) -> Listing:
    """What was compared, for programs and for people; as Markdown, for a page."""
    rows = [asdict(metric) | {"verdict": str(metric.verdict)} for metric in comparison.metrics]
    if markdown:
        return Listing(rows, comparison_markdown(comparison))
    return Listing(rows, f"{': '.join(headline(comparison))}\n\n{comparison_table(comparison.metrics)}")


def comparison_table(comparisons: Sequence["Comparison"]) -> str:
    """Primary metrics first; the rest is exploratory."""
    head = ["metric", "first", "second", "difference", "95 % interval", "p (Holm)", "n", "verdict on the second"]
    parts: list[str] = []
    for primary, title in ((True, "primary: named in the recipe"), (False, "exploratory")):
        lines = [head, *(_line(comparison) for comparison in comparisons if comparison.primary is primary)]
        if len(lines) > 1:
            parts.append(f"{title}\n{columns(lines)}")
    return "\n\n".join(parts)


def _line(comparison: "Comparison") -> list[str]:
    figures = comparison_figures(comparison)
    return [comparison.metric, *figures, p_text(comparison.p), str(comparison.n), str(comparison.verdict)]
