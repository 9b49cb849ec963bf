"""Training curves beside the record: TensorBoard event files, MLflow runs, both or (by default) neither.

The record is what this project reads; a tracker is a copy for people who look elsewhere, so it may fail and
training may not. Each tracker works in a thread of its own: the loop waits for no disk and no server, and
a tracker that fails is off for the rest of that training, with one line that says so.
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
from naruto_core.errors import DeviceUnfit, RecipeInvalid
from naruto_core.telemetry.trackers import Outcome, Tracker

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow-skinny"}  # tracker, and what has to be installed for it
CLOSING_SECONDS = 30.0  # at the end of training, for what a slow tracker still has before it
_STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")

Tell = Callable[[list[StepRecord]], None]
Warn = Callable[[str], None]


def choose_trackers(names: str, mlflow_uri: str) -> list[str]:
    """The trackers in the comma-separated `names`, none for "".

    Raises RecipeInvalid for a name or an address that means nothing, DeviceUnfit for a package that is not installed.
    """
    chosen = list(dict.fromkeys(name for part in names.split(",") if (name := part.strip().lower())))
    for name in chosen:
        if name not in PACKAGES:
            near = get_close_matches(name, PACKAGES, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {' and '.join(PACKAGES)}."
            raise RecipeInvalid(f"NARUTO_TRACKERS names {name!r}, which is no tracker: {hint}")
        if importlib.util.find_spec(name) is None:
            raise DeviceUnfit(
                f"NARUTO_TRACKERS names {name}, which is not installed: install the Python package {PACKAGES[name]}, "
                "or leave the name out."
            )
    if "mlflow" in chosen and mlflow_uri and re.split("[:+]", mlflow_uri)[0] not in _STORES:
        raise RecipeInvalid(
            "NARUTO_MLFLOW_URI is no place that MLflow can write to: give a server (http://host:5000) or a database "
            "(sqlite:////folder/mlflow.db), or leave it unset."
        )
    return chosen


@contextmanager
def tracking(names: str, mlflow_uri: str, layout: Layout, run: Run, training: BaseModel, warn: Warn) -> Generator[Tell]:
    """Somebody to tell every training step to, until the block ends.

    Steps may be told again after a resume: a curve still has one point for each. `training` is the recipe's
    section; `warn` gets one sentence, from any thread, when a tracker fails.
    """
    followers: list[_Follower] = []
    for name in choose_trackers(names, mlflow_uri):
        off = _last_words(name, mlflow_uri, warn)
        try:  # imports here, not in the thread: two threads that import at once can meet half of a module
            followers.append(_Follower(name, _make_tracker(name, mlflow_uri, layout, run, training), warn, off))
        except Exception as error:  # noqa: BLE001 (see _follow)
            off(error)

    def tell(records: list[StepRecord]) -> None:
        for follower in followers:
            follower.tell(records)

    outcome: Outcome = "KILLED"  # what is no Exception: Ctrl-C, a cancelled flow run
    try:
        yield tell
        outcome = "FINISHED"
    except Exception:
        outcome = "FAILED"
        raise
    finally:
        for follower in followers:
            follower.close(outcome)


def _make_tracker(name: str, mlflow_uri: str, layout: Layout, run: Run, training: BaseModel) -> Tracker:
    if name == "tensorboard":
        from naruto_core.telemetry.trackers import TensorBoard

        return TensorBoard(layout.tensorboard(run.id))
    from naruto_core.telemetry.trackers import MLflow

    return MLflow(mlflow_uri, layout.mlflow(), run, training)


def _last_words(name: str, mlflow_uri: str, warn: Warn) -> Callable[[Exception], None]:
    """Say why a tracker is off, without the password that MLflow repeats with its address."""
    found = re.search(r"//(?:[^/@:]*:)?(.+@)", mlflow_uri)

    def off(error: Exception) -> None:
        why = " ".join(str(error).split()) or type(error).__name__
        if found:
            why = why.replace(found[1], "***@")
        warn(f"{name} is off for the rest of this training, which goes on without it: {why[:300]}")

    return off


class _Follower:
    """One tracker in a thread of its own."""

    def __init__(self, name: str, tracker: Tracker, warn: Warn, off: Callable[[Exception], None]) -> None:
        self.name, self.tracker, self.warn, self.off = name, tracker, warn, off
        self.told: SimpleQueue[tuple[float, list[StepRecord]] | Outcome] = SimpleQueue()
        self.thread = Thread(target=self._follow, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def tell(self, records: list[StepRecord]) -> None:
        if records and self.thread.is_alive():
            self.told.put((time.time(), records))

    def close(self, outcome: Outcome) -> None:
        """Let the tracker end; one that takes too long over it is left behind."""
        self.told.put(outcome)
        self.thread.join(CLOSING_SECONDS)
        if self.thread.is_alive():
            self.warn(
                f"{self.name} was not done {CLOSING_SECONDS:.0f} s after training: its last steps may be missing."
            )

    def _follow(self) -> None:
        try:
            self.tracker.open()
            while not isinstance(told := self.told.get(), str):
                self.tracker.write(*told)
            self.tracker.close(told)
        except Exception as error:  # noqa: BLE001 (whatever a tracker dies of, training goes on)
            self.off(error)
