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

# protobuf creates these classes at import time, so that pyright cannot see them
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from naruto_core.domain import Run, StepRecord

Outcome = Literal["FINISHED", "FAILED", "KILLED"]  # MLflow's names


class Tracker(Protocol):
    """A tool that stores training curves. Its methods are called in this order from one thread; they may raise."""

    def open(self) -> None:
        """Create this run in the tracker, or find it."""
        ...

    def write(self, at: float, records: list[StepRecord]) -> None:
        """Store `records` of the time `at` (seconds since 1970), so that a kill right afterwards loses none of them."""
        ...

    def close(self, outcome: Outcome) -> None:
        """End the run with the outcome of training."""
        ...


def numbers(record: StepRecord) -> dict[str, float]:
    """`train/loss`, `train/learning_rate` and every gauge; trackers group names by their prefix."""
    values = {"loss": record.loss, "learning_rate": record.learning_rate, **record.gauges}
    return {f"train/{name}": value for name, value in values.items()}


class TensorBoard:
    """An event file, written with TensorBoard's own protocol buffers and record writer, as by torch's SummaryWriter.

    That class is not used itself because its thread prints a traceback when the disk is full.
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
            with suppress(OSError):  # now: Python 3.13 prints an error at exit for a buffer that it cannot write
                file.close()
            raise

    def close(self, outcome: Outcome) -> None:
        del outcome  # an event file has no field for it
        if self.file:
            self.file.close()

    def _start(self, step: int) -> RecordWriter:
        """A new event file. It makes `step` and later steps of earlier files void (SummaryWriter's `purge_step`)."""
        seconds, rest = divmod(time.time_ns(), 10**9)  # TensorBoard reads files in the order of their names
        file = RecordWriter((self.folder / f"events.out.tfevents.{seconds:010d}.{rest:09d}").open("xb"))
        _put(file, Event(wall_time=seconds, file_version="brain.Event:2"))
        _put(file, Event(wall_time=seconds, step=step, session_log=SessionLog(status=SessionLog.START)))
        return file


def _put(file: RecordWriter, event: Event) -> None:
    file.write(event.SerializeToString())


EXPERIMENT, RUN_TAG = "naruto", "naruto.run"
_STEPS_AT_ONCE = 50  # MLflow accepts 1000 numbers in a call; a step has at most 20


class MLflow:
    """The MLflow run that belongs to a run; a tag with the run's id identifies it.

    MLflow stores every point that it gets, so that a step it already has is not sent again.
    """

    def __init__(self, uri: str, folder: Path, run: Run, training: BaseModel) -> None:
        """`uri` is MLflow's tracking address; "" for a SQLite database in `folder`."""
        _configure_mlflow()
        import_module("mlflow.tracking")
        self.uri = uri or f"sqlite:///{folder / 'mlflow.db'}"
        self.artifacts = None if uri else (folder / "artifacts").as_uri()
        self.run, self.training, self.started = run, training, time.time()

    def open(self) -> None:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient
        from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

        self.client = MlflowClient(tracking_uri=self.uri)
        self.id, self.stored_steps = self._find_or_create()
        choices = flatten("training", self.training.model_dump(mode="json"))
        params = [Param(name, value[:MAX_PARAM_VAL_LENGTH]) for name, value in choices]
        for batch in _batches(params, MAX_PARAMS_TAGS_PER_BATCH):
            self.client.log_batch(self.id, params=batch)

    def write(self, at: float, records: list[StepRecord]) -> None:
        from mlflow.entities import Metric

        new = [record for record in records if record.step not in self.stored_steps]
        for batch in _batches(new, _STEPS_AT_ONCE):
            points = [(name, value, record.step) for record in batch for name, value in numbers(record).items()]
            metrics = [Metric(name, _plottable(value), _milliseconds(at), step) for name, value, step in points]
            self.client.log_batch(self.id, metrics=metrics)

    def close(self, outcome: Outcome) -> None:
        self.client.set_terminated(self.id, outcome)

    def _find_or_create(self) -> tuple[str, set[int]]:
        """The id of the MLflow run and the steps that it has; it is new, or was created before training was killed."""
        experiment = self._experiment()
        runs = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{self.run.id}'", max_results=1)
        if runs:
            run_id = runs[0].info.run_id
            self.client.update_run(run_id, status="RUNNING")
            return run_id, {point.step for point in self.client.get_metric_history(run_id, "train/loss")}
        tags = {RUN_TAG: self.run.id, "naruto.dataset": self.run.dataset_id, "naruto.recipe": self.run.fingerprint}
        created = self.client.create_run(experiment, _milliseconds(self.started), tags, self.run.id)
        return created.info.run_id, set()

    def _experiment(self) -> str:
        if experiment := self.client.get_experiment_by_name(EXPERIMENT):
            return experiment.experiment_id
        return self.client.create_experiment(EXPERIMENT, self.artifacts)


def _configure_mlflow() -> None:
    """Turn off MLflow's usage statistics and its log lines; a user's own settings win."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # it would print the password
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)


def flatten(prefix: str, tree: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every value below `tree` as a dotted name and a text, e.g. ("training.prior.class_batch_size", "3")."""
    for key, value in tree.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            yield from flatten(name, value)
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)


def _milliseconds(at: float) -> int:
    return int(at * 1000)


def _plottable(value: float) -> float:
    """NaN for an infinite value: MLflow would plot infinity as 1.8e308, and leaves NaN out."""
    return value if math.isfinite(value) else math.nan


def _batches(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]
