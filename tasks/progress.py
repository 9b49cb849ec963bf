"""Progress of a task: a bar or lines in the terminal, a log line and a progress artifact in Prefect."""

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from naruto_core.domain import Progress, format_duration
from naruto_core.errors import printable

if TYPE_CHECKING:  # rich and the database are imported by who reports progress: `say` needs neither
    from rich.console import Console

TERMINAL_SECONDS, PREFECT_SECONDS = 0.5, 5.0
BAR_WIDTH = 24


def describe(progress: Progress) -> str:
    """One line: "train      120/500 steps  24 %  loss 0.081  1 min 10 s left"."""
    counted = f"{progress.done}/{progress.total} {progress.unit}s"
    share = f"{progress.done / progress.total:4.0%}" if progress.total else "    "
    left = f"{format_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    return f"{progress.stage:<10} {counted:<20} {share}  {progress.note}{'  ' if progress.note else ''}{left}".rstrip()


def reporter(*, stoppable: bool = True) -> Callable[[Progress], None]:
    """A progress callback for the running task; cheap to call at every step.

    If `stoppable`, it raises RunStopped when somebody asked the run to stop: a report is a safe point.
    """
    from tasks.run_lease import check_stop

    terminal, prefect = _terminal(), _prefect()

    def report(progress: Progress) -> None:
        finished = progress.done >= progress.total > 0
        terminal(progress, finished)
        prefect(progress, finished)
        if stoppable and not finished:
            check_stop()

    return report


def unit_reporter(stage: str, total: int, unit: str) -> Callable[[int], None]:
    """A callback that takes how many of `total` units are done; for units that take about equally long."""
    report, began = reporter(), time.monotonic()

    def report_count(count: int) -> None:
        elapsed = time.monotonic() - began
        report(Progress(stage, count, total, unit, elapsed, elapsed / count * (total - count)))

    return report_count


def _bar(progress: Progress, console: "Console") -> str:
    """One line for a terminal: a bar, then what `describe` says; cut at the terminal's width."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    line = Table.grid(padding=(0, 1))
    line.add_column(width=BAR_WIDTH)
    line.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=BAR_WIDTH)
    line.add_row(bar, describe(progress))
    with console.capture() as capture:
        console.print(line)
    return capture.get().rstrip("\n")


def _terminal() -> Callable[[Progress, bool], None]:
    """A bar that is drawn again in place where stderr is a terminal; elsewhere plain lines."""
    from rich.console import Console

    live, last, console = sys.stderr.isatty(), 0.0, Console(stderr=True, highlight=False, markup=False)

    def show(progress: Progress, finished: bool) -> None:
        nonlocal last
        now = time.monotonic()
        if not finished and now - last < (TERMINAL_SECONDS if live else PREFECT_SECONDS):
            return
        last = now
        if live:
            print(f"\r\x1b[2K{_bar(progress, console)}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(describe(progress), file=sys.stderr, flush=True)

    return show


def _prefect() -> Callable[[Progress, bool], None]:
    if "prefect" not in sys.modules:  # a command that runs no flow: importing it takes a second
        return lambda _progress, _finished: None
    from prefect.artifacts import create_progress_artifact, update_progress_artifact
    from prefect.context import TaskRunContext
    from prefect.logging import get_run_logger

    if TaskRunContext.get() is None:  # called as a plain function, outside any flow run
        return lambda _progress, _finished: None
    logger, last, artifact = get_run_logger(), 0.0, None

    def tell(progress: Progress, finished: bool) -> None:
        nonlocal last, artifact
        now = time.monotonic()
        if not finished and now - last < PREFECT_SECONDS:
            return
        last = now
        logger.info(describe(progress))
        percent = 100.0 * progress.done / max(1, progress.total)
        if artifact is None:
            created = create_progress_artifact(percent, description=progress.stage)
            artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(artifact, percent, description=describe(progress))

    return tell


def say(sentence: str) -> None:
    """One plain line for whoever watches the terminal, and for the log of the flow run in Prefect."""
    print(printable(sentence), file=sys.stderr, flush=True)
    if "prefect" not in sys.modules:
        return
    from prefect.context import TaskRunContext
    from prefect.logging import get_run_logger

    if TaskRunContext.get() is not None:
        logger = get_run_logger()
        (logger.warning if sentence.startswith("warning") else logger.info)(sentence.strip("\n"))
