"""A sweep: what its runs share is made once, it goes on where it was stopped, and its settings are compared."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.profiles import choose_recipe
from naruto_core.errors import TrainingDiverged
from naruto_core.generation import Job, Painter
from naruto_core.store.database import open_store
from naruto_core.training import latent_cache
from tests.flows.conftest import SMALL, Naruto

TINY = SMALL | {
    "training.max_train_steps": 2,
    "training.train_batch_size": 2,
    "training.validation": None,
    "training.prior": None,
    "generation.prompts": 6,
    "generation.seeds": 1,
    "generation.num_inference_steps": 2,
    "fusion.check_pictures": 0,
}
CHANGES = {"name": "ranks", "grid": {"training.rank": [4, 2], "training.learning_rate": [1.0, 0.5]}, "seeds": [1, 2]}


def write_sweep(folder: Path, **changes: Any) -> Path:
    """A sweep file in `folder`, with a recipe of two training steps beside it."""
    recipe = folder / "tiny.yaml"
    tree = choose_recipe("mini", None, TINY).model_dump(mode="json", exclude={"imported"})
    recipe.write_text(yaml.safe_dump(tree))
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"recipe": str(recipe), "objective": "mmd"} | CHANGES | changes, sort_keys=False))
    return path


def test_a_sweep_of_two_by_two_settings_and_two_seeds(naruto: Naruto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    home, file = tmp_path / "home", write_sweep(tmp_path)
    painted: list[str] = []
    encoded: list[object] = []
    paint, encode = Painter.paint, latent_cache._encode_shard

    def counting_paint(self: Painter, jobs: Sequence[Job], on_step: Any = None) -> Any:
        adapted = hasattr(self.pipeline.unet, "peft_config")
        painted.extend("adapted" if adapted else Path(self.pipeline.name_or_path).name for _ in jobs)
        return paint(self, jobs, on_step)

    def counting_encode(*given: Any) -> None:
        encoded.append(given)
        encode(*given)

    monkeypatch.setattr(Painter, "paint", counting_paint)
    monkeypatch.setattr(latent_cache, "_encode_shard", counting_encode)

    from flows import sweep as sweep_flow

    train = sweep_flow.train_naruto

    def diverging(recipe: str, dataset: str | None, overrides: dict[str, Any]) -> str:
        if overrides == {"training.rank": 2, "training.learning_rate": 0.5, "training.seed": 2}:
            raise TrainingDiverged("the loss is not a number.")
        return train(recipe, dataset, overrides)

    monkeypatch.setattr(sweep_flow, "train_naruto", diverging)
    failed = naruto(home, "sweep", str(file))
    assert failed.returncode == 1
    assert "naruto: 1 of 8 runs of the sweep ranks failed: the loss is not a number. The same" in failed.stderr
    assert Counter(painted) == {"base": 6, "adapted": 7 * 6}
    shards = len(encoded)

    monkeypatch.setattr(sweep_flow, "train_naruto", train)
    done = naruto(home, "sweep", str(file))
    assert done.returncode == 0, done.stderr
    assert Counter(painted) == {"base": 6, "adapted": 8 * 6}  # what was done is not done again
    assert len(encoded) == shards
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        runs = store.runs()
        values = {
            run.run.id: next(s.value for s in run.scores if (s.metric, s.variant) == ("mmd", "adapted")) for run in runs
        }
    assert len(values) == 8

    shown = json.loads(naruto(home, "sweep", "show", "ranks", "--json").stdout)
    assert [row["label"] for row in shown["settings"]] == [
        f"training.rank={rank}, training.learning_rate={rate}" for rank in (4, 2) for rate in (1.0, 0.5)
    ]
    assert {row["run"]: row["value"] for row in shown["runs"]} == pytest.approx(values)
    first, second = shown["settings"][:2]
    assert (first["seeds"], first["prompts"], first["difference"]) == (2, 6, None)
    assert second["difference"]["value"] == pytest.approx(second["mean"] - first["mean"])
    for row in shown["settings"][1:]:
        decided = not row["difference"]["low"] <= 0 <= row["difference"]["high"]
        assert (row["difference"]["word"] in ("better", "worse")) == decided
    text = naruto(home, "sweep", "show", "ranks").stdout
    assert "sweep ranks: mmd, lower is better; runs: 8 done" in text
    assert text.strip() in done.stderr or "runs: 8 done" in done.stderr
    naruto(home, "sweep", "show", "ranks", "-o", str(tmp_path / "ranks.csv"))
    with (tmp_path / "ranks.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["training.rank"], row["seed"]) for row in rows[:3]] == [("4", "1"), ("4", "2"), ("4", "1")]
    assert {row["run"]: float(row["mmd"]) for row in rows} == pytest.approx(values)
    listed = naruto(home, "sweep", "list").stdout
    assert "8 done" in listed
    with get_client(sync_client=True) as client:
        key = ArtifactFilter(key=ArtifactFilterKey(any_=["sweep-ranks"]))
        tables = [json.loads(artifact.data) for artifact in client.read_artifacts(artifact_filter=key)]
    assert [row["seeds"] for row in tables[-1]] == ["2"] * 4

    assert naruto(home, "delete", runs[0].run.id, "--yes").returncode == 0
    assert "7 done, 1 deleted" in naruto(home, "sweep", "list").stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objective": "fid"},
            "objective: fid is not among scoring.primary of the recipe mini: use mmd or attributes.",
        ),
        ({"grid": {"training.rnak": [4]}}, "unknown key training.rnak (did you mean training.rank?)"),
        ({"grid": {"training.rank": [4, 0]}}, "training.rank: Input should be greater than or equal to 1"),
        ({"grid": {}}, "grid: it is empty"),
        ({"grid": {"training.rank": [4, 4.0]}}, "{'training.rank': 4} and {'training.rank': 4.0} are the same recipe"),
        ({"recipe": "minni"}, "did you mean mini?"),
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


def test_more_than_a_hundred_runs_are_asked_for(naruto: Naruto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_sweep(tmp_path, seeds=list(range(26)))
    asked: list[str] = []
    monkeypatch.setattr("typer.confirm", asked.append)
    answered = naruto(tmp_path / "home", "sweep", str(file))
    assert (asked, answered.stdout) == (["Start 104 runs?"], "nothing was started.\n")
    assert "no sweeps yet: start one with" in naruto(tmp_path / "home", "sweep", "list").stdout
