"""Several processes of one training, which the process of the run starts."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flows.profiles import choose_recipe
from flows.train_naruto import train_naruto
from naruto_core.domain import RunState
from naruto_core.errors import DeviceUnfit, RecipeInvalid, ServiceFailed
from naruto_core.store.database import open_store
from naruto_core.training import distributed
from tasks import distributed as processes
from tasks.context import task_context
from tasks.distributed import check_processes, training_processes
from tests.preloaded import Preloaded, Program


@pytest.fixture
def started(
    programs: Preloaded, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Program]]:
    """The processes that trainings start; forked, because a process of its own would import for ten seconds."""
    programs_started: list[Program] = []

    def start(variables: dict[str, str]) -> Program:
        home = {"NARUTO_HOME": os.environ["NARUTO_HOME"]}
        programs_started.append(programs.start("tasks.distributed", environment=environment | home | variables))
        return programs_started[-1]

    monkeypatch.setattr(processes, "_start", start)
    yield programs_started
    for program in programs_started:
        program.kill()


def test_two_processes_train_what_one_trains_with_twice_the_micro_steps_and_the_first_one_records_it(
    started: list[Program], tiny_recipe: Path, tiny_run: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, one = tiny_run
    monkeypatch.setenv("NARUTO_HOME", str(home))
    changes = {"training.gradient_accumulation_steps": 1, "training.processes": 2}
    two = train_naruto(str(tiny_recipe), None, changes)
    assert [program.wait() for program in started] == [0]
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        assert store.run(two).state is RunState.DONE
        assert [step.step for step in store.steps(two)] == [0, 1]
        assert [len(store.leases(run_id)) for run_id in (one, two)] == [1, 1]
        phases = {record.planned.phase: record for record in store.phases(two)}
        assert (phases["train"].measured_units, phases["train"].processes) == (2, 2)
        assert {record.processes for phase, record in phases.items() if phase != "train"} == {1}
        assert '"processes": 2' in store.recipe_json(two)
        paths = [home / adapter.path for run_id in (one, two) for adapter in store.adapters(run_id)]
    weights = [load_file(path) for path in paths]
    assert [file.name for file in paths[1].parent.iterdir()] == [paths[1].name]
    assert weights[0].keys() == weights[1].keys()
    for name, weight in weights[0].items():
        assert torch.allclose(weights[1][name], weight, rtol=1e-4, atol=1e-5), name
    assert max(float(w.abs().max()) for name, w in weights[0].items() if ".lora_B." in name) > 1e-3, "it has learnt"


def test_a_process_that_ends_before_the_training_is_named_in_one_sentence(
    started: list[Program], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    sentence = "process 2 of the 2 of the training ended with status -9"
    with task_context() as context:
        with pytest.raises(ServiceFailed, match=sentence), training_processes(context, 2):  # noqa: PT012 (both of them)
            started[0].kill()
            distributed.all_reduce_mean([torch.ones(1)])
        assert distributed.world_size() == 1
        monkeypatch.setattr(processes, "_LOST_SECONDS", 0.5)
        with pytest.raises(RuntimeError, match="out of memory"), training_processes(context, 2):
            raise RuntimeError("out of memory")  # of the first process itself: the other one is not to blame
        ending = [sys.executable, "-c", "raise SystemExit(3)"]
        monkeypatch.setattr(processes, "_start", lambda variables: subprocess.Popen(ending))
        with pytest.raises(ServiceFailed, match="ended with status 3"), training_processes(context, 2):
            pass


def test_the_number_of_processes_is_part_of_the_recipe_and_must_fit_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = choose_recipe("mini", None, {"training.processes": 2})
    assert choose_recipe("mini", None, {"training.processes": 1}).fingerprint == choose_recipe("mini").fingerprint
    assert recipe.fingerprint != choose_recipe("mini").fingerprint
    check_processes(recipe.training, torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DeviceUnfit, match="processes is 2, but this machine shows 1 GPU: set it to 1"):
        check_processes(recipe.training, torch.device("cuda:0"))
    with pytest.raises(DeviceUnfit, match="set NARUTO_DEVICE=auto"):
        check_processes(recipe.training, torch.device("cuda:1"))
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeInvalid, match="4 processes were launched, but training"):
        check_processes(recipe.training, torch.device("cpu"))
    monkeypatch.delenv("RANK", raising=False)
    with (
        pytest.raises(RecipeInvalid, match="variable RANK is '', but it must be a whole number from 0"),
        distributed.process_group(torch.device("cpu")),
    ):
        pass
    for size in ("abc", "-1", "0", "", "1e3"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(RecipeInvalid, match=f"WORLD_SIZE is '{size}', but it must be a whole number from 1"):
            check_processes(recipe.training, torch.device("cpu"))
