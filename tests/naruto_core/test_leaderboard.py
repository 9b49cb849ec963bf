"""The leaderboard: what shares a column, which runs may be the best, and what needs attention."""

import csv
import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from naruto_core.domain import Finding, Run, RunState, Score, Variant
from naruto_core.ratings import Campaign, CampaignProgress, Mode
from naruto_core.report.attention import Champion, Subject, attention
from naruto_core.report.leaderboard import (
    Place,
    headline_rows,
    leaderboard,
    leaderboard_csv,
    rank_places,
)
from naruto_core.report.recipe_changes import changed_keys, recipe_differences
from naruto_core.store.queries import RunSummary

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def score(run: str, value: float, error: float = 1.0, metric: str = "fd-judge", **fields: object) -> Score:
    wide = 1.96 * error
    known = Score(run, metric, Variant.ADAPTED, value, value - wide, value + wide, 40, "judge", "1", "d1", "jackknife")
    return replace(known, **fields)  # pyright: ignore[reportArgumentType]


def summary(run_id: str, *scores: Score, state: RunState = RunState.DONE, failure: str = "") -> RunSummary:
    run = Run(run_id, "mini", run_id, "d1", state, NOW, NOW, failure)
    return RunSummary(run, "world:x", "", 60.0, scores)


def test_scores_share_a_column_only_when_they_were_measured_alike() -> None:
    suite = {"suite": "abcdef12", "seeds": "1, 2"}
    board = leaderboard(
        [
            summary("a", score("a", 10, details=suite)),
            summary("b", score("b", 11, details=suite), score("b", 0.5, metric="clip")),
            summary("c", score("c", 12, details=suite | {"suite": "other"})),
            summary("d", score("d", 13, details=suite, reference="d2")),
        ]
    )
    assert [(column.title, column.runs) for column in board.columns] == [
        ("Fréchet distance (fd-judge), d1; prompts abcdef ↓", 2),
        ("Fréchet distance (fd-judge), d1; prompts other ↓", 1),
        ("Fréchet distance (fd-judge), d2; prompts abcdef ↓", 1),
        ("with style words (clip) ↑", 1),
    ]
    first = board.columns[0].key
    assert [first in row.scores for row in board.rows] == [True, True, False, False]
    rows = list(csv.DictReader(io.StringIO(leaderboard_csv(board))))
    assert [(row["run"], row["metric"], row["place"]) for row in rows][:2] == [
        ("a", "fd-judge", "best"),
        ("b", "fd-judge", "tied"),
    ]


def test_the_adapted_model_stands_for_a_run_and_the_fused_one_where_it_alone_was_measured() -> None:
    fused = score("a", 99, variant=Variant.FUSED)
    board = leaderboard([summary("a", score("a", 10), fused), summary("b", replace(fused, run_id="b"))])
    (column,) = board.columns
    assert [row.scores[column.key].value for row in board.rows] == [10, 99]


def test_places_follow_the_direction_of_the_metric_and_an_unknown_interval_excludes_nobody() -> None:
    scores = [score("a", 10), score("b", 11), score("c", 20), score("d", 50, low=-np.inf, high=np.inf)]
    assert rank_places(scores, -1) == [Place.BEST, Place.TIED, Place.WORSE, Place.TIED]
    assert rank_places(scores[:3], 1) == [Place.WORSE, Place.WORSE, Place.BEST]
    assert rank_places(scores, 0) == [None] * 4
    assert rank_places(scores[:1], -1) == [None]


@pytest.mark.parametrize("shared", [0.0, 0.8])  # the part of the errors that all runs have in common
def test_the_best_model_is_called_worse_in_at_most_one_column_of_twenty(shared: float) -> None:
    rng = np.random.default_rng(0)
    truth, rounds, wrong, told_apart = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 6.0]), 1500, 0, 0
    for _ in range(rounds):
        noise = np.sqrt(1 - shared) * rng.normal(size=6) + np.sqrt(shared) * rng.normal()
        places = rank_places([score("a", float(value)) for value in truth + noise], -1)
        wrong += Place.WORSE in places[:1]
        told_apart += places[5] is Place.WORSE
    assert wrong / rounds <= 0.05
    assert told_apart / rounds > 0.95


def test_headline_rows_have_the_recorded_change_and_its_word() -> None:
    change = {"change": -90.0, "change_low": -99.0, "change_high": -81.0, "change_word": "better"}
    scores = [
        score("a", 100, variant=Variant.BASE),
        score("a", 10, details=dict(change)),
        score("a", 5, variant=Variant.REAL),
        score("a", 1.0, metric="blank"),
    ]
    (row,) = headline_rows(scores)
    assert (row.title, row.better, row.change, row.word) == ("Fréchet distance", -1, (-90.0, -99.0, -81.0), "better")
    assert [value.value for value in (row.base, row.trained, row.real) if value] == [100, 10, 5]


def test_changed_keys_differ_from_the_most_common_value() -> None:
    recipes = {
        "a": '{"training": {"rank": 4, "seed": 1}}',
        "b": '{"training": {"rank": 4, "seed": 2}}',
        "c": '{"training": {"rank": 8, "seed": 1}, "note": null}',
    }
    assert changed_keys(recipes) == {
        "a": {},
        "b": {"training.seed": "2"},
        "c": {"note": "null", "training.rank": "8"},
    }
    assert recipe_differences([recipes["a"], recipes["c"]]) == {"note": ["", "null"], "training.rank": ["4", "8"]}


def test_what_needs_attention_is_said_in_the_order_of_urgency() -> None:
    runs = [
        summary("champion", score("champion", 100)),
        summary("better", score("better", 50)),
        summary("failed", state=RunState.FAILED, failure="x" * 500),
        summary("stopped", state=RunState.CANCELLED, failure="by Ann"),
        summary("abandoned", state=RunState.RUNNING),
    ]
    board = leaderboard(runs)
    champion = Champion("champion", "", [Finding("champion", "overfitting", True, "copies")])
    campaign = Campaign("c1", "round <b>", "Which?", Mode.PAIR, NOW)
    full, empty = CampaignProgress(3, 4, 4), CampaignProgress(3, 4, 0)
    items = attention(board, champion, ["abandoned"], [], [(campaign, full), (campaign, empty)], NOW)
    assert [(item.subject, item.id) for item in items] == [
        (Subject.RUN, "champion"),
        (Subject.RUN, "failed"),
        (Subject.RUN, "abandoned"),
        (Subject.RUN, "better"),
        (Subject.CAMPAIGN, "c1"),
    ]
    sentences = [item.sentence for item in items]
    assert sentences[0] == "The champion has warnings: overfitting."
    assert len(sentences[1]) < 180
    assert sentences[3] == "better is better than the champion by Fréchet distance (fd-judge): 50.0 against 100.0."
    faulty = attention(board, replace(champion, fault="its adapter is gone"), [], [], [], NOW)
    assert faulty[0].sentence == "The champion champion could not be promoted now: its adapter is gone."
    assert attention(board, None, [], [], [], NOW + timedelta(days=8)) == []
