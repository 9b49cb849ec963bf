"""Tell people how far a task is: a line in the terminal, a log line and a progress artifact in Prefect."""

import sys
import time
from collections.abc import Callable
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger

from naruto_core.domain import Progress, format_duration

TERMINAL_SECONDS, PREFECT_SECONDS = 0.5, 5.0


def describe(progress: Progress) -> str:
    """One line: "train      120/500 steps  24 %  loss 0.081  1 min 10 s left"."""
    counted = f"{progress.done}/{progress.total} {progress.unit}s"
    share = f"{progress.done / progress.total:4.0%}" if progress.total else "    "
    left = f"{format_duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
    return f"{progress.stage:<10} {counted:<20} {share}  {progress.note}{'  ' if progress.note else ''}{left}".rstrip()


def reporter() -> Callable[[Progress], None]:
    """A progress callback for the running task; cheap to call at every step."""
    terminal, prefect = _terminal(), _prefect()

    def report(progress: Progress) -> None:
        finished = progress.done >= progress.total > 0
        terminal(progress, finished)
        prefect(progress, finished)

    return report


def pace(stage: str, total: int, unit: str) -> Callable[[int], None]:
    """The same for work whose units take about equally long: to be told how many of `total` are done."""
    report, began = reporter(), time.monotonic()

    def done(count: int) -> None:
        spent = time.monotonic() - began
        report(Progress(stage, count, total, unit, spent, spent / count * (total - count)))

    return done


def _terminal() -> Callable[[Progress, bool], None]:
    live, last = sys.stderr.isatty(), 0.0

    def show(progress: Progress, finished: bool) -> None:
        nonlocal last
        now = time.monotonic()
        if not finished and now - last < (TERMINAL_SECONDS if live else PREFECT_SECONDS):
            return
        last = now
        start, end = ("\r\x1b[2K", "\n" if finished else "") if live else ("", "\n")
        print(f"{start}{describe(progress)}", end=end, file=sys.stderr, flush=True)

    return show


def _prefect() -> Callable[[Progress, bool], None]:
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
            made = create_progress_artifact(percent, description=progress.stage)
            artifact = made if isinstance(made, UUID) else None
        else:
            update_progress_artifact(artifact, percent, description=describe(progress))

    return tell


def say(sentence: str) -> None:
    """One plain line for whoever watches the terminal."""
    print(sentence, file=sys.stderr, flush=True)
