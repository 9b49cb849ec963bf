"""Curves as TensorBoard's event files, one file a start, one folder a run."""

import time
from contextlib import suppress
from pathlib import Path

# protobuf makes these classes when the module is loaded: a checker cannot see them
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboard.summary.writer.record_writer import RecordWriter

from naruto_core.domain import StepRecord
from naruto_core.telemetry.tracker import Outcome, numbers


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
