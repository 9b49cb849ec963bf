"""Parts of pages that need several runs, or a command in the background."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from threading import Event

import pytest
from apps import all_text, page
from streamlit.testing.v1 import AppTest

from dashboard.naruto_command import _worker, run_naruto
from dashboard.views import compare, key_grid, new_run
from naruto_core.domain import Run, Variant
from naruto_core.errors import ServiceFailed
from naruto_core.ratings import Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store
from tests.dashboard.conftest import PROMPTS, START


def _recipe(rank: int, rate: float) -> str:
    return json.dumps({"model": "x", "training": {"rank": rank, "learning_rate": rate}})


def _run_like(store: Store, run: Run, rank: int, rate: float) -> str:
    """A run with the pictures of `run`, of another recipe."""
    suite = store.prompts(run.id)
    assert suite
    like = store.open_run(
        profile="mini", recipe_json=_recipe(rank, rate), fingerprint=f"{rank} {rate}", dataset_id="d1", git_commit="",
        now=START + timedelta(hours=rank),
    )  # fmt: skip
    store.add_prompts(like.id, suite)
    samples = store.samples(run.id, Variant.ADAPTED)
    store.add_samples([replace(sample, id=f"{like.id}-{sample.id}", run_id=like.id) for sample in samples])
    return like.id


def test_runs_of_two_keys_stand_in_a_grid_of_pictures_of_one_prompt_and_seed(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "No runs differ in exactly two keys" in all_text(page("compare", "XYZ"))
    values = [(4, 0.1), (8, 0.1), (4, 0.5)]
    ids = {cell: _run_like(store, run, *cell) for cell in values}
    drawn: list[tuple[list[str], list[dict[str, object]]]] = []
    monkeypatch.setattr(key_grid, "picture_rows", lambda names, rows, *_: drawn.append((names, rows)))
    app = page("compare", "XYZ")
    assert not app.exception
    names, rows = drawn[-1]
    assert names == ["training.learning_rate = 0.1", "training.learning_rate = 0.5"]
    assert [row["text"] for row in rows] == ["training.rank = 4", "training.rank = 8"]
    digest = next(s.sha256 for s in store.samples(ids[4, 0.1], Variant.ADAPTED) if (s.prompt, s.seed) == ("kage", 7))
    assert [row["pictures"] for row in rows] == [[digest, digest], [digest, ""]]
    assert "1 of 4 places have no picture" in all_text(app)
    assert app.selectbox(key="prompt_of_grid").options == [prompt.text for prompt in PROMPTS]
    app.toggle(key="keys_swapped").set_value(True).run()
    assert drawn[-1][0] == ["training.rank = 4", "training.rank = 8"]


def test_distances_between_sets_are_compared_in_the_background_and_shown_when_they_are_there(
    store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end, asked = Event(), list[tuple[str, ...]]()

    def compare_slowly(*arguments: str) -> str:
        asked.append(arguments)
        assert may_end.wait(30)
        if arguments[2].endswith("fused"):
            raise ServiceFailed("the fused model has no embeddings.")
        return json.dumps([
            {"metric": "mmd", "verdict": "better", "difference": {"value": -0.5, "low": -0.7, "high": -0.25},
             "first": 1.5, "second": 1.0, "n": 4, "extractor": "judge"},
        ])  # fmt: skip

    monkeypatch.setattr(compare, "run_naruto", compare_slowly)
    compare._started.cache_clear()
    models = [f"{run.id}/{variant}" for variant in ("base", "adapted", "fused")]
    app = page("compare", "Verdicts", model=models)
    app.toggle(key="all_metrics").set_value(True).run()
    assert all_text(app).count("comparing …") == 2  # the page is there, and does not wait
    may_end.set()
    _worker().submit(int).result()  # it works on one after the other
    app.run()
    assert not app.exception
    (line,) = app.dataframe[0].value.to_dict("records")
    assert (line["Metric"], line["Difference (95 % interval)"]) == ("mmd", "-0.5 (-0.7 to -0.25)")
    assert "the fused model has no embeddings." in all_text(app)
    assert asked == [("compare", f"{run.id}:base", f"{run.id}:{v}", "--json") for v in ("adapted", "fused")]


def test_a_run_is_planned_before_it_is_queued_and_only_for_an_admin(
    store: Store, run: Run, ratings: Ratings, link: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {
        "device": "T4", "seconds": 5400.0, "device_bytes": 2**33, "disk_bytes": {"pictures": 2**30}, "notes": [],
        "phases": [{"phase": "train", "seconds": 5400.0, "basis": "estimated"}],
    }  # fmt: skip
    asked: list[tuple[str, ...]] = []

    def answer(*arguments: str) -> str:
        asked.append(arguments)
        return json.dumps(plan) if arguments[0] == "plan" else "queued as quick-fox\n"

    monkeypatch.setattr(new_run, "run_naruto", answer)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    _, token = ratings.add_reviewer("Lea", Role.ADMIN)
    link(token)
    app = page("new_run")
    app.text_area[0].set_value("training.rank=8\n")
    _press(app, "Show its plan")
    assert "It takes about 1 h 30 min on T4 (estimated). The longest phases: train 1 h 30 min." in all_text(app)
    assert "1.00 GiB of disk and 8.00 GiB" in all_text(app)
    assert app.code[0].value == "naruto run --recipe=mini --set=training.rank=8"
    assert [call[0] for call in asked] == ["plan"]
    _press(app, "Queue this run")
    assert asked[1] == ("queue", "--recipe=mini", "--set=training.rank=8", "--by=Lea")
    assert "queued as quick-fox" in all_text(app)
    _, reviewers_token = ratings.add_reviewer("Ann", Role.REVIEWER)
    link(reviewers_token)
    refused = page("new_run")
    next(button for button in refused.button if button.label == "Show its plan").click()
    refused.run()
    assert "only an admin may start a run" in all_text(refused)
    assert len(asked) == 2


def _press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click()
    app.run()
    _worker().submit(int).result()
    app.run()


def test_a_command_that_fails_in_a_process_of_its_own_gives_its_sentence(store: Store, run: Run) -> None:
    with pytest.raises(ServiceFailed, match=r"^there is no run 'nothing'; the nearest is"):
        run_naruto("show", "nothing")
