"""What a task works with: the settings, folders, database and device of this machine, and the run it works on."""

import json
import time
from asyncio import CancelledError
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core.artifacts import Layout
from naruto_core.domain import DatasetVersion, PromptSuite, Run, RunState
from naruto_core.errors import NarutoError, NotRecorded, RunPruned, RunStopped
from naruto_core.recipe import Recipe
from naruto_core.settings import Settings, read_settings, sqlite_url
from naruto_core.store.database import Store, open_store
from naruto_core.store.read_only_home import DATABASE_FILE, read_only_layout
from tasks.prefect_server import end_server_with_this_process
from tasks.progress import say
from tasks.run_lease import STOPPED_BY_SIGNAL, add_wait, check_stop, hold_run, release_run, still_holds

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run with everything that it depends on; the flow passes it from task to task.

    `datasets` are those of the recipe's own style and of its other styles, in the recipe's order; of a finished run
    that was read from the database, the first one alone.
    """

    run: Run
    recipe: Recipe
    suite: PromptSuite
    datasets: tuple[DatasetVersion, ...]

    @property
    def id(self) -> str:
        """The run's id."""
        return self.run.id

    @property
    def dataset(self) -> DatasetVersion:
        """The dataset version of the recipe's own style: the run's scores compare with its pictures."""
        return self.datasets[0]


@dataclass(frozen=True, slots=True)
class TaskContext:
    """This machine: settings, folders, and the open database."""

    settings: Settings
    layout: Layout
    store: Store

    @property
    def device(self) -> "torch.device":
        """The device of the settings; the first use imports torch. Raises DeviceUnfit."""
        from naruto_core import devices
        from naruto_core.training import distributed

        return distributed.local_device(devices.pick_device(self.settings.device))


@dataclass(frozen=True, slots=True)
class RunContext(TaskContext):
    """This machine, and the run that a task works on."""

    run: Run
    recipe: Recipe
    suite: PromptSuite
    datasets: tuple[DatasetVersion, ...]

    @property
    def dataset(self) -> DatasetVersion:
        """See `OpenRun.dataset`."""
        return self.datasets[0]


@contextmanager
def task_context() -> Generator[TaskContext]:
    """This machine's context; its database is open for the length of the block."""
    end_server_with_this_process()
    settings = read_settings()
    with open_store(settings.database_url) as store:
        yield TaskContext(settings, Layout(settings.root, settings.store), store)


@contextmanager
def run_context(opened: OpenRun, step: str, *, needs_device: bool = True) -> Generator[RunContext]:
    """The context of one step of a run: this process has the run's lease, and the device if it `needs_device`.

    An error is written on the run as the step's failure, and raised on; a run that somebody stopped is cancelled. The
    lease is kept for the next step, unless the run has failed or was done before. With a bucket (NARUTO_STORE) the
    run's recorded files are fetched before the block, and published after it.
    """
    with task_context() as machine:
        context, unfinished = with_run(machine, opened), opened.run.state is RunState.RUNNING
        hold_run(context.store, context.settings, opened.id, say)
        try:
            if unfinished:
                context.store.resume_run(opened.id)  # a step that failed is tried again
            check_stop()
            _fetch_files(context)
            with _waiting_is_no_work(context, step) if needs_device else nullcontext():
                yield context
            if context.settings.store:
                from tasks.sharing import publish_run

                publish_run(context)
        except BaseException as error:
            if still_holds(context.store, context.settings, opened.id):  # else it is the run of another process
                _record_end(context, step, error)
            release_run(context.store, context.settings, opened.id)
            raise
        if not unfinished:
            release_run(context.store, context.settings, opened.id)


def _fetch_files(context: RunContext) -> None:
    """With a bucket, fetch the recorded files of the run that this machine has not."""
    if context.settings.store:
        from tasks.sharing import fetch_run  # it imports what reads datasets, which takes a while

        fetch_run(context)


@contextmanager
def _waiting_is_no_work(context: RunContext, step: str) -> Generator[None]:
    """The device for the block alone; the time until it is free is not counted as work on the run."""
    began = time.monotonic()
    with exclusive_device(context, f"{step} {context.run.id}"):
        add_wait(context.store, context.settings, context.run.id, time.monotonic() - began)
        yield


def _record_end(context: RunContext, step: str, error: BaseException) -> None:
    """Mark the run as pruned where its sweep ended it, as cancelled where somebody stopped it, else as failed."""
    from prefect.exceptions import TerminationSignal  # commands that only read a run import no Prefect

    run_id, now = context.run.id, datetime.now(UTC)
    if isinstance(error, RunPruned):
        context.store.prune_run(run_id, str(error).removeprefix(f"run {run_id} was pruned: "), now)
    elif isinstance(error, RunStopped):
        reason = str(error).removeprefix(f"run {run_id} stopped: ")
        context.store.cancel_run(run_id, f"{step}: {reason}", now)
    elif isinstance(error, (KeyboardInterrupt, TerminationSignal, CancelledError)):
        context.store.cancel_run(run_id, f"{step}: {STOPPED_BY_SIGNAL}", now)
    else:
        context.store.fail_run(run_id, f"{step}: {str(error) or type(error).__name__}", now)


def with_run(context: TaskContext, opened: OpenRun) -> RunContext:
    """`context` with the run that is worked on."""
    return RunContext(
        settings=context.settings,
        layout=context.layout,
        store=context.store,
        run=opened.run,
        recipe=opened.recipe,
        suite=opened.suite,
        datasets=opened.datasets,
    )


def recorded_run(context: TaskContext, name: str) -> OpenRun:
    """The run called `name`, from the database; NotRecorded when it does not exist, or has no samples."""
    run, store = context.store.run(name), context.store
    suite, dataset = store.prompts(run.id), store.find_dataset(run.dataset_id)
    text = store.recipe_json(run.id)
    if suite is None or dataset is None or not store.samples(run.id):
        if run.state is RunState.PRUNED:
            raise NotRecorded(
                f"run {run.id} was pruned by a sweep, so it has no samples: choose another run. `naruto run` with its "
                f"recipe and values (see  naruto show {run.id}) trains it to its end."
            )
        imported = json.loads(text).get("imported")
        command = f"the same  naruto import {imported['kind']}" if imported else f"naruto run --recipe {run.profile}"
        raise NotRecorded(f"run {run.id} has no samples yet; finish it with  {command}")
    opened = OpenRun(run, Recipe.model_validate_json(text), suite, (dataset,))
    _fetch_files(with_run(context, opened))
    return opened


@contextmanager
def read_only_context(context: TaskContext, home: Path, beside: Path | None) -> Generator[TaskContext]:
    """The context of another NARUTO_HOME, on this machine's device; see `read_only_layout`. Nothing is written there.

    Its errors name that folder, not its copy.
    """
    with read_only_layout(home, context.layout, beside) as layout:
        try:
            with open_store(sqlite_url(layout.root / DATABASE_FILE)) as store:
                yield replace(context, layout=layout, store=store)
        except NarutoError as error:
            sentence = str(error).replace(str(layout.root), str(home))
            raise type(error)(sentence if sentence != str(error) else f"in {home}: {sentence}") from error


def exclusive_device(context: TaskContext, job: str) -> AbstractContextManager[None]:
    """The device for `job` alone; says which job it waits for."""
    from naruto_core.devices import hold_device

    return hold_device(
        context.settings.locks,
        str(context.device),
        job,
        lambda holder: say(f"waiting: the device is busy with {holder}"),
    )
