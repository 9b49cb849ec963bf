"""A sweep's record: the same file goes on, another one needs another name, and every run's state is known."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from recorded import NOON, open_run

from naruto_core.artifacts import Layout
from naruto_core.domain import DatasetVersion
from naruto_core.errors import NotRecorded, PromotionRefused, RecipeInvalid
from naruto_core.store.database import Database, open_database
from naruto_core.store.writes import Store
from naruto_core.sweep import Cell, PruningSection, SearchRange, SearchSection, SweepFile

CELLS = [Cell(number, number // 2, {"training.rank": 4 * (1 + number // 2)}, number % 2) for number in range(4)]
FINGERPRINTS = [letter * 64 for letter in "abcd"]
RANKS = SweepFile(name="ranks", recipe="mini", grid={"training.rank": (4, 8)}, seeds=(0, 1), objective="mmd")
CLIP = RANKS.model_copy(update={"objective": "clip"})


@pytest.fixture
def database(store: Store, dataset: DatasetVersion, url: str) -> Iterator[Database]:
    with open_database(url) as database:
        database.sweeps.open_sweep(RANKS, CELLS, FINGERPRINTS, NOON)
        yield database


def test_the_state_of_every_cell_is_that_of_its_run(database: Database, dataset: DatasetVersion, tmp_path):
    sweeps, runs = database.sweeps, database.runs
    assert [recorded.state for recorded in sweeps.sweep("ranks").cells] == ["not started"] * 4
    done, failed, deleted = (open_run(runs, dataset.id, fingerprint) for fingerprint in FINGERPRINTS[:3])
    assert [recorded.state for recorded in sweeps.sweep("ranks").cells] == [*["running"] * 3, "not started"]
    runs.finish_run(done.id, NOON)
    runs.fail_run(failed.id, "train: the loss is not a number.", NOON)
    sweeps.record_cell("ranks", 0, done.id, "")
    sweeps.record_cell("ranks", 1, None, "train: the loss is not a number.")
    sweeps.record_cell("ranks", 2, deleted.id, "")
    sweeps.record_cell("ranks", 3, None, "no such device.")
    database.deletion.delete_run(deleted.id, NOON, Layout(tmp_path))
    cells = sweeps.sweep("ranks").cells
    assert [recorded.state for recorded in cells] == ["done", "failed", "deleted", "failed"]
    assert [recorded.run.id if recorded.run else None for recorded in cells] == [done.id, failed.id, deleted.id, None]
    assert cells[3].failure == "no such device."
    assert [recorded.cell for recorded in cells] == CELLS
    sweeps.record_cell("ranks", 3, None, "")
    assert [recorded.is_pending for recorded in sweeps.sweep("ranks").cells] == [False, False, False, True]


def test_the_same_sweep_goes_on_and_another_one_of_that_name_is_refused(database: Database):
    sweeps = database.sweeps
    sweeps.record_cell("ranks", 3, None, "no such device.")
    sweeps.open_sweep(RANKS, CELLS, FINGERPRINTS, NOON + timedelta(days=1))
    assert sweeps.sweep("ranks").cells[3].failure == "no such device."
    pruned = RANKS.model_copy(update={"pruning": PruningSection()})
    for file, fingerprints in ((CLIP, FINGERPRINTS), (RANKS, FINGERPRINTS[::-1]), (pruned, FINGERPRINTS)):
        with pytest.raises(RecipeInvalid, match="give the changed file another name"):
            sweeps.open_sweep(file, CELLS, fingerprints, NOON)
    again = CLIP.model_copy(update={"name": "ranks-again"})
    sweeps.open_sweep(again, CELLS[:2], FINGERPRINTS[:2], NOON + timedelta(days=1))
    assert [sweep.name for sweep in sweeps.sweeps()] == ["ranks-again", "ranks"]


def test_a_search_grows_by_settings_and_two_processes_add_each_of_them_once(database: Database):
    search = SearchSection(ranges={"training.rank": SearchRange(type="int", low=1, high=64)}, trials=3)
    file = RANKS.model_copy(update={"name": "searched", "grid": None, "search": search})
    database.sweeps.open_sweep(file, CELLS[:2], FINGERPRINTS[:2], NOON)
    for rank in (8, 16):  # the second process proposed something else, and takes what is recorded
        cells = file.cells_of(1, {"training.rank": rank})
        database.sweeps.add_setting("searched", cells, FINGERPRINTS[2:])
    recorded = database.sweeps.sweep("searched")
    assert [of_cell.cell.values["training.rank"] for of_cell in recorded.cells] == [4, 4, 8, 8]
    assert (recorded.n_settings, list(recorded.search)) == (3, ["training.rank"])
    wider = search.model_copy(update={"trials": 4})
    with pytest.raises(RecipeInvalid, match="give the changed file another name"):
        database.sweeps.open_sweep(file.model_copy(update={"search": wider}), CELLS[:2], FINGERPRINTS[:2], NOON)


def test_a_pruned_setting_is_over_for_its_sweep_and_its_run_can_go_on_alone(
    database: Database, dataset: DatasetVersion
):
    sweeps, runs = database.sweeps, database.runs
    run = open_run(runs, dataset.id, FINGERPRINTS[2])
    runs.prune_run(run.id, "the sweep ranks ended it after 2 of 4 steps.", NOON)
    sweeps.prune_setting("ranks", 1)
    cells = sweeps.sweep("ranks").cells
    assert [(recorded.state, recorded.is_pending) for recorded in cells[2:]] == [("pruned", False)] * 2
    assert cells[2].run is not None
    assert cells[0].is_pending
    with pytest.raises(PromotionRefused, match=r"it is not done \(pruned\)"):
        database.ratings.promote("champion", run.id, "Lea", "better", NOON, {}, Layout(Path("x")))
    assert open_run(runs, dataset.id, FINGERPRINTS[2]).state == "running"
    runs.finish_run(run.id, NOON)
    runs.prune_run(run.id, "too late.", NOON)
    assert [recorded.state for recorded in sweeps.sweep("ranks").cells[2:]] == ["done", "pruned"]


def test_an_unknown_sweep_or_cell_is_named(database: Database):
    with pytest.raises(NotRecorded, match="there is no sweep 'rank': the nearest is ranks"):
        database.sweeps.sweep("rank")
    with pytest.raises(NotRecorded, match="has no cell 9"):
        database.sweeps.record_cell("ranks", 9, None, "")
