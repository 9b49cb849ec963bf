"""Listings: rows for programs (JSON), and the same as text: a table of the terminal's width, or aligned lines."""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from naruto_core.errors import printable


@dataclass(frozen=True, slots=True)
class Listing:
    """`rows` are JSON-able values, `text` says the same in the terminal."""

    rows: Any
    text: str


def columns(rows: Sequence[Sequence[str]], *, head: bool = True) -> str:
    """`rows`, the `head` first if there is one: a table of the terminal's width, or plain lines for other programs.

    Control characters in cells, as in the name of a file, are escaped.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        return _terminal_table(rows, head)
    from naruto_core.report.score_table import aligned  # imports numpy: `naruto --help` does not need it

    return aligned(rows)


def _terminal_table(rows: Sequence[Sequence[str]], head: bool) -> str:
    from rich import box  # these take a tenth of the time of a short command
    from rich.console import Console
    from rich.table import Table as TerminalTable
    from rich.text import Text

    table = TerminalTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_header=head)
    for title in rows[0]:
        table.add_column(Text(title), overflow="fold")
    for row in rows[1:] if head else rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: what a cell holds is never read as markup
    console = Console(highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip("\n")


def print_listing(listing: Listing, as_json: bool) -> None:
    """Print a listing as text, or `as_json`."""
    if as_json:
        print(json.dumps(_jsonable(listing.rows), indent=2, allow_nan=False))
    else:
        print(listing.text)


def _jsonable(value: object) -> object:
    """`value` in JSON types; NaN and infinity become null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {str(key): _jsonable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | None) else str(value)
