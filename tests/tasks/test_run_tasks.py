"""The tasks of a run end as cancelled in Prefect, not as failed, when somebody stops the run."""

import inspect
import time
from importlib import import_module
from pathlib import Path
from uuid import UUID

import pytest
from prefect import Task, flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import CancelledRun
from prefect.runtime import flow_run

import tasks
from naruto_core.errors import RunStopped
from tasks.pruning import RunTask, run_task, shown_as_cancelled


def test_a_stopped_task_and_its_flow_are_cancelled_in_prefect(prefect_server: None) -> None:
    ids: list[str] = []

    @run_task()
    def draw(opened: str) -> int:
        raise RunStopped(f"run {opened} stopped: lea asked it to stop.")

    @run_task()
    def fuse(opened: str) -> str:
        return f"fused {opened}"

    @flow
    @shown_as_cancelled
    def whole() -> None:
        ids.append(str(flow_run.id))
        assert fuse("x") == "fused x"
        draw("x")

    with pytest.raises(CancelledRun, match="lea asked it to stop"):
        whole()
    with get_client(sync_client=True) as client:
        ours, deadline = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(ids[0])])), time.monotonic() + 120
        states: dict[str, str | None] = {}
        while states != {"fuse": "Completed", "draw": "Cancelled"}:  # Prefect writes states of tasks a little later
            assert time.monotonic() < deadline, states
            time.sleep(0.1)
            states = {run.name.partition("-")[0]: run.state_name for run in client.read_task_runs(flow_run_filter=ours)}
        assert client.read_flow_run(UUID(ids[0])).state_name == "Cancelled"


def test_every_task_that_works_on_an_open_run_is_one_of_these() -> None:
    names = [path.stem for path in Path(tasks.__path__[0]).glob("*.py")]
    found = [value for name in names for value in vars(import_module(f"tasks.{name}")).values()]
    of_runs = {
        each.name: each
        for each in found
        if isinstance(each, Task) and "opened" in inspect.signature(each.fn).parameters
    }
    assert {"train", "fuse", "generate", "score", "publish", "present", "close_run"} <= of_runs.keys()
    others = {name for name, each in of_runs.items() if not isinstance(each, RunTask)}
    assert others == {"draw_shard"}  # on another machine: the step that waits for it cancels it
