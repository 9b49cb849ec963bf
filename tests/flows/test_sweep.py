"""A sweep: what its runs share is made once, it goes on where it was stopped, and its settings are compared.

The runs of the search are those of the grid as far as they are the same.
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterId

from flows import sweep as sweep_flow
from flows.profiles import choose_recipe
from naruto_core.domain import Variant
from naruto_core.errors import RunStopped, TrainingDiverged
from naruto_core.generation import Job, Painter
from naruto_core.store.database import open_store
from naruto_core.training import latent_cache
from tasks.previews import Preview
from tests.flows.conftest import TINY, Naruto
from tests.tiny_sdxl import write_tiny_sdxl

CHANGES = {"name": "ranks", "grid": {"training.rank": [4, 2]}, "seeds": [1, 2], "objective": "mmd"}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep file in `folder`, with a recipe of two training steps beside it."""
    recipe = folder / "tiny.yaml"
    base = {"model.base": str(folder / "base")}
    tree = choose_recipe("mini", None, TINY | base).model_dump(mode="json", exclude={"imported"})
    recipe.write_text(yaml.safe_dump(tree))
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"recipe": str(recipe)} | CHANGES | changes, sort_keys=False))
    return path


@dataclass
class Work:
    """What was painted, by the model's name, and how many shards of pictures were encoded."""

    painted: Counter[str] = field(default_factory=Counter[str])
    encoded: int = 0


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """Counted where pictures are painted and encoded."""
    counts, paint, encode = Work(), Painter.paint, latent_cache._encode_shard

    def counting_paint(self: Painter, jobs: Sequence[Job], on_step: Any = None) -> Any:
        adapted = hasattr(self.pipeline.unet, "peft_config")
        counts.painted["adapted" if adapted else Path(self.pipeline.name_or_path).name] += len(jobs)
        return paint(self, jobs, on_step)

    def counting_encode(*given: Any) -> None:
        counts.encoded += 1
        encode(*given)

    monkeypatch.setattr(Painter, "paint", counting_paint)
    monkeypatch.setattr(latent_cache, "_encode_shard", counting_encode)
    return counts


@pytest.fixture(scope="module")
def swept(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep file and a home, in which a sweep of two settings and two seeds is done."""
    return tmp_path_factory.mktemp("swept")


def test_runs_of_a_sweep_draw_and_encode_only_their_own_and_a_failed_one_is_tried_again(
    swept: Path, naruto: Naruto, work: Work, monkeypatch: pytest.MonkeyPatch
):
    write_tiny_sdxl(swept / "base")
    home, file, train = swept / "home", write_sweep(swept), sweep_flow.train_naruto

    def diverging(recipe: str, dataset: str | None, overrides: dict[str, Any]) -> str:
        if overrides == {"training.rank": 4, "training.seed": 2}:
            raise TrainingDiverged("the loss is not a number.")
        return train(recipe, dataset, overrides)

    monkeypatch.setattr(sweep_flow, "train_naruto", diverging)
    failed = naruto(home, "sweep", str(file))
    assert failed.returncode == 1
    assert "naruto: 1 of 4 runs of the sweep ranks failed: the loss is not a number. The same" in failed.stderr
    # once for all: samples of 6 prompts (one is a preview too), 4 class pictures; for each run: 6 samples, 2 previews
    assert work.painted == {"base": 6 + 4, "adapted": 3 * (6 + 2)}
    assert (
        "exists already and is not planned: class pictures 4, preview pictures of the base 1, samples of the base 6"
        in failed.stderr
    )
    before = work.encoded
    monkeypatch.setattr(sweep_flow, "train_naruto", train)
    done = naruto(home, "sweep", str(file))
    assert done.returncode == 0, done.stderr
    assert work.painted == {"base": 6 + 4, "adapted": 4 * (6 + 2)}  # what was done is not done again
    assert work.encoded == before
    assert "runs: 4 done" in done.stderr
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        bases = [{(s.prompt, s.seed): s.sha256 for s in store.samples(r.run.id, Variant.BASE)} for r in store.runs()]
    assert bases == [bases[0]] * 4


def test_the_settings_are_shown_with_the_values_that_their_runs_have(swept: Path, naruto: Naruto):
    home = swept / "home"
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        scores = {run.run.id: run.scores for run in store.runs()}
    values = {
        run_id: next(s.value for s in of_run if (s.metric, s.variant) == ("mmd", "adapted"))
        for run_id, of_run in scores.items()
    }
    shown = json.loads(naruto(home, "sweep", "show", "ranks", "--json").stdout)
    first, second = shown["settings"]
    assert [first["label"], second["label"]] == ["training.rank=4", "training.rank=2"]
    assert {row["run"]: row["value"] for row in shown["runs"]} == pytest.approx(values)
    assert (first["seeds"], first["prompts"], first["difference"]) == (2, 6, None)
    change = second["difference"]
    assert change["value"] == pytest.approx(second["mean"] - first["mean"])
    assert (change["word"] in ("better", "worse")) == (not change["low"] <= 0 <= change["high"])
    text = naruto(home, "sweep", "show", "ranks").stdout
    assert "sweep ranks: mmd, lower is better; runs: 4 done" in text
    naruto(home, "sweep", "show", "ranks", "-o", str(swept / "ranks.csv"))
    with (swept / "ranks.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["training.rank"], row["seed"]) for row in rows] == [("4", "1"), ("4", "2"), ("2", "1"), ("2", "2")]
    assert {row["run"]: float(row["mmd"]) for row in rows} == pytest.approx(values)
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["sweep-ranks"]))
        tables = [json.loads(str(artifact.data)) for artifact in client.read_artifacts(artifact_filter=key)]
    assert ["2", "2"] in [[row["seeds"] for row in table] for table in tables]


RATE = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
TO_0 = {"type": "int", "low": 0, "high": 8}
BETWEEN = {"type": "int", "low": 16, "high": 32}
SAME = {"type": "choices", "values": [4, 4.0]}
SEARCH: dict[str, Any] = {
    "name": "rates",
    "grid": None,
    "search": {"ranges": {"training.learning_rate": RATE}, "trials": 3},
    "seeds": [1],
    "pruning": {"reduction_factor": 2},
}


def test_a_search_that_was_stopped_goes_on_with_the_same_setting_and_a_run_that_is_behind_is_pruned(
    swept: Path, naruto: Naruto, work: Work, monkeypatch: pytest.MonkeyPatch
):
    home, file, train = swept / "home", write_sweep(swept, **SEARCH), sweep_flow.train_naruto
    tried: list[float] = []

    def stopping(recipe: str, dataset: str | None, overrides: dict[str, Any]) -> str:
        tried.append(overrides["training.learning_rate"])
        if len(tried) == 2:
            raise RunStopped("run x stopped: lea asked it to stop; the same command resumes it.")
        return train(recipe, dataset, overrides)

    monkeypatch.setattr(sweep_flow, "train_naruto", stopping)
    monkeypatch.setattr(Preview, "_scores", lambda self, paths: {"clip_score": -1.0})
    stopped = naruto(home, "sweep", str(file))
    assert (stopped.returncode, "lea asked it to stop" in stopped.stderr) == (1, True)
    with get_client(sync_client=True) as client:
        sweeps = [run for run in client.read_flow_runs(limit=200) if run.name == f"sweep-{file}"]
    assert "Cancelled" in [run.state_name for run in sweeps]
    assert work.painted == {}  # the first setting is the recipe as it is: a run of the grid
    done = naruto(home, "sweep", str(file))
    assert done.returncode == 0, done.stderr
    first, second, again, third = tried
    assert (first, again) == (0.01, second)
    assert 1e-4 <= third <= 1e-1
    assert (
        "ended it after 1 of 2 steps: its preview's clip_score of -1.0000 is not among the best 1 of 2." in done.stderr
    )


def test_a_pruned_run_has_a_state_of_its_own_wherever_it_is_shown(swept: Path, naruto: Naruto):
    home = swept / "home"
    shown = json.loads(naruto(home, "sweep", "show", "rates", "--json").stdout)
    states = [row["state"] for row in shown["runs"]]
    assert sorted(states) == ["done", "pruned", "pruned"]
    number = states.index("pruned")
    pruned = shown["runs"][number]
    assert (pruned["value"], shown["settings"][number]["difference"]["word"]) == (None, "pruned")
    text = naruto(home, "sweep", "show", "rates").stdout
    assert "runs: 1 done, 2 pruned" in text
    assert "best mean of 1 of 3 settings" in text
    assert (
        next(line for line in naruto(home, "runs").stdout.splitlines() if pruned["run"] in line).split()[1] == "pruned"
    )
    compared = naruto(home, "compare", pruned["run"], shown["runs"][0]["run"])
    assert (compared.returncode, "was pruned by a sweep, so it has no samples" in compared.stderr) == (1, True)
    promoted = naruto(home, "promote", pruned["run"], "--by", "Lea", "--why", "better")
    assert (promoted.returncode, "it is not done (pruned)" in promoted.stderr) == (1, True)
    assert "checkpoint" in naruto(home, "gc", "--keep", "champion", "--dry-run").stdout
    assert naruto(home, "verify").returncode == 0
    with get_client(sync_client=True) as client:
        ended = [run for run in client.read_flow_runs(limit=200) if run.name.startswith(pruned["run"])]
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[ended[0].id])))
    assert [run.state_name for run in ended] == ["Pruned"]
    assert {task.state_name for task in tasks} == {"Completed", "Pruned"}


def test_a_deleted_run_stays_in_its_sweep_and_the_other_runs_are_whole_without_the_cache(swept: Path, naruto: Naruto):
    home = swept / "home"
    shown = json.loads(naruto(home, "sweep", "show", "ranks", "--json").stdout)
    assert naruto(home, "delete", shown["runs"][3]["run"], "--yes").returncode == 0
    assert "3 done, 1 deleted" in naruto(home, "sweep", "list").stdout
    change = json.loads(naruto(home, "sweep", "show", "ranks", "--json").stdout)["settings"][1]["difference"]
    assert (change["seeds"], change["word"]) == (1, "cannot be judged")
    shutil.rmtree(home / "cache")
    assert naruto(home, "verify").returncode == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objective": "fid"},
            "objective: fid is not among scoring.primary of the recipe mini: use mmd or clip-content.",
        ),
        ({"grid": {"training.rnak": [4]}}, "unknown key training.rnak (did you mean training.rank?)"),
        ({"grid": {"training.rank": [4, 0]}}, "training.rank: Input should be greater than or equal to 1"),
        ({"grid": {}}, "grid: it is empty"),
        ({"grid": {"training.rank": [4, 4.0]}}, "{'training.rank': 4} and {'training.rank': 4.0} are the same recipe"),
        ({"recipe": "minni"}, "did you mean mini?"),
        ({"grid": None, "search": SEARCH["search"] | {"ranges": {"training.rnak": RATE}}}, "unknown key training.rnak"),
        (
            {"grid": None, "search": SEARCH["search"] | {"ranges": {"training.rank": TO_0}}},
            "training.rank: Input should",
        ),
        (
            {"grid": None, "search": SEARCH["search"] | {"ranges": {"training.rank": RATE | {"low": 1, "high": 8}}}},
            "training.rank: Input should be a valid integer",
        ),
        (
            {"grid": None, "search": SEARCH["search"] | {"ranges": {"training.resolution": BETWEEN}}},
            "training.resolution: Input should be a multiple of 8",
        ),
        (
            {"grid": None, "search": SEARCH["search"] | {"ranges": {"training.rank": SAME}, "trials": 2}},
            "training.rank of 4 and of 4.0 are the same recipe: leave one out.",
        ),
        ({"grid": {"training.previews": [None]}, "pruning": {}}, "pruning: the recipe mini has no scored previews"),
    ],
)
def test_a_sweep_that_cannot_work_is_refused_before_anything_is_recorded(
    changes: dict[str, Any], sentence: str, naruto: Naruto, tmp_path: Path
):
    home, file = tmp_path / "home", write_sweep(tmp_path, **changes)
    refused = naruto(home, "sweep", str(file))
    assert (refused.returncode, sentence in refused.stderr) == (1, True), refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not home.exists()


def test_a_section_and_a_key_of_it_in_one_grid_leave_the_values_of_each_setting_as_the_file_has_them(tmp_path: Path):
    prior = {"kind": "base_prediction", "class_prompts": ["a person"]}
    grid = {"training.prior": [prior], "training.prior.prior_loss_weight": [0.5, 1.0]}
    cells = sweep_flow.plan_sweep(write_sweep(tmp_path, grid=grid, seeds=[1])).cells
    assert [dict(cell.values) for cell in cells] == [
        {"training.prior": prior, "training.prior.prior_loss_weight": weight} for weight in (0.5, 1.0)
    ]


def test_the_recipes_own_value_is_the_choice_that_is_written_in_another_way(tmp_path: Path):
    values = [["to_q", "to_k"], ["to_v", "to_q", "to_k", "to_out.0"]]
    search = {"ranges": {"training.lora_layers": {"type": "choices", "values": values}}, "trials": 2}
    plan = sweep_flow.plan_sweep(write_sweep(tmp_path, grid=None, search=search, seeds=[1]))
    assert [dict(cell.values) for cell in plan.cells] == [{"training.lora_layers": values[1]}]


def test_more_than_a_hundred_runs_are_asked_for(naruto: Naruto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_sweep(tmp_path, seeds=list(range(52)))
    asked: list[str] = []
    monkeypatch.setattr("typer.confirm", asked.append)
    answered = naruto(tmp_path / "home", "sweep", str(file))
    assert (asked, answered.stdout) == (["Start 104 runs?"], "nothing was started.\n")
    assert "no sweeps yet: start one with" in naruto(tmp_path / "home", "sweep", "list").stdout
