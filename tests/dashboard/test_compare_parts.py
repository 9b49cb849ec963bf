"""Parts of the page Compare that need several runs, or a process in the background."""

import json
from dataclasses import replace
from datetime import timedelta

import pytest
from apps import all_text, page

from dashboard.views import key_grid
from naruto_core.domain import Run, Variant
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
