"""What `naruto compare` shows, and the page that `naruto report` writes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from flows.listings import Listing, columns
from naruto_core.report.tables import Compared, comparison_figures, comparison_markdown, headline, number_text
from naruto_core.scoring.comparison import Comparison
from naruto_core.scoring.findings import NOT_MEASURED
from tasks.compare import compare_models, missing_home
from tasks.place import working_place
from tasks.report import write_report


def compared(first: str, second: str) -> Compared:
    """Every metric of both models with the difference, its interval, and a verdict on the second."""
    with working_place() as place:
        return compare_models(place, first, second)


def nothing_to_compare(*models: str) -> Listing | None:
    """A sentence when the NARUTO_HOME of one of them is not there; None when all are."""
    missing = next((home for name in models if (home := missing_home(name))), None)
    return Listing([], f"Nothing to compare with yet: there is no record in {missing}.") if missing else None


def list_comparison(found: Compared, *, markdown: bool = False) -> Listing:
    """What was compared, for programs and for people; as Markdown, for a page."""
    rows = [asdict(one) | {"verdict": str(one.verdict)} for one in found.metrics]
    if markdown:
        return Listing(rows, comparison_markdown(found))
    return Listing(rows, f"{': '.join(headline(found))}\n\n{comparison_table(found.metrics)}")


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
    return [one.metric, *comparison_figures(one), number_text(one.p, ".3f"), str(one.n), str(one.verdict)]
