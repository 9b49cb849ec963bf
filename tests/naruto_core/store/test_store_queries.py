"""Queries of the store, and their errors."""

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from recorded import NOON, open_run, sample, score

from naruto_core.domain import DatasetVersion, Run
from naruto_core.errors import NarutoError, NotRecorded
from naruto_core.store.queries import comparable
from naruto_core.store.writes import Store


def test_runs_are_listed_newest_first_with_their_set_scores_only(store: Store, run: Run) -> None:
    newer = open_run(store, run.dataset_id, "e" * 64, NOON + timedelta(hours=1))
    store.add_samples([sample(run.id, 0)])
    store.add_scores([score(run.id, 87.0), score(run.id, 0.4, sample_id=sample(run.id, 0).id)])
    store.finish_run(run.id, NOON + timedelta(seconds=90))
    first, second = store.runs()
    assert (first.run.id, first.seconds, first.scores) == (newer.id, None, ())
    assert (second.run.id, second.seconds, second.scores) == (run.id, 90.0, (score(run.id, 87.0),))
    assert (second.dataset_source, second.git_commit) == ("world:ninja", "abc123")


def test_the_newest_run_comes_first_whatever_its_id(store: Store, run: Run) -> None:
    later = [open_run(store, run.dataset_id, f"{hour}" * 64, NOON + timedelta(hours=hour)) for hour in range(1, 4)]
    ids = [run.id, *(other.id for other in later)]
    store.add_samples([sample(run_id, 1) for run_id in ids])
    assert [run_id for run_id, _, _ in store.sample_counts()] == ids[::-1]


@pytest.mark.parametrize("typed", ["2026-11-23-mini-c26e", "c26e", "2026-11-23-mini-c"])
def test_a_run_is_found_by_the_part_of_its_id_that_somebody_typed(store: Store, run: Run, typed: str) -> None:
    open_run(store, run.dataset_id, "e" * 64)
    assert store.run(typed) == run
    assert store.recipe_json(typed) == '{"profile": "mini"}'


def test_an_ambiguous_or_unknown_id_is_answered_with_what_there_is(store: Store, run: Run) -> None:
    other = open_run(store, run.dataset_id, "e" * 64, NOON - timedelta(days=1))
    with pytest.raises(NotRecorded, match=f"any of 2 runs .*{other.id}, {run.id}"):
        store.run("2026-11")
    with pytest.raises(NotRecorded, match=f"the nearest is {run.id}"):
        store.run("2026-11-23-mini-c26f")
    for nonsense in ("", "%", "_", "2026%"):
        with pytest.raises(NotRecorded, match="there is no run"):
            store.run(nonsense)


def test_an_empty_store_says_how_to_begin(store: Store, dataset: DatasetVersion) -> None:
    assert store.runs() == []
    with pytest.raises(NotRecorded, match="make demo"):
        store.run("c26e")


def test_scores_of_different_measurements_are_never_compared() -> None:
    first = score("one", 87.0)
    assert comparable(first, score("two", 60.0)) == (first, score("two", 60.0))
    with pytest.raises(NarutoError, match="extractor differs \\(judge and inception\\)"):
        comparable(first, score("two", 60.0, extractor="inception"))
    with pytest.raises(NarutoError, match="reference differs"):
        comparable(first, replace(first, reference="elsewhere"))


def test_store_and_dashboard_load_without_torch() -> None:
    program = """
import pkgutil, sys
import naruto_core.store
names = [m.name for m in pkgutil.iter_modules(naruto_core.store.__path__) if not m.ispkg]
assert len(names) >= 7, names
for name in names:
    __import__(f"naruto_core.store.{name}")
import dashboard.queries, dashboard.app, dashboard.views.runs, dashboard.views.pictures
print("torch" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == "False"
