"""Training curves in experiment trackers: TensorBoard event files, MLflow runs, both or (by default) neither.

This project reads its own database; a tracker holds a copy for people who use that tool. So a tracker may fail, and
training goes on. Each tracker has a thread of its own: the training loop waits neither for a disk nor for a server. A
tracker that fails is off for the rest of that training, with one line that says so.
"""

import importlib.util
import re
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from difflib import get_close_matches
from queue import SimpleQueue
from threading import Thread

from pydantic import BaseModel

from naruto_core.artifacts import Layout
from naruto_core.domain import Run, StepRecord
from naruto_core.errors import DeviceUnfit, RecipeInvalid, RunStopped
from naruto_core.telemetry.trackers import Outcome, Tracker

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}  # the Python package that each tracker needs
CLOSING_SECONDS = 30.0  # that a slow tracker gets at the end of training to write its last steps
_MLFLOW_SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")

LogSteps = Callable[[list[StepRecord]], None]
Warn = Callable[[str], None]


def choose_trackers(names: str, mlflow_uri: str) -> list[str]:
    """The trackers in the comma-separated `names`; none for "".

    Raises RecipeInvalid for an unknown name or address, DeviceUnfit for a package that is not installed.
    """
    chosen = list(dict.fromkeys(name for part in names.split(",") if (name := part.strip().lower())))
    for name in chosen:
        if name not in PACKAGES:
            near = get_close_matches(name, PACKAGES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(PACKAGES)}."
            raise RecipeInvalid(f"NARUTO_TRACKERS names {name!r}, which is not a tracker: {hint}")
        if importlib.util.find_spec(name) is None:
            raise DeviceUnfit(
                f"NARUTO_TRACKERS names {name}, which is not installed: install the Python package {PACKAGES[name]}, "
                "or leave the name out."
            )
    if "mlflow" in chosen and mlflow_uri and re.split("[:+]", mlflow_uri)[0] not in _MLFLOW_SCHEMES:
        raise RecipeInvalid(
            "NARUTO_MLFLOW_URI is not an address that MLflow can write to: give a server (http://host:5000) or a "
            "database (sqlite:////folder/mlflow.db), or leave it unset."
        )
    return chosen


@contextmanager
def tracking(
    names: str, mlflow_uri: str, layout: Layout, run: Run, training: BaseModel, warn: Warn
) -> Generator[LogSteps]:
    """A function that logs training steps to every tracker, until the block ends.

    After a resume, steps may be logged again: a curve still has one point for each. `training` is the recipe's section;
    `warn` gets one sentence, from any thread, when a tracker fails.
    """
    threads: list[_TrackerThread] = []
    for name in choose_trackers(names, mlflow_uri):
        fail = _failure_handler(name, mlflow_uri, warn)
        try:  # imports here, not in the thread: two threads that import at once can see half of a module
            threads.append(_TrackerThread(name, _make_tracker(name, mlflow_uri, layout, run, training), warn, fail))
        except Exception as error:  # noqa: BLE001 (see _TrackerThread._run)
            fail(error)

    def log_steps(records: list[StepRecord]) -> None:
        for thread in threads:
            thread.log(records)

    outcome: Outcome = "KILLED"  # also for exceptions that are not an Exception: Ctrl-C, a cancelled flow run
    try:
        yield log_steps
        outcome = "FINISHED"
    except RunStopped:
        raise
    except Exception:
        outcome = "FAILED"
        raise
    finally:
        for thread in threads:
            thread.close(outcome)


def _make_tracker(name: str, mlflow_uri: str, layout: Layout, run: Run, training: BaseModel) -> Tracker:
    if name == "tensorboard":
        from naruto_core.telemetry.trackers import TensorBoard

        return TensorBoard(layout.tensorboard(run.id))
    from naruto_core.telemetry.trackers import MLflow

    return MLflow(mlflow_uri, layout.mlflow(), run, training)


def _failure_handler(name: str, mlflow_uri: str, warn: Warn) -> Callable[[Exception], None]:
    """A function that warns that a tracker is off; without the password, which MLflow repeats with its address."""
    password = re.search(r"//(?:[^/@:]*:)?(.+@)", mlflow_uri)

    def fail(error: Exception) -> None:
        reason = " ".join(str(error).split()) or type(error).__name__
        if password:
            reason = reason.replace(password[1], "***@")
        warn(f"{name} is off for the rest of this training, which goes on without it: {reason[:300]}")

    return fail


class _TrackerThread:
    """A tracker in a thread of its own, behind a queue."""

    def __init__(self, name: str, tracker: Tracker, warn: Warn, fail: Callable[[Exception], None]) -> None:
        self.name, self.tracker, self.warn, self.fail = name, tracker, warn, fail
        self.queue: SimpleQueue[tuple[float, list[StepRecord]] | Outcome] = SimpleQueue()
        self.thread = Thread(target=self._run, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def log(self, records: list[StepRecord]) -> None:
        if records and self.thread.is_alive():
            self.queue.put((time.time(), records))

    def close(self, outcome: Outcome) -> None:
        """Wait for the tracker to end, at most `CLOSING_SECONDS`; then warn and go on without it."""
        self.queue.put(outcome)
        self.thread.join(CLOSING_SECONDS)
        if self.thread.is_alive():
            self.warn(
                f"{self.name} was not done {CLOSING_SECONDS:.0f} s after training: its last steps may be missing."
            )

    def _run(self) -> None:
        try:
            self.tracker.open()
            while not isinstance(item := self.queue.get(), str):
                self.tracker.write(*item)
            self.tracker.close(item)
        except Exception as error:  # noqa: BLE001 (whatever fails in a tracker, training goes on)
            self.fail(error)
