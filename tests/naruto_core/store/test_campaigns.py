"""What is given to whom, how often, and what becomes of it."""

import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from judged import NOON, opened, vote
from sqlalchemy import Engine, event
from sqlalchemy.dialects.sqlite import dialect

from naruto_core.errors import RatingRefused
from naruto_core.ratings import (
    Action,
    Answer,
    Campaign,
    Defect,
    Extremes,
    Grades,
    Mode,
    Outcome,
    RatingEvent,
    Role,
    Unit,
)
from naruto_core.store.assignments import next_unit
from naruto_core.store.database import Ratings, open_store


def test_the_next_unit_is_found_by_an_index_with_and_without_a_pairing(ratings: Ratings, tmp_path: Path):
    campaign, (me,) = opened(ratings, 3)
    for pairing, index in (
        ("", "ix_units_campaign_id_given_position"),
        ("one two", "ix_units_campaign_id_pairing_given_position"),
    ):
        question = next_unit(campaign, me, pairing).compile(dialect=dialect(), compile_kwargs={"literal_binds": True})
        with sqlite3.connect(tmp_path / "naruto.db") as database:
            plan = " ".join(str(row) for row in database.execute(f"EXPLAIN QUERY PLAN {question}"))
        assert index in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_what_pages_ask_of_many_votes_and_pictures_is_found_by_indexes(ratings: Ratings, tmp_path: Path):
    campaign, _ = opened(ratings, 3)
    asked: list[tuple[str, tuple[object, ...]]] = []

    def listen(_connection: object, _cursor: object, statement: str, given: tuple[object, ...], *_: object) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, given))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        ratings.tally(campaign)
        ratings.latest(campaign)
        ratings.models(campaign)
        with open_store(f"sqlite:///{tmp_path / 'naruto.db'}") as store:
            asked_before = len(asked)
            store.picture_path("a" * 64)
            store.digests(["a", "b"])
            store.last_step("r1")
            store.samples("r1")
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert len(asked) >= asked_before + 4 >= 7
    with sqlite3.connect(tmp_path / "naruto.db") as database:
        for statement, given in asked:
            if "sqlite_master" in statement or "alembic" in statement:
                continue
            plan = " ".join(str(row) for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", given))
            assert "SCAN" not in plan, (statement, plan)


def test_every_prompt_is_judged_once_before_any_is_judged_again(ratings: Ratings):
    campaign, (me,) = opened(ratings, 20, informative=1.0)
    prompts: list[str] = []
    for number in range(20):
        given = ratings.next_assignment(campaign, me, NOON)
        assert given is not None
        ratings.record(me, vote(given.id, f"n{number}"), NOON)
    prompts = [rating.prompt for rating in ratings.ratings(campaign)]
    for start in range(0, 20, 5):
        assert len(set(prompts[start : start + 5])) == 5


def test_a_share_is_drawn_evenly_and_each_assignment_says_how_probable_it_was(ratings: Ratings):
    shares: Counter[bool] = Counter()
    wish = [Unit("p", "t", i, (f"a{i}", f"b{i}"), ("one", "two" if i < 20 else "three"), 99) for i in range(40)]
    campaign = ratings.open_campaign(Campaign("", "c", "?", Mode.PAIR, NOON, repeats=0.0), wish, 3)
    ratings.add_reviewer("lead", Role.LEAD)
    drawn: Counter[int] = Counter()
    for number in range(300):
        person = ratings.add_reviewer(f"x{number}", Role.REVIEWER)[0].id
        given = ratings.next_assignment(campaign.id, person, NOON, "one three", random.Random(number))
        assert given is not None
        ratings.record(person, vote(given.id, f"n{number}"), NOON)
    for rating in ratings.ratings(campaign.id):
        shares["three" in rating.contenders] += 1
        drawn[rating.seed] += 1
        assert rating.propensity in (pytest.approx(0.3 / 40), pytest.approx(0.7 + 0.3 / 40))
        assert rating.propensity < 0.5 or "three" in rating.contenders
    assert 0.78 < shares[True] / 300 < 0.92  # 0.7, and half of the rest
    assert all(drawn[seed] <= 8 for seed in range(20))  # evenly: two or three expected


def test_repeats_come_with_the_sides_changed_after_others_and_fill_no_place(ratings: Ratings):
    campaign, (me,) = opened(ratings, 60, repeats=0.3)
    number = 0
    while (given := ratings.next_assignment(campaign, me, NOON)) is not None:
        number += 1
        ratings.record(me, vote(given.id, f"n{number}"), NOON)
    votes = ratings.ratings(campaign)
    first = {rating.unit_id: (place, rating) for place, rating in enumerate(votes) if not rating.repeat}
    again = [(place, rating) for place, rating in enumerate(votes) if rating.repeat]
    assert len(first) == 60
    assert len(again) > 5
    assert len({rating.unit_id for _, rating in again}) == len(again)
    for place, rating in again:
        before, original = first[rating.unit_id]
        assert place - before > 8
        assert rating.samples == original.samples[::-1]
    assert ratings.standing(campaign).rated == 60


def test_one_picture_is_graded_and_four_have_a_best_and_a_worst(ratings: Ratings):
    ratings.add_reviewer("lead", Role.LEAD)
    me = ratings.add_reviewer("me", Role.REVIEWER)[0].id
    wishes: dict[Mode, tuple[tuple[str, ...], Answer]] = {
        Mode.SCALE: (("a",), Grades(4, 2, frozenset({Defect.HANDS, Defect.TEXT}))),
        Mode.BEST_WORST: (("a", "b", "c", "d"), Extremes(3, 0)),
    }
    for mode, (samples, answer) in wishes.items():
        unit = Unit("p", "t", 1, samples, tuple(f"run-{s}" for s in samples))
        campaign = ratings.open_campaign(Campaign("", mode, "?", mode, NOON), [unit], 1)
        given = ratings.next_assignment(campaign.id, me, NOON)
        assert given is not None
        assert sorted(given.samples) == list(samples)
        with pytest.raises(RatingRefused, match="another question"):
            ratings.record(me, vote(given.id, f"wrong {mode}"), NOON)
        for bad in (Grades(0, 3), Grades(3, 6)) if mode is Mode.SCALE else (Extremes(1, 1), Extremes(0, 4)):
            with pytest.raises(RatingRefused, match=r"1 to 5|two different"):
                ratings.record(me, RatingEvent(given.id, Action.VOTE, f"bad {bad}", 1.0, "", bad), NOON)
        ratings.record(me, RatingEvent(given.id, Action.VOTE, f"good {mode}", 1.0, "", answer), NOON)
        (rating,) = ratings.ratings(campaign.id)
        assert rating.answer == answer
        assert rating.contenders == tuple(f"run-{s}" for s in rating.samples)


def test_before_there_is_a_lead_nobody_else_is_let_in(ratings: Ratings):
    with pytest.raises(RatingRefused, match="add a lead first"):
        ratings.add_reviewer("Ada", Role.REVIEWER)
    lead, token = ratings.add_reviewer("Lea", Role.LEAD, "lea@example.org")
    assert ratings.reviewer_called(email="lea@example.org") == lead
    assert ratings.reviewer_called(reviewer_id=lead.id) == lead
    assert ratings.reviewer_called() is None
    renewed = ratings.renew_link(lead.id)
    assert ratings.reviewer(token) is None
    assert ratings.reviewer(renewed) == lead
    for name in ("", "x" * 81, "   "):
        with pytest.raises(RatingRefused, match="1 to 80"):
            ratings.add_reviewer(name, Role.REVIEWER)


def test_the_database_counts_votes_as_we_do_from_the_ratings(ratings: Ratings) -> None:
    campaign_id, people = opened(ratings, 12, wanted=3, people=3, repeats=0.5)
    draw = random.Random(1)
    for turn in range(30):
        who = people[turn % 3]
        given = ratings.next_assignment(campaign_id, who, NOON, draw=draw)
        if given:
            ratings.record(who, vote(given.id, f"n{turn}", draw.choice(list(Outcome))), NOON)
    expected = Counter((r.prompt, r.contenders, r.answer) for r in ratings.ratings(campaign_id) if not r.repeat)
    found = {(prompt, sides, said): n for prompt, sides, said, n in ratings.tally(campaign_id)}
    assert found == dict(expected)
    assert sum(found.values()) == ratings.standing(campaign_id).rated > 10
    assert ratings.models(campaign_id) == ["one", "two"]


def test_the_number_of_the_last_event_grows_with_every_deed(ratings: Ratings) -> None:
    campaign_id, (who,) = opened(ratings, 3)
    assert ratings.latest(campaign_id) == 0
    given = ratings.next_assignment(campaign_id, who, NOON)
    assert given
    ratings.record(who, vote(given.id, "n1"), NOON)
    first = ratings.latest(campaign_id)
    ratings.record(who, RatingEvent(given.id, Action.UNDO, "n2", 0, ""), NOON)
    assert ratings.latest(campaign_id) > first > 0
