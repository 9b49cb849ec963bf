"""Experiment trackers: TensorBoard event files and MLflow runs, behind one protocol."""

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

# protobuf makes these classes when the module is loaded: a checker cannot see them
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from naruto_core.domain import Run, StepRecord

Outcome = Literal["FINISHED", "FAILED", "KILLED"]  # MLflow's words


class Tracker(Protocol):
    """Whoever keeps curves. Called from one thread, in this order; may raise anything."""

    def open(self) -> None:
        """Make or find the place of this run."""
        ...

    def write(self, at: float, records: list[StepRecord]) -> None:
        """Keep `records`, told `at` (seconds since 1970), so that a kill right after loses none of them."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Training is over."""
        ...


def numbers(record: StepRecord) -> dict[str, float]:
    """`train/loss`, `train/learning_rate` and every gauge: trackers show what has one prefix together."""
    told = {"loss": record.loss, "learning_rate": record.learning_rate, **record.gauges}
    return {f"train/{name}": value for name, value in told.items()}


class TensorBoard:
    """Writes with TensorBoard's own protocol buffers and record writer, as torch's SummaryWriter does.

    Without that class, because it has a thread of its own, which prints the traceback of a full disk.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file: RecordWriter | None = None

    def open(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, at: float, records: list[StepRecord]) -> None:
        file = self.file = self.file or self._start(records[0].step)
        try:
            for record in records:
                values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers(record).items()]
                _put(file, Event(wall_time=at, step=record.step, summary=Summary(value=values)))
            file.flush()
        except OSError:
            with suppress(OSError):  # now: Python 3.13 tells the terminal of a buffer that it cannot write at the end
                file.close()
            raise

    def close(self, outcome: Outcome) -> None:
        del outcome  # an event file has no place for it
        if self.file:
            self.file.close()

    def _start(self, step: int) -> RecordWriter:
        """A new event file; what earlier ones hold of `step` and later is void (SummaryWriter's `purge_step`)."""
        seconds, rest = divmod(time.time_ns(), 10**9)  # files are read in the order of their names
        file = RecordWriter((self.folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}").open("xb"))
        _put(file, Event(wall_time=seconds, file_version="brain.Event:2"))
        _put(file, Event(wall_time=seconds, step=step, session_log=SessionLog(status=SessionLog.START)))
        return file


def _put(file: RecordWriter, event: Event) -> None:
    file.write(event.SerializeToString())


EXPERIMENT, RUN_TAG = "naruto", "naruto.run"
_STEPS_AT_ONCE = 50  # MLflow takes 1000 numbers in one call; a step has no more than 20


class MLflow:
    """The MLflow run of one run of ours, found again by its tag.

    MLflow keeps every point it is given, so a step that it has is not told again: the first telling stands.
    """

    def __init__(self, uri: str, folder: Path, run: Run, training: BaseModel) -> None:
        """`uri` is MLflow's tracking address; "" for a SQLite database in `folder`."""
        _settle_mlflow()
        import_module("mlflow.tracking")
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.artifacts = None if uri else (folder / "artifacts").as_uri()
        self.run, self.training, self.began = run, training, time.time()

    def open(self) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        self.client = MlflowClient(tracking_uri=self.uri)
        self.id, self.known = self._run()
        choices = flatten("training", self.training.model_dump(mode="json"))
        params = [Param(name, value[:MAX_PARAM_VAL_LENGTH]) for name, value in choices]
        for some in _portions(params, MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(self.id, params=some)

    def write(self, at: float, records: list[StepRecord]) -> None:
        from mlflow.entities import Metric

        fresh = [record for record in records if record.step not in self.known]
        for some in _portions(fresh, _STEPS_AT_ONCE):
            told = [(name, value, record.step) for record in some for name, value in numbers(record).items()]
            metrics = [Metric(name, _plottable(value), _milliseconds(at), step) for name, value, step in told]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, outcome: Outcome) -> None:
        self.client.set_terminated(self.id, outcome)

    def _run(self) -> tuple[str, set[int]]:
        """The id of the MLflow run, and the steps it has: a new one, or the one made before a kill."""
        experiment = self._experiment()
        found = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self.run.id}'", max_results=1)
        if found:
            known = found[0].info.run_id
            self.client.update_run(known, status="RUNNING")
            return known, {point.step for point in self.client.get_metric_history(known, "train/loss")}
        tags = {RUN_TAG: self.run.id, "naruto.dataset": self.run.dataset_id, "naruto.recipe": self.run.fingerprint}
        made = self.client.create_run(experiment, _milliseconds(self.began), tags, self.run.id)
        return made.info.run_id, set()

    def _experiment(self) -> str:
        if experiment := self.client.get_experiment_by_name(EXPERIMENT):
            return experiment.experiment_id
        return self.client.create_experiment(EXPERIMENT, self.artifacts)


def _settle_mlflow() -> None:
    """No calls home, and no lines between our own; a user's explicit settings win."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with the password in it
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def flatten(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every choice below `tree` as a dotted name and text, e.g. ("training.prior.class_batch_size", "3")."""
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            yield from flatten(name, value)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _milliseconds(at: float) -> int:
    return int(at * 1000)


def _plottable(value: float) -> float:
    """MLflow stores infinity as 1.8e308, which flattens the rest of a curve; NaN it leaves out."""
    return value if math.isfinite(value) else math.nan


def _portions(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
