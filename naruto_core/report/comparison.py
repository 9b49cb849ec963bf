"""Two models in one sentence and one Markdown table, for a page that people read before they merge."""

from collections.abc import Sequence
from dataclasses import dataclass

from naruto_core.card.markdown import escape, table
from naruto_core.report.tables import digits, interval_text, number_text
from naruto_core.scoring.comparison import Comparison

_HEAD = ("metric", "first", "second", "difference", "95 % interval", "n", "verdict on the second")
_NOTE = (
    "Bold: the primary metrics, named in the recipe. Difference: second minus first, over the same prompts and seeds; "
    "intervals over prompts; verdicts after Holm's correction. It is these two models that are told apart: the same "
    "recipe trained with other rounding or another seed is another model too."
)


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of every metric; of the `pictures` of the same prompt and seed, `same` are the same bytes."""

    first: str
    second: str
    metrics: Sequence[Comparison]
    pictures: int
    same: int

    def worse(self) -> list[str]:
        """The primary metrics by which the second is worse."""
        return [one.metric for one in self.metrics if one.primary and one.verdict.word == "worse"]


def headline(found: Compared) -> tuple[str, str]:
    """What is said of the second, in a few words, and why: the worst verdict by a primary metric, and all of them."""
    if found.same == found.pictures:  # nothing was measured that could differ
        return "The same pictures", f"all {found.pictures:,} of the second are the first's, byte for byte."
    primary = [one for one in found.metrics if one.primary]
    if not primary:
        return "Not judged", "none of the primary metrics could be had of both."
    words = {one.verdict.word for one in primary}
    said = next((word for word in ("worse", "better", "undecided") if word in words), "")
    said = said or ("alike" if words == {"alike"} else "")
    said = said or ("neither better nor worse" if words & {"alike", "more", "less"} else "not judged")
    return f"{said.capitalize()} by the primary metrics", f"{'; '.join(f'{x.metric} {x.verdict}' for x in primary)}."


def comparison_markdown(found: Compared) -> str:
    """Headline and table, primary metrics first."""
    said, why = headline(found)
    sides = f"First: {escape(found.first)}. Second: {escape(found.second)}."
    same = f"{found.same:,} of {found.pictures:,} pictures are the same bytes."
    rows = table(_HEAD, [_cells(one) for one in found.metrics])
    return "\n\n".join([f"**{said}**: {escape(why)}", f"{sides} {same}", rows, _NOTE])


def _cells(one: Comparison) -> list[str]:
    figures = comparison_figures(one)
    name, verdict = (f"**{escape(text)}**" if one.primary else escape(text) for text in (one.metric, str(one.verdict)))
    return [name, *figures, str(one.n), verdict]


def comparison_figures(one: Comparison) -> list[str]:
    """First, second, difference and its interval, as far as they were measured."""
    places, found = digits(one.metric), one.difference
    change, bounds = (found.value, (found.low, found.high)) if found else (None, None)
    values = [number_text(value, f".{places}f") for value in (one.first, one.second)]
    return [*values, number_text(change, f"+.{places}f"), interval_text(bounds, f"+.{places}f")]
