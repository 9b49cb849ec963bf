"""A sweep's record: the same file goes on, another one needs another name, and every run's state is known."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from recorded import NOON, open_run

from naruto_core.artifacts import Layout
from naruto_core.domain import DatasetVersion
from naruto_core.errors import NotRecorded, RecipeInvalid
from naruto_core.store.database import Database, open_database
from naruto_core.store.writes import Store
from naruto_core.sweep import Cell

CELLS = [Cell(number, number // 2, {"training.rank": 4 * (1 + number // 2)}, number % 2) for number in range(4)]
FINGERPRINTS = [letter * 64 for letter in "abcd"]


@pytest.fixture
def database(store: Store, dataset: DatasetVersion, url: str) -> Iterator[Database]:
    with open_database(url) as database:
        database.sweeps.open_sweep("ranks", "mini", "mmd", CELLS, FINGERPRINTS, NOON)
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
    sweeps.open_sweep("ranks", "mini", "mmd", CELLS, FINGERPRINTS, NOON + timedelta(days=1))
    assert sweeps.sweep("ranks").cells[3].failure == "no such device."
    for objective, fingerprints in (("clip", FINGERPRINTS), ("mmd", FINGERPRINTS[::-1])):
        with pytest.raises(RecipeInvalid, match="give the changed file another name"):
            sweeps.open_sweep("ranks", "mini", objective, CELLS, fingerprints, NOON)
    sweeps.open_sweep("ranks-again", "mini", "clip", CELLS[:2], FINGERPRINTS[:2], NOON + timedelta(days=1))
    assert [sweep.name for sweep in sweeps.sweeps()] == ["ranks-again", "ranks"]


def test_an_unknown_sweep_or_cell_is_named(database: Database):
    with pytest.raises(NotRecorded, match="there is no sweep 'rank': the nearest is ranks"):
        database.sweeps.sweep("rank")
    with pytest.raises(NotRecorded, match="has no cell 9"):
        database.sweeps.record_cell("ranks", 9, None, "")
