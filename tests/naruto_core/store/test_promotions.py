"""Which runs may be promoted, and which run a rollback sets."""

import re
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from recorded import NOON, open_run, score
from safetensors.numpy import save_file

from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter, DatasetVersion, Finding, Run, Variant
from naruto_core.errors import NotRecorded, PromotionRefused
from naruto_core.store.connection import migrate, parse_url
from naruto_core.store.database import Ratings, open_database
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.writes import Store


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def write_adapter(store: Store, layout: Layout, run: Run, weight: float = 1.0) -> None:
    path = layout.adapter(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"lora": np.array([0.5, weight], np.float32)}, path)
    store.add_adapters([Adapter(run.id, layout.relative(path), sha256_file(path), 4, 10)])


def promotable_run(store: Store, layout: Layout, run: Run) -> str:
    """Make a run that is done, scored and complete, so that it can be promoted."""
    write_adapter(store, layout, run)
    store.add_scores([replace(score(run.id, 3.0), variant=Variant.FUSED)])
    store.finish_run(run.id, NOON)
    return run.id


@pytest.fixture
def runs(store: Store, layout: Layout, dataset: DatasetVersion) -> list[str]:
    return [promotable_run(store, layout, open_run(store, dataset.id, f"f{number}")) for number in range(3)]


def promote(ratings: Ratings, layout: Layout, run_id: str, accept_warnings: str = "") -> None:
    checks = {"Rated by people?": "yes"}
    ratings.promote(CHAMPION, run_id, "Lea", "better hands", NOON, checks, layout, accept_warnings=accept_warnings)


def history_of(ratings: Ratings) -> list[str]:
    return [event.run_id for event in ratings.promotions(CHAMPION)]


def test_a_promotion_needs_a_name_a_reason_and_a_recorded_run(
    ratings: Ratings, layout: Layout, runs: list[str]
) -> None:
    for by, why in (("Lea", " "), ("", "best")):
        with pytest.raises(PromotionRefused, match="needs a name"):
            ratings.promote(CHAMPION, runs[0], by, why, NOON, {}, layout)
    with pytest.raises(NotRecorded):
        promote(ratings, layout, "nobody")
    promote(ratings, layout, runs[0])
    (event,) = ratings.promotions(CHAMPION)
    assert (event.run_id, event.by, event.why, event.checks) == (
        runs[0], "Lea", "better hands", {"Rated by people?": "yes"}
    )  # fmt: skip


def test_a_run_that_is_not_done_not_scored_or_not_loadable_is_refused_with_the_reason(
    ratings: Ratings, store: Store, layout: Layout, dataset: DatasetVersion
) -> None:
    def refused(run: Run, reason: str) -> None:
        with pytest.raises(PromotionRefused, match=f"{run.id} cannot be promoted: .*{reason}"):
            promote(ratings, layout, run.id)
        assert re.search(reason, ratings.promotion_fault(run.id, layout))

    run = open_run(store, dataset.id)
    write_adapter(store, layout, run, float("nan"))
    refused(run, "not done .running.")
    store.fail_run(run.id, "fuse: not numbers", NOON)
    refused(run, "not done .failed.")
    store.finish_run(run.id, NOON)
    store.add_scores([score(run.id, 3.0)])  # the base's
    refused(run, "its adapted or fused model is not scored")
    store.add_scores([replace(score(run.id, 3.0), variant=Variant.ADAPTED)])
    refused(run, "weights that are not numbers .lora.")
    write_adapter(store, layout, run)
    store.add_scores([replace(score(run.id, 3.0), variant=Variant.ADAPTED)])
    whole = layout.adapter(run.id).read_bytes()
    layout.adapter(run.id).write_bytes(whole[:-1] + b"x")
    refused(run, "not the one that was recorded")
    layout.adapter(run.id).unlink()
    refused(run, "is missing")
    assert history_of(ratings) == []
    layout.adapter(run.id).write_bytes(whole)
    promote(ratings, layout, run.id)
    assert history_of(ratings) == [run.id]


def test_a_run_without_an_adapter_is_refused(
    ratings: Ratings, store: Store, layout: Layout, dataset: DatasetVersion
) -> None:
    run = open_run(store, dataset.id)
    store.add_scores([replace(score(run.id, 3.0), variant=Variant.FUSED)])
    store.finish_run(run.id, NOON)
    assert ratings.promotion_fault(run.id, layout) == "it has no adapter"


def test_warnings_are_accepted_by_typing_the_runs_id(
    ratings: Ratings, store: Store, layout: Layout, runs: list[str]
) -> None:
    store.add_findings(
        runs[0],
        [Finding(runs[0], "overfitting", True, "copies", {}), Finding(runs[0], "collapse", False, "none", {})],
    )
    for typed in ("", "yes", runs[1]):
        with pytest.raises(PromotionRefused, match=r"has warnings \(overfitting\): type its id"):
            promote(ratings, layout, runs[0], accept_warnings=typed)
    promote(ratings, layout, runs[0], accept_warnings=f" {runs[0]} ")
    assert ratings.promotions(CHAMPION)[0].checks == {"Rated by people?": "yes", "Warnings accepted": "overfitting"}


def test_a_rollback_twice_goes_two_back_and_never_to_what_was_rolled_back_from(
    ratings: Ratings, layout: Layout, runs: list[str]
) -> None:
    first, second, third = runs
    for run_id in (first, second, third, third):
        promote(ratings, layout, run_id)
    assert ratings.roll_back(CHAMPION, "Max", NOON, layout).run_id == second
    assert ratings.roll_back(CHAMPION, "Max", NOON, layout).run_id == first
    with pytest.raises(PromotionRefused, match="nothing to roll back to"):
        ratings.roll_back(CHAMPION, "Max", NOON, layout)
    newest = ratings.promotions(CHAMPION)[0]
    assert (newest.by, newest.why, newest.rollback) == ("Max", f"rolled back from {second}", True)
    promote(ratings, layout, third)  # somebody decided so: it is no longer what was rolled back from
    promote(ratings, layout, second)
    assert ratings.roll_back(CHAMPION, "Max", NOON, layout).run_id == third


HISTORIES = [
    ([0], "nothing"),
    ([0, 1, 0], 1),
    ([0, 1, 0, "back"], "nothing"),  # 0 was rolled back from
    ([2, 0, 1, 0, "back"], 2),
    ([0, 1, "back", 2], 0),
    ([0, 1, "back", 1], 0),
]


@pytest.mark.parametrize(("events", "expected"), HISTORIES)
def test_a_rollback_sets_the_last_run_that_was_not_rejected(
    ratings: Ratings, layout: Layout, runs: list[str], events: Sequence[int | str], expected: int | str
) -> None:
    for event in events:
        if isinstance(event, int):
            promote(ratings, layout, runs[event])
        else:
            ratings.roll_back(CHAMPION, "Max", NOON, layout)
    if isinstance(expected, int):
        assert ratings.roll_back(CHAMPION, "Max", NOON, layout).run_id == runs[expected]
    else:
        with pytest.raises(PromotionRefused, match="nothing to roll back to"):
            ratings.roll_back(CHAMPION, "Max", NOON, layout)


def test_a_rollback_to_a_run_that_cannot_be_loaded_changes_nothing(
    ratings: Ratings, layout: Layout, runs: list[str]
) -> None:
    promote(ratings, layout, runs[0])
    promote(ratings, layout, runs[1])
    layout.adapter(runs[0]).unlink()
    with pytest.raises(PromotionRefused, match=f"{runs[0]} cannot be promoted: its file .* is missing"):
        ratings.roll_back(CHAMPION, "Max", NOON, layout)
    with pytest.raises(PromotionRefused, match="needs a name"):
        ratings.roll_back(CHAMPION, " ", NOON, layout)
    assert history_of(ratings) == [runs[1], runs[0]]


def test_rollbacks_at_the_same_moment_go_back_one_after_the_other(
    ratings: Ratings, layout: Layout, runs: list[str], url: str
) -> None:
    for run_id in runs:
        promote(ratings, layout, run_id)
    start = Barrier(2)

    def back(_: int) -> str:
        with open_database(url) as database:
            start.wait()
            return database.ratings.roll_back(CHAMPION, "Max", NOON, layout).run_id

    with ThreadPoolExecutor(2) as people:
        assert set(people.map(back, range(2))) == {runs[0], runs[1]}
    assert history_of(ratings)[0] == runs[0]


def test_a_history_of_an_older_version_says_which_events_were_rollbacks(url: str, tmp_path: Path) -> None:
    """That version went back and forth between the last two."""
    migrate(parse_url(url), "0007")
    with sqlite3.connect(tmp_path / "naruto.db") as old:
        old.execute("INSERT INTO datasets VALUES ('d1', 'toons', 'datasets/toons', 0, 9, 0, 0, 0)")
        for run_id in "ab":
            old.execute(
                "INSERT INTO runs (id, profile, fingerprint, dataset_id, state, started_at, failure, recipe_json,"
                " git_commit) VALUES (?, 't4', ?, 'd1', 'done', '2026-11-01 08:00:00', '', '{}', '')",
                (run_id, run_id),
            )
        for run_id, why, checks in (
            ("a", "first", '{"Finished?": "yes"}'), ("b", "rolled back from boredom", '{"Finished?": "yes"}'),
            ("a", "rolled back from b", "{}"), ("b", "rolled back from a", "{}"),
        ):  # fmt: skip
            old.execute(
                'INSERT INTO promotions (alias, run_id, "by", why, at, checks)'
                " VALUES ('champion', ?, 'Max', ?, '2026-11-02 08:00:00', ?)",
                (run_id, why, checks),
            )
    with open_database(url) as database:
        ratings = database.ratings
        history = ratings.promotions(CHAMPION)
        assert [(event.run_id, event.rollback) for event in history] == [
            ("b", True), ("a", True), ("b", False), ("a", False)
        ]  # fmt: skip
        with pytest.raises(PromotionRefused, match="nothing to roll back to"):
            ratings.roll_back(CHAMPION, "Max", NOON, Layout(tmp_path))
