"""What `naruto compare` shows, and the page that `naruto report` writes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flows.listings import Listing, columns
from naruto_core.report.tables import digits
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.findings import NOT_MEASURED
from tasks.compare import compare_models
from tasks.place import working_place
from tasks.report import write_report


def list_comparison(first: str, second: str) -> Listing:
    """Every metric of both models with the difference, its interval, and a verdict on the second."""
    with working_place() as place:
        found = compare_models(place, first, second)
    rows = [asdict(one) | {"verdict": str(one.verdict)} for one in found]
    return Listing(rows, comparison_table(found))


def write_page(name: str, path: Path) -> Path:
    """The report of one run, written as `path`."""
    with working_place() as place:
        return write_report(place, name, path)


def unmeasured(name: str) -> str:
    """Which metrics of a run could not be had, and why; "" when there is none."""
    with working_place() as place:
        found = place.store.findings(place.store.run(name).id)
    return next((finding.sentence for finding in found if finding.name == NOT_MEASURED), "")


def comparison_table(found: Sequence[Comparison]) -> str:
    """Primary metrics first; the rest is exploratory."""
    head = ["metric", "first", "second", "difference", "95 % interval", "p (Holm)", "n", "verdict on the second"]
    parts: list[str] = []
    for primary, title in ((True, "primary: named in the recipe"), (False, "exploratory")):
        lines = [head, *(_line(one) for one in found if one.primary is primary)]
        if len(lines) > 1:
            parts.append(f"{title}\n{columns(lines)}")
    return "\n\n".join(parts)


def _line(one: Comparison) -> list[str]:
    places, found = digits(one.metric), one.difference
    first, second = (f"{value:.{places}f}" for value in (one.first, one.second))
    change, low, high = (f"{value:+.{places}f}" for value in (found.value, found.low, found.high))
    shown = [one.metric, first, second, change, f"{low} … {high}"]
    return [*shown, f"{one.p:.3f}", str(one.n), str(one.verdict)]
