"""Training curves in TensorBoard and MLflow, read back with their own readers."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout
from naruto_core.domain import Run, RunState, StepRecord
from naruto_core.errors import DeviceUnfit, NarutoError, RecipeInvalid, RunStopped
from naruto_core.telemetry.trackers import flatten
from naruto_core.telemetry.tracking import choose_trackers, tracking

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

RUN = Run("2026-11-23-mini-3f9c", "mini", "f" * 64, "ds-1", RunState.RUNNING, datetime(2026, 11, 23, tzinfo=UTC))
TRAINING = choose_recipe("mini").training
BOTH = "tensorboard,mlflow"
Follow = Callable[..., list[str]]


def steps(first: int, last: int, shift: float = 0.0) -> list[StepRecord]:
    """Steps from `first` up to `last`, whose loss is step / 8 (exact in any float) plus `shift`."""
    return [StepRecord(n, n / 8 + shift, 1.0, {"d": n / 16, "grad_norm": 0.5}) for n in range(first, last)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data root for all tests, because MLflow takes seconds to make its database."""
    return tmp_path_factory.mktemp("telemetry")


@pytest.fixture
def run() -> Run:
    """A run of its own for every test."""
    return replace(RUN, id=f"2026-11-23-mini-{uuid4().hex[:8]}")


@pytest.fixture
def follow(home: Path, run: Run) -> Follow:
    """A function that logs batches of steps to trackers and ends with `end`; it returns their warnings."""

    def follow(names: str, *batches: list[StepRecord], uri: str = "", end: BaseException | None = None) -> list[str]:
        warnings: list[str] = []
        with (
            suppress(ValueError, KeyboardInterrupt, RunStopped),
            tracking(names, uri, Layout(home), run, TRAINING, warnings.append) as log_steps,
        ):
            for batch in batches:
                log_steps(batch)
            if end:
                raise end
        return warnings

    return follow


def in_tensorboard(home: Path, run: Run, name: str = "loss") -> list[tuple[int, float]]:
    """A curve of a run, as TensorBoard shows it."""
    events = EventAccumulator(str(Layout(home).tensorboard(run.id)), {"scalars": 0})
    events.Reload()
    return [(point.step, point.value) for point in events.Scalars(f"train/{name}")]


def mlflow_run(home: Path, run: Run) -> "MlflowRun":
    """The MLflow run of `run`."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{Layout(home).mlflow() / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("naruto")
    (tracked,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == run.id]
    return tracked


def in_mlflow(home: Path, run: Run, name: str = "loss") -> list[tuple[int, float]]:
    """A curve of a run, with every point that MLflow has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{Layout(home).mlflow() / 'mlflow.db'}")
    points = client.get_metric_history(mlflow_run(home, run).info.run_id, f"train/{name}")
    return [(point.step, point.value) for point in points]


def wait(condition: Callable[[], bool]) -> None:
    """Until `condition` holds; two minutes at most."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with suppress(ValueError):  # MLflow has no such run yet
            if condition():
                return
        time.sleep(0.05)
    pytest.fail("waited for too long")


def test_both_trackers_hold_every_number_of_every_step(follow: Follow, home: Path, run: Run):
    assert follow(BOTH, steps(0, 130), steps(130, 140)) == []
    for read in (in_tensorboard, in_mlflow):
        assert read(home, run) == [(n, n / 8) for n in range(140)]
        assert read(home, run, "d") == [(n, n / 16) for n in range(140)]
        assert read(home, run, "grad_norm") == [(n, 0.5) for n in range(140)]
        assert read(home, run, "learning_rate") == [(n, 1.0) for n in range(140)]


def test_an_mlflow_run_has_tags_and_parameters_of_its_run_and_recipe(follow: Follow, home: Path, run: Run):
    follow("mlflow", steps(0, 2))
    data = mlflow_run(home, run).data
    tags = {name: value for name, value in data.tags.items() if name.startswith("naruto.")}
    assert tags == {"naruto.run": run.id, "naruto.dataset": "ds-1", "naruto.recipe": "f" * 64}
    assert data.params["training.rank"] == str(TRAINING.rank)
    assert data.params["training.instance_prompt"] == TRAINING.instance_prompt
    assert data.params["training.prior.num_class_images"] == str(TRAINING.prior.num_class_images)
    assert json.loads(data.params["training.prior.class_prompts"]) == list(TRAINING.prior.class_prompts)
    assert data.params["training.text_encoder_lr"] == "null"
    assert data.params == dict(flatten("training", TRAINING.model_dump(mode="json")))


def test_a_choice_longer_than_mlflow_takes_is_cut(home: Path, run: Run):
    section, warnings = TRAINING.model_copy(update={"instance_prompt": "x" * 7000}), list[str]()
    with tracking("mlflow", "", Layout(home), run, section, warnings.append):
        pass
    assert warnings == []
    assert mlflow_run(home, run).data.params["training.instance_prompt"] == "x" * 6000


@pytest.mark.parametrize(
    ("end", "status"), [(None, "FINISHED"), (ValueError("diverged"), "FAILED"), (RunStopped("asked"), "KILLED")]
)
def test_mlflow_knows_how_training_ended(follow: Follow, home: Path, run: Run, end: BaseException | None, status: str):
    assert follow("mlflow", steps(0, 2), end=end) == []
    assert mlflow_run(home, run).info.status == status


# a training in a process of its own that logs 20 steps and is killed as soon as they are stored
KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from naruto_core.artifacts import Layout
from naruto_core.telemetry.tracking import tracking
from tests.naruto_core.test_telemetry import BOTH, RUN, TRAINING, in_mlflow, steps, wait

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print(event, arguments, file=sys.stderr, flush=True)

sys.addaudithook(note)
home, run = Path(sys.argv[1]), replace(RUN, id=sys.argv[2])
with tracking(BOTH, "", Layout(home), run, TRAINING, print) as log_steps:
    log_steps(steps(0, 10))
    log_steps(steps(10, 20))
    wait(lambda: len(in_mlflow(home, run)) == 20)
    from mlflow.telemetry import get_telemetry_client
    print(get_telemetry_client(), "torch" in sys.modules, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_training_continues_as_one_curve_and_no_tracker_connects(follow: Follow, home: Path, run: Run):
    follow("mlflow")  # the database is there
    quiet = ("PYTEST_", "CI", "GITHUB_", "MLFLOW_", "DO_NOT_TRACK")  # where MLflow would be quiet by itself
    variables = {name: value for name, value in os.environ.items() if not name.startswith(quiet)}
    command = [sys.executable, "-c", KILLED, str(home), run.id]
    killed = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (killed.stdout, killed.stderr) == ("None False\n", "")
    assert in_tensorboard(home, run) == in_mlflow(home, run) == [(n, n / 8) for n in range(20)]
    assert mlflow_run(home, run).info.status == "RUNNING"

    assert follow(BOTH, steps(15, 22), steps(22, 30)) == []  # the last checkpoint was that of step 15
    for read in (in_tensorboard, in_mlflow):
        assert read(home, run) == [(n, n / 8) for n in range(30)]
        assert read(home, run, "d") == [(n, n / 16) for n in range(30)]
    assert mlflow_run(home, run).info.status == "FINISHED"


def test_a_restarted_training_replaces_the_old_curve(follow: Follow, home: Path, run: Run):
    follow("tensorboard", steps(0, 20))
    follow("tensorboard", steps(0, 5, shift=100.0))
    assert in_tensorboard(home, run) == [(n, n / 8 + 100) for n in range(5)]


def test_a_resume_with_nothing_left_to_train_only_ends_the_run(follow: Follow, home: Path, run: Run):
    follow(BOTH, steps(0, 5), end=KeyboardInterrupt())
    assert follow(BOTH) == []
    assert in_tensorboard(home, run) == in_mlflow(home, run) == [(n, n / 8) for n in range(5)]
    assert mlflow_run(home, run).info.status == "FINISHED"


def test_values_that_are_not_finite_stop_no_tracker(follow: Follow, home: Path, run: Run):
    odd = [StepRecord(n, value, 1.0, {}) for n, value in enumerate((1.0, math.nan, math.inf, -math.inf, 1e300, 2.0))]
    assert follow(BOTH, odd) == []
    # event files hold single precision; MLflow would show infinity as 1.8e308
    assert str([value for _, value in in_tensorboard(home, run)]) == "[1.0, nan, inf, -inf, inf, 2.0]"
    assert str([value for _, value in in_mlflow(home, run)]) == "[1.0, nan, nan, nan, 1e+300, 2.0]"


@pytest.mark.parametrize("names", ["", " , "])
def test_without_a_tracker_nothing_is_written(tmp_path: Path, names: str):
    with tracking(names, "", Layout(tmp_path), RUN, TRAINING, pytest.fail) as log_steps:
        log_steps(steps(0, 3))
    assert list(tmp_path.iterdir()) == []


MISTAKES = [
    ("tensorbord", "", "'tensorbord'.*did you mean tensorboard"),
    ("tensorboard, wandb", "", "'wandb'.*there are tensorboard and mlflow"),
    ("mlflow", "./mlruns", "NARUTO_MLFLOW_URI is not an address"),
]


@pytest.mark.parametrize(("names", "uri", "sentence"), MISTAKES, ids=[sentence for *_, sentence in MISTAKES])
def test_a_misspelt_setting_is_an_error_before_training(
    monkeypatch: pytest.MonkeyPatch, names: str, uri: str, sentence: str
):
    _fails_preflight(monkeypatch, names, uri, RecipeInvalid, sentence)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow-skinny")])
def test_a_tracker_that_is_not_installed_is_an_error_before_training(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
):
    monkeypatch.setitem(sys.modules, name, None)  # Python's own way to mark a module as missing
    _fails_preflight(monkeypatch, BOTH, "", DeviceUnfit, f"names {name}, which is not .* package {package},")


def _fails_preflight(
    monkeypatch: pytest.MonkeyPatch, names: str, uri: str, kind: type[NarutoError], sentence: str
) -> None:
    from tasks.preflight import preflight

    monkeypatch.setenv("NARUTO_TRACKERS", names)
    monkeypatch.setenv("NARUTO_MLFLOW_URI", uri)
    with pytest.raises(kind, match=sentence):
        preflight.fn(choose_recipe("mini"))


def test_names_may_be_spaced_repeated_and_in_capitals():
    assert choose_trackers(" MLflow,tensorboard ,mlflow", "https://host") == ["mlflow", "tensorboard"]


# a disk with space for 4 kB
FULL = """
import resource, sys, time
from pathlib import Path
from naruto_core.artifacts import Layout
from naruto_core.telemetry.tracking import tracking
from tests.naruto_core.test_telemetry import RUN, TRAINING, steps

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with tracking("tensorboard", "", Layout(Path(sys.argv[1])), RUN, TRAINING, print) as log_steps:
    for batch in range(10):
        log_steps(steps(10 * batch, 10 * batch + 10))
        time.sleep(0.02)
print("trained")
"""


def test_a_full_disk_stops_the_tracker_with_one_line_and_not_the_training(tmp_path: Path):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    line, trained = done.stdout.splitlines()
    assert line.startswith("tensorboard is off for the rest of this training, which goes on without it: ")
    assert trained == "trained"
    stored = in_tensorboard(tmp_path, RUN)
    assert 10 <= len(stored) < 100
    assert stored == [(n, n / 8) for n in range(len(stored))]


def test_a_deleted_mlflow_run_stops_that_tracker_only(home: Path, run: Run):
    warnings: list[str] = []
    with tracking(BOTH, "", Layout(home), run, TRAINING, warnings.append) as log_steps:
        log_steps(steps(0, 3))
        wait(lambda: in_mlflow(home, run) != [])
        _delete(home, mlflow_run(home, run).info.run_id)
        log_steps(steps(3, 6))
        wait(lambda: warnings != [])
        log_steps(steps(6, 9))
    assert len(warnings) == 1
    assert warnings[0].startswith("mlflow is off for the rest of this training")
    assert "\n" not in warnings[0]
    assert in_tensorboard(home, run) == [(n, n / 8) for n in range(9)]


def _delete(home: Path, run_id: str) -> None:
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{Layout(home).mlflow() / 'mlflow.db'}").delete_run(run_id)


def test_a_server_that_does_not_answer_is_reported_in_one_line_without_its_password(
    follow: Follow, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (warning,) = follow("mlflow", steps(0, 3), uri="http://me:s3cr%40et@127.0.0.1:9")
    assert warning.startswith("mlflow is off for the rest of this training")
    assert "127.0.0.1:9" in warning
    assert "s3cr" not in warning
    assert capfd.readouterr() == ("", "")
