"""What people see of a run in Prefect, and the commands that change runs."""

import json
import shutil
import threading
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from prefect import Task, flow
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.flow_runs import resume_flow_run
from prefect.states import AwaitingRetry
from prefect.utilities.callables import parameter_schema

import tasks
from flows.ingest import ingest_pictures
from flows.profiles import profile_names
from flows.promote import promote
from flows.rescore import rescore
from flows.train_naruto import train_naruto
from flows.watch import watch
from naruto_core.artifacts import Layout
from naruto_core.domain import Finding
from naruto_core.store.database import open_database, open_store
from naruto_core.store.leases import LeaseOwner
from naruto_core.store.promotions import CHAMPION
from tasks.score import finished_runs
from tests.flows.conftest import Naruto


def flow_run_of(run_id: str) -> FlowRun:
    """A completed flow run that is tagged with `run_id`; tests that stop runs leave others."""
    with get_client(sync_client=True) as client:
        tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[run_id]))
        return next(
            run for run in client.read_flow_runs(flow_run_filter=tagged) if run.state and run.state.is_completed()
        )


def test_prefects_page_has_run_dataset_scores_warnings_and_pictures(small_run: tuple[Path, str]) -> None:
    _, run_id = small_run
    shown = flow_run_of(run_id)
    assert shown.name == f"{run_id} on world:naruto?count=40&seed=5"
    assert {run_id, "mini"} <= set(shown.tags)
    with get_client(sync_client=True) as client:
        body = {"artifacts": {"flow_run_id": {"any_": [str(shown.id)]}}}
        artifacts = {a["key"]: a for a in client.request("POST", "/artifacts/filter", json=body).json() if a["key"]}
        of_it = FlowRunFilter(id=FlowRunFilterId(any_=[shown.id]))
        names = {run.name for run in client.read_task_runs(flow_run_filter=of_it)}
    scores = artifacts["scores"]["data"]
    assert "| metric | model | value | 95 % interval | n | measured by |" in scores
    assert "| mmd | adapted |" in scores
    assert "- **not measured**: fd-judge:" in scores
    assert artifacts["contact-sheet"]["data"].startswith("data:image/webp;base64,")
    assert len(artifacts["contact-sheet"]["data"]) < 300_000
    assert "plan" in artifacts
    assert "generate base, adapted" in names


@pytest.mark.parametrize("form", [train_naruto, ingest_pictures, rescore, watch, promote])
def test_every_field_of_a_form_is_described_and_recipes_are_choices(form) -> None:
    properties = parameter_schema(form.fn).properties
    assert [name for name, field in properties.items() if not field.get("description")] == []
    if "profile" in properties:
        assert properties["profile"]["enum"] == profile_names()


def test_no_task_takes_the_result_of_an_earlier_try() -> None:
    names = [module.name for module in iter_modules(tasks.__path__)]
    modules = [import_module(f"tasks.{name}") for name in names]
    found = {value.name: value for module in modules for value in vars(module).values() if isinstance(value, Task)}
    assert {"train", "check_canaries", "set_alias"} <= found.keys()
    assert [name for name, of in found.items() if of.cache_policy != NO_CACHE] == []


def test_a_retry_acts_again(prefect_server: None, small_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`prefect flow-run retry` runs a flow again under its id: what a task saw then is no answer now."""
    home, run_id = small_run

    @flow(name="retried", result_serializer="json", persist_result=True)
    def retried() -> list[str]:
        return finished_runs(None)

    monkeypatch.setenv("NARUTO_HOME", str(home))
    state = retried(return_state=True)
    assert state.result() == [run_id]
    monkeypatch.setenv("NARUTO_HOME", str(home / "none"))
    with get_client(sync_client=True) as client:
        flow_run_id = state.state_details.flow_run_id
        client.set_flow_run_state(flow_run_id, AwaitingRetry(), force=True)
        assert run_flow(retried, flow_run=client.read_flow_run(flow_run_id)) == []


@pytest.fixture
def home(small_run: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of the small run's home without its caches."""
    ignored = shutil.ignore_patterns("cache", "tensorboard", "datasets", "pictures")
    return shutil.copytree(small_run[0], tmp_path / "home", ignore=ignored)


def test_a_person_decides_in_prefect_whether_a_run_is_promoted(
    small_run: tuple[Path, str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_id = small_run
    monkeypatch.setenv("NARUTO_HOME", str(home))
    answers = [
        {"approve": False, "by": "Max"},
        {"approve": True, "by": "Lea", "why": "hands", "accept_warnings": run_id},
    ]
    ends: list[str] = []
    for answer in answers:
        waiting = threading.Thread(target=lambda: ends.append(promote(run_id[-4:])))
        waiting.start()
        with get_client(sync_client=True) as client:
            deadline = time.monotonic() + 120
            while not (paused := [run for run in client.read_flow_runs() if run.state_name == "Paused"]):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        resume_flow_run(paused[0].id, run_input=answer)
        waiting.join(60)
    assert ends == [
        f"{run_id} was not promoted: Max declined.",
        f"{run_id} is now the champion, by Lea: hands",
    ]
    with open_database(f"sqlite:///{home / 'naruto.db'}") as database:
        (event,) = database.ratings.promotions(CHAMPION)
    assert (event.run_id, event.by, "not measured" in event.checks["Warnings accepted"]) == (run_id, "Lea", True)


def test_runs_are_tagged_noted_promoted_cleaned_up_and_deleted_by_commands(
    small_run: tuple[Path, str], home: Path, naruto: Naruto, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run_id = small_run
    fused = Layout(home).fused(run_id)

    def done(*arguments: str) -> str:
        ended = naruto(home, *arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def refused(*arguments: str) -> str:
        ended = naruto(home, *arguments)
        assert ended.returncode == 1
        return ended.stderr

    assert done("tag", run_id, "+hero", "+draft") == f"{run_id}: draft, hero\n"
    assert done("tag", run_id, "-draft") == f"{run_id}: hero\n"
    assert "'good' has no sign: write +good" in refused("tag", run_id, "good")
    done("note", run_id, "hands are better")
    shown = json.loads(done("show", run_id, "--json"))
    assert (shown["tags"], shown["notes"].endswith(": hands are better"), shown["CPU threads"] != "") == (
        "hero",
        True,
        True,
    )
    assert json.loads(done("runs", "--json"))[0]["tags"] == ["hero"]
    assert "no process works on it (done); nothing to stop" in done("stop", run_id)

    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        store.add_finding(Finding(run_id, "overfitting", True, "copies"))
    by = ("--by", "Lea", "--why", "hands")
    assert "has warnings" in refused("promote", run_id, *by)
    assert done("promote", run_id, *by, "--accept-warnings", run_id) == f"{run_id} is now the champion.\n"
    assert done("gc") == "nothing to remove.\n"
    assert "fused model" in done("gc", "--keep", "last=0", "--dry-run")
    assert fused.exists()
    assert "freed" in done("gc", "--keep", "tag=other")
    assert not fused.exists()
    assert "it is the champion: promote another run first" in refused("delete", run_id, "--yes")
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        other = store.open_run(
            profile="mini", recipe_json="{}", fingerprint="0", dataset_id=store.run(run_id).dataset_id, git_commit="",
            now=datetime.now(UTC),
        )  # fmt: skip
        store.acquire_lease(other.id, LeaseOwner("0123abcd:7:99", "pod-b", 7), 1, datetime.now(UTC))
    assert "process 7 on pod-b stops at its next safe point" in done("stop", other.id)
    assert "asked it to stop" in done("show", other.id)
    assert "process 7 on pod-b works on it" in refused("delete", other.id, "--yes")
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        store.release_lease(store.leases(other.id)[0].id, datetime.now(UTC))
    assert "marked as cancelled" in done("stop", other.id)
    monkeypatch.setattr("typer.confirm", print)
    assert "nothing was deleted" in done("delete", other.id)
    assert f"{other.id} is deleted" in done("delete", other.id, "--yes")
    assert other.id not in done("runs")
