"""Where a task works: the store, the folders, the device of this machine, and whose turn it is."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from naruto_core import devices
from naruto_core.artifacts import Layout
from naruto_core.devices import hold_device
from naruto_core.domain import Run
from naruto_core.errors import NarutoError
from naruto_core.settings import Settings, read_settings
from naruto_core.store.database import Store, open_store
from naruto_core.store.read_only_home import DATABASE_FILE, read_only_layout
from naruto_core.training import distributed
from tasks.progress import say


@dataclass(frozen=True, slots=True)
class TaskContext:
    """Everything a task needs to know about this machine."""

    settings: Settings
    layout: Layout
    store: Store
    device: torch.device


@contextmanager
def working_place() -> Iterator[TaskContext]:
    """This machine's place, its store open for the length of the block."""
    settings = read_settings()
    with open_store(settings.database_url) as store:
        device = distributed.local_device(devices.pick_device(settings.device))
        yield TaskContext(settings, Layout(settings.root), store, device)


@contextmanager
def place_elsewhere(place: TaskContext, home: Path, beside: Path | None) -> Iterator[TaskContext]:
    """What is recorded in another NARUTO_HOME, on this machine's device; see `looked_at`. Nothing is written there.

    Its errors are told as that folder's, not as its copy's.
    """
    with read_only_layout(home, place.layout, beside) as layout:
        try:
            with open_store(f"sqlite:///{layout.root / DATABASE_FILE}") as store:
                yield replace(place, layout=layout, store=store)
        except NarutoError as error:
            told = str(error).replace(str(layout.root), str(home))
            raise type(error)(told if told != str(error) else f"in {home}: {told}") from error


@contextmanager
def recording(run: Run, verb: str) -> Iterator[TaskContext]:
    """The place; an error is written on the run before it goes on."""
    with working_place() as place:
        try:
            yield place
        except BaseException as error:
            reason = str(error) or type(error).__name__
            place.store.fail_run(run.id, f"{verb}: {reason}", datetime.now(UTC))
            raise


@contextmanager
def working_on(run: Run, verb: str) -> Iterator[TaskContext]:
    """The same, with the device to ourselves."""
    with recording(run, verb) as place, to_ourselves(place, f"{verb} {run.id}"):
        yield place


def to_ourselves(place: TaskContext, what: str) -> AbstractContextManager[None]:
    """The device for `what` alone; says whom it waits for."""
    return hold_device(
        place.settings.locks, str(place.device), what, lambda holder: say(f"waiting: the device is busy with {holder}")
    )
