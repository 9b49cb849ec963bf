"""The stored counts of assignments and open units: right after every kind of event, checked, and counted again."""

import random
from datetime import timedelta

import pytest
from sqlalchemy import text

from naruto_core.ratings import Action, Campaign, Mode, RatingEvent, Role, Unit
from naruto_core.store.assignments import LEASE
from naruto_core.store.database import Ratings, open_database
from tests.naruto_core.store.voting import NOON, open_campaign, vote


def test_the_stored_counts_equal_a_new_count_after_votes_skips_undos_and_expired_leases(ratings: Ratings):
    units = [
        Unit(
            f"p{i % 5}", "a ninja", i, (f"a{i}", f"b{i}"), ("one", "two"), 1 + i % 3, gold="left" if i % 8 == 0 else ""
        )
        for i in range(40)
    ]
    campaign = ratings.open_campaign(Campaign("", "c", "?", Mode.PAIR, NOON, repeats=0.2), units, 1).id
    ratings.add_reviewer("admin", Role.ADMIN)
    people = [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(4)]
    rng, now, kinds = random.Random(5), NOON, set[str]()
    for turn in range(160):
        me = rng.choice(people)
        now += rng.choice((timedelta(seconds=5), timedelta(seconds=5), LEASE * 1.1))
        last = ratings.last_done(campaign, me)
        kind = rng.choices(("vote", "skip", "undo", "leave"), (6, 2, 2, 1))[0]
        if kind == "undo" and last is not None:
            ratings.record(me, RatingEvent(last.id, Action.UNDO, f"n{turn}", 0, ""), now)
        else:
            assignment = ratings.next_assignment(campaign, me, now, rng=rng)
            if assignment is None or kind in ("leave", "undo"):
                continue
            event = vote(assignment.id, f"n{turn}")
            event = event if kind == "vote" else RatingEvent(assignment.id, Action.SKIP, f"n{turn}", 1, "")
            ratings.record(me, event, now)
        kinds.add(kind)
        assert ratings.wrong_counts() == []
    assert kinds == {"vote", "skip", "undo"}
    assert ratings.progress(campaign).votes > 30


@pytest.mark.parametrize(
    "statement", ["UPDATE campaigns SET open_units = 7", "UPDATE units SET given = 2 WHERE position < 3"]
)
def test_a_wrong_count_is_found_and_counting_again_repairs_it(ratings: Ratings, statement: str):
    units = [Unit("p", "a ninja", i, (f"a{i}", f"b{i}"), ("one", "two")) for i in range(10)]
    campaign = ratings.open_campaign(Campaign("", "round", "?", Mode.PAIR, NOON, repeats=0.0), units, 1).id
    ratings.add_reviewer("admin", Role.ADMIN)
    me, _ = ratings.add_reviewer("r", Role.REVIEWER)
    assert ratings.next_assignment(campaign, me.id, NOON) is not None
    with ratings._writer.begin() as connection:  # as another program would
        connection.execute(text(statement))
    (wrong,) = ratings.wrong_counts()
    assert (wrong.campaign, wrong.counted) == ("round", 9)
    assert (wrong.units, wrong.open_units) in [(0, 7), (3, 9), (2, 9)]
    ratings.recount()
    assert ratings.wrong_counts() == []
    assert ratings.left_count(campaign, me.id) == 10  # the open assignment, and nine units


def test_a_migration_counts_campaigns_with_exclusions_again(ratings: Ratings) -> None:
    campaign, (one, other) = open_campaign(ratings, 3, people=2)
    for number in range(2):
        assignment = ratings.next_assignment(campaign, one, NOON)
        assert assignment
        ratings.record(one, vote(assignment.id, f"n{number}"), NOON)
    ratings.exclude_reviewer(campaign, one, "Lea", "always left", NOON)
    with ratings._writer.begin() as connection:  # as an earlier version left it
        connection.execute(text("UPDATE units SET given = 1 WHERE id IN (SELECT unit_id FROM assignments)"))
        connection.execute(text("UPDATE campaigns SET open_units = 1"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0020'"))
        url = connection.engine.url
    assert ratings.wrong_counts() != []
    with open_database(url.render_as_string(hide_password=False)) as migrated:
        assert migrated.ratings.wrong_counts() == []
        assert migrated.ratings.next_assignment(campaign, other, NOON) is not None
