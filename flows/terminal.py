"""What commands print: listings, as JSON or as text of the terminal's width, and the sentence that one ends in."""

import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from types import FrameType
from typing import Any

from naruto_core.errors import NarutoError, printable


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


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the command as Ctrl-C does."""


def _on_terminate(_number: int, _frame: FrameType | None) -> None:
    raise _Terminated


def end_in_one_sentence(command: Callable[[], None]) -> None:
    """Run `command`; a NarutoError ends in its sentence and status 1, a signal in one and status 130 or 143."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _on_terminate) if is_main else None  # a flow has a handler of its own
    try:
        command()
    except NarutoError as error:
        print(f"naruto: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(1) from None
    except BaseException as error:
        status = _stopped_by(error)
        if status is None:
            raise
        if leases := sys.modules.get("tasks.run_lease"):  # it was between two steps of a run
            leases.cancel_held_runs()
        print("\nnaruto: stopped; the same command resumes it.", file=sys.stderr)
        raise SystemExit(status) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _stopped_by(error: BaseException | None) -> int | None:
    """The exit status of a command that a signal ended, 128 + its number; None where no signal did.

    The signal may have stopped Prefect's server too, which then is the last error of several.
    """
    while error is not None:
        if isinstance(error, _Terminated) or type(error).__name__ == "TerminationSignal":  # Prefect's
            return 128 + signal.SIGTERM
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        error = error.__cause__ or error.__context__
    return None
