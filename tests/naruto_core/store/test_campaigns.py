"""Which units are assigned to which reviewer, how often, and how votes are counted."""

import random
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.dialects.sqlite import dialect
from voting import NOON, open_campaign, units, vote

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.judging.agreement import krippendorff_alpha
from naruto_core.judging.votes import answers_by_unit
from naruto_core.ratings import (
    Action,
    Answer,
    Campaign,
    Defect,
    Extremes,
    Grades,
    Mode,
    Outcome,
    PictureNote,
    RatingEvent,
    Role,
    Unit,
)
from naruto_core.store.assignments import next_unit, quota_unit
from naruto_core.store.database import Ratings, open_database, open_store
from tests.postgres import serving_postgres


def test_the_next_unit_is_found_by_an_index_with_and_without_a_pairing(ratings: Ratings, tmp_path: Path):
    campaign, (me,) = open_campaign(ratings, 3)
    overlap, gold = quota_unit(2), quota_unit(4)
    assert overlap is not None
    assert gold is not None
    for query, index in (
        (next_unit(""), "ix_units_campaign_id_given_position"),
        (next_unit("one two").params(pairing="one two"), "ix_units_campaign_id_pairing_given_position"),
        (overlap, "ix_units_overlap"),
        (gold, "ix_units_gold"),
    ):
        question = query.params(campaign=campaign, reviewer=me).compile(
            dialect=dialect(), compile_kwargs={"literal_binds": True}
        )
        with sqlite3.connect(tmp_path / "naruto.db") as database:
            plan = " ".join(str(row) for row in database.execute(f"EXPLAIN QUERY PLAN {question}"))
        assert index in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_queries_of_pages_use_indexes(ratings: Ratings, tmp_path: Path):
    campaign, _ = open_campaign(ratings, 3)
    queries: list[tuple[str, tuple[object, ...]]] = []

    def listen(_connection: object, _cursor: object, statement: str, values: tuple[object, ...], *_: object) -> None:
        if statement.startswith("SELECT"):
            queries.append((statement, values))

    event.listen(Engine, "before_cursor_execute", listen)
    try:
        ratings.tally(campaign)
        ratings.ratings(campaign)
        ratings.last_event_id(campaign)
        ratings.models(campaign)
        with open_store(f"sqlite:///{tmp_path / 'naruto.db'}") as store:
            count_before = len(queries)
            store.picture_path("a" * 64)
            store.digests(["a", "b"])
            store.last_step("r1")
            store.samples("r1")
    finally:
        event.remove(Engine, "before_cursor_execute", listen)
    assert len(queries) >= count_before + 4 >= 7
    with sqlite3.connect(tmp_path / "naruto.db") as database:
        for statement, values in queries:
            if "sqlite_master" in statement or "alembic" in statement:
                continue
            plan = " ".join(str(row) for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values))
            assert "SCAN" not in plan, (statement, plan)
            assert "ORDER BY assignments.last_event" not in statement or "TEMP B-TREE" not in plan


def test_votes_on_a_unit_share_its_names(ratings: Ratings) -> None:
    campaign, people = open_campaign(ratings, 4, raters=3, people=3)
    for turn in range(12):
        me = people[turn % 3]
        assignment = ratings.next_assignment(campaign, me, NOON)
        assert assignment
        ratings.record(me, vote(assignment.id, f"n{turn}"), NOON)
    votes = ratings.ratings(campaign)
    assert len(votes) == 12
    # of four units, each in two orders at most; of every vote its own otherwise, while all are in memory
    assert len({id(one.samples) for one in votes}) == len({(one.unit_id, one.samples) for one in votes}) <= 8


def test_a_round_of_postgresql_counts_as_many_answers_as_there_are_votes() -> None:
    with serving_postgres() as url, open_database(url) as database:
        ratings = database.ratings
        campaign, people = open_campaign(ratings, 4, raters=3, people=3)
        shown: dict[str, list[str]] = {me: [] for me in people}
        for turn in range(9):
            me = people[turn % 3]
            assignment = ratings.next_assignment(campaign, me, NOON, exclude=shown[me])
            assert assignment
            assert assignment.id not in shown[me]
            shown[me].append(assignment.id)
        for number, (me, assignments) in enumerate(shown.items()):
            for assignment in assignments:
                ratings.record(me, vote(assignment, assignment, list(Outcome)[number]), NOON)
        counts = ratings.answer_counts(campaign)
        assert Counter(one.answer for one in counts for _ in range(one.count)) == Counter(list(Outcome)[:3] * 3)
        assert sum(n for *_, n in ratings.tally(campaign)) == len(ratings.ratings(campaign)) == 9


def test_every_prompt_is_rated_once_before_any_is_rated_again(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 20, informative=1.0)
    prompts: list[str] = []
    for number in range(20):
        assignment = ratings.next_assignment(campaign, me, NOON)
        assert assignment is not None
        ratings.record(me, vote(assignment.id, f"n{number}"), NOON)
    prompts = [rating.prompt for rating in ratings.ratings(campaign)]
    for start in range(0, 20, 5):
        assert len(set(prompts[start : start + 5])) == 5


def test_agreement_and_gold_answers_exist_when_a_third_of_the_votes_is_in(ratings: Ratings):
    planned = [replace(unit, raters=3) if n < 20 else unit for n, unit in enumerate(units(80))]
    planned += [Unit("p", "t", n, (f"g{n}", f"w{n}"), ("one", "one"), gold=f"g{n}") for n in range(4)]
    campaign = ratings.open_campaign(Campaign("", "c", "?", Mode.PAIR, NOON), planned, 3).id
    ratings.add_reviewer("admin", Role.ADMIN)
    people = [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(3)]
    needed, rng, turn = ratings.progress(campaign).votes_needed, random.Random(0), 0
    assert (needed, ratings.progress(campaign).units) == (60 + 3 * 20, 80)
    assert ratings.left_count(campaign, people[0]) == 80
    while ratings.progress(campaign).votes < needed / 3:
        me, turn = people[turn % 3], turn + 1
        assignment = ratings.next_assignment(campaign, me, NOON, rng=rng)
        assert assignment is not None
        ratings.record(me, vote(assignment.id, f"n{turn}", rng.choice((Outcome.LEFT, Outcome.RIGHT))), NOON)
    votes = ratings.ratings(campaign)
    assert {rating.reviewer_id for rating in votes if rating.gold} == set(people)
    assert len([rating for rating in votes if not rating.gold and not rating.repeat]) == 40
    agreement = krippendorff_alpha(answers_by_unit(ratings.answer_counts(campaign), "better"), "nominal", 10, 0)
    assert agreement.units >= 3
    assert ratings.progress(campaign).votes == 40


def test_gold_units_go_to_everybody_and_ordinary_units_to_the_end(ratings: Ratings):
    planned = units(12) + [Unit("p", "t", n, (f"g{n}", "w"), ("one", "one"), gold=f"g{n}") for n in range(2)]
    campaign = ratings.open_campaign(Campaign("", "c", "?", Mode.PAIR, NOON, repeats=0.0), planned, 3).id
    ratings.add_reviewer("admin", Role.ADMIN)
    people = [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(2)]
    counts: Counter[tuple[str, bool]] = Counter()
    for number in range(12 + 2):
        me = people[number % 2]
        assignment = ratings.next_assignment(campaign, me, NOON)
        assert assignment is not None
        ratings.record(me, vote(assignment.id, f"n{number}"), NOON)
        counts[me, assignment.samples[0][0] in "gw"] += 1
    assert [ratings.next_assignment(campaign, me, NOON) for me in people] == [None, None]
    assert [ratings.left_count(campaign, me) for me in people] == [0, 0]
    assert counts == {(me, gold): 1 if gold else 6 for me in people for gold in (True, False)}


def test_a_share_of_assignments_is_uniform_and_each_records_its_probability(ratings: Ratings):
    shares: Counter[bool] = Counter()
    units = [Unit("p", "t", i, (f"a{i}", f"b{i}"), ("one", "two" if i < 20 else "three"), 99) for i in range(40)]
    campaign = ratings.open_campaign(Campaign("", "c", "?", Mode.PAIR, NOON, repeats=0.0), units, 3)
    ratings.add_reviewer("admin", Role.ADMIN)
    seeds: Counter[int] = Counter()
    for number in range(200):
        person = ratings.add_reviewer(f"x{number}", Role.REVIEWER)[0].id
        assignment = ratings.next_assignment(campaign.id, person, NOON, "one three", random.Random(number))
        assert assignment is not None
        ratings.record(person, vote(assignment.id, f"n{number}"), NOON)
    for rating in ratings.ratings(campaign.id):
        shares["three" in rating.contenders] += 1
        seeds[rating.seed] += 1
        assert rating.propensity in (pytest.approx(0.3 / 40), pytest.approx(0.7 + 0.3 / 40))
        assert rating.propensity < 0.5 or "three" in rating.contenders
    assert 0.78 < shares[True] / 200 < 0.92  # 0.7, and half of the rest
    assert all(seeds[seed] <= 6 for seed in range(20))  # uniform: one or two expected


def test_repeats_have_swapped_sides_come_after_other_units_and_are_not_counted(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 60, repeats=0.3)
    number = 0
    while (assignment := ratings.next_assignment(campaign, me, NOON)) is not None:
        number += 1
        ratings.record(me, vote(assignment.id, f"n{number}"), NOON)
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
    assert ratings.progress(campaign).votes == 60


def test_one_picture_is_graded_and_four_have_a_best_and_a_worst(ratings: Ratings):
    ratings.add_reviewer("admin", Role.ADMIN)
    me = ratings.add_reviewer("me", Role.REVIEWER)[0].id
    examples: dict[Mode, tuple[tuple[str, ...], Answer]] = {
        Mode.SCALE: (("a",), Grades(4, 2, frozenset({Defect.HANDS, Defect.TEXT}))),
        Mode.BEST_WORST: (("a", "b", "c", "d"), Extremes(3, 0)),
    }
    for mode, (samples, answer) in examples.items():
        unit = Unit("p", "t", 1, samples, tuple(f"run-{s}" for s in samples))
        campaign = ratings.open_campaign(Campaign("", mode, "?", mode, NOON), [unit], 1)
        assignment = ratings.next_assignment(campaign.id, me, NOON)
        assert assignment is not None
        assert sorted(assignment.samples) == list(samples)
        with pytest.raises(RatingRefused, match="another question"):
            ratings.record(me, vote(assignment.id, f"wrong {mode}"), NOON)
        for bad in (Grades(0, 3), Grades(3, 6)) if mode is Mode.SCALE else (Extremes(1, 1), Extremes(0, 4)):
            with pytest.raises(RatingRefused, match=r"1 to 5|two different"):
                ratings.record(me, RatingEvent(assignment.id, Action.VOTE, f"bad {bad}", 1.0, "", bad), NOON)
        ratings.record(me, RatingEvent(assignment.id, Action.VOTE, f"good {mode}", 1.0, "", answer), NOON)
        (rating,) = ratings.ratings(campaign.id)
        assert rating.answer == answer
        assert rating.contenders == tuple(f"run-{s}" for s in rating.samples)


def test_the_first_registered_person_must_be_an_admin(ratings: Ratings):
    with pytest.raises(RatingRefused, match="add an admin first"):
        ratings.add_reviewer("Ada", Role.REVIEWER)
    ratings.add_reviewer("made up", Role.REVIEWER, example=True)
    assert not ratings.has_admin()
    admin, token = ratings.add_reviewer("Lea", Role.ADMIN, "lea@example.org")
    assert ratings.find_reviewer(email="lea@example.org") == admin
    assert ratings.find_reviewer(reviewer_id=admin.id) == admin
    assert ratings.find_reviewer() is None
    assert ratings.has_admin()
    by_id, by_name = ratings.renew_link(admin.id), ratings.renew_link(name="Lea")
    assert [ratings.reviewer_by_token(old) for old in (token, by_id)] == [None, None]
    renewed = ratings.reviewer_by_token(by_name)
    assert renewed == admin
    assert renewed.link_digest != admin.link_digest
    with pytest.raises(NotRecorded, match="nobody is registered as 'Eve'; registered: Lea, made up"):
        ratings.renew_link(name="Eve")
    for name in ("", "x" * 81, "   "):
        with pytest.raises(RatingRefused, match="1 to 80"):
            ratings.add_reviewer(name, Role.REVIEWER)


def test_the_tally_of_the_database_equals_a_count_of_the_ratings(ratings: Ratings) -> None:
    campaign_id, people = open_campaign(ratings, 12, raters=3, people=3, repeats=0.5)
    rng = random.Random(1)
    for turn in range(30):
        reviewer = people[turn % 3]
        assignment = ratings.next_assignment(campaign_id, reviewer, NOON, rng=rng)
        if assignment:
            ratings.record(reviewer, vote(assignment.id, f"n{turn}", rng.choice(list(Outcome))), NOON)
    expected = Counter((r.prompt, r.contenders, r.answer) for r in ratings.ratings(campaign_id) if not r.repeat)
    tally = {(prompt, sides, outcome): n for prompt, sides, outcome, n in ratings.tally(campaign_id)}
    assert tally == dict(expected)
    assert sum(tally.values()) == ratings.progress(campaign_id).votes > 10
    counted = {(c.unit_id, c.samples, c.contenders, c.answer): c.count for c in ratings.answer_counts(campaign_id)}
    single = [r for r in ratings.ratings(campaign_id) if not r.repeat]
    assert counted == dict(Counter((r.unit_id, r.samples, r.contenders, r.answer) for r in single))
    assert ratings.models(campaign_id) == ["one", "two"]


def test_the_id_of_the_last_event_grows_with_every_event(ratings: Ratings) -> None:
    campaign_id, (reviewer,) = open_campaign(ratings, 3)
    assert ratings.last_event_id(campaign_id) == 0
    assignment = ratings.next_assignment(campaign_id, reviewer, NOON)
    assert assignment
    ratings.record(reviewer, vote(assignment.id, "n1"), NOON)
    first = ratings.last_event_id(campaign_id)
    ratings.record(reviewer, RatingEvent(assignment.id, Action.UNDO, "n2", 0, ""), NOON)
    assert ratings.last_event_id(campaign_id) > first > 0


def test_a_character_that_postgresql_does_not_hold_is_a_sentence() -> None:
    """It comes with an address or a note; SQLite holds it."""
    nul = "a\0b"
    with serving_postgres() as url, open_database(url) as database:
        campaign, (reviewer,) = open_campaign(database.ratings, 2)
        assignment = database.ratings.next_assignment(campaign, reviewer, NOON)
        assert assignment is not None
        note = PictureNote(assignment.id, "n", nul, None, None, None, None)
        for ask in (
            lambda: database.ratings.next_assignment(nul, reviewer, NOON),
            lambda: database.ratings.record(reviewer, vote(assignment.id, nul), NOON),
            lambda: database.ratings.add_picture_note(reviewer, note, NOON),
            lambda: database.service_jobs.job(nul),
            lambda: database.runs.run(nul),
        ):
            with pytest.raises(NotRecorded, match="the character NUL, which the database cannot hold"):
                ask()


def test_an_address_of_single_sign_on_is_the_same_in_capitals(ratings: Ratings) -> None:
    """Providers send it as it was typed there."""
    admin, _ = ratings.add_reviewer("Lea", Role.ADMIN, "Lea@Example.org")
    assert ratings.find_reviewer(email="lea@example.org") == admin
    with pytest.raises(RatingRefused, match="is used by another reviewer"):
        ratings.add_reviewer("Max", Role.REVIEWER, "LEA@example.org")
