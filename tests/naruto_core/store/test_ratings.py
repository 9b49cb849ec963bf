"""Judgement in the record: nobody is asked twice, nothing is lost, nothing counts twice."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from judged import NOON, opened, vote

from naruto_core.errors import RatingRefused
from naruto_core.ratings import Action, Outcome, RatingEvent, Role
from naruto_core.store.assignments import LEASE
from naruto_core.store.connection import make_engine, migrate, parse
from naruto_core.store.database import Ratings


def test_a_reviewer_is_known_by_the_token_of_their_link_which_is_not_in_the_database(ratings: Ratings, tmp_path: Path):
    ada, token = ratings.add_reviewer("Ada", Role.LEAD)
    assert ratings.reviewer(token) == ada
    assert ratings.reviewer(token + "x") is None
    assert token.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("naruto.db*"))
    with pytest.raises(RatingRefused, match="a reviewer called 'Ada' already"):
        ratings.add_reviewer("Ada", Role.REVIEWER)


def test_one_person_sees_every_comparison_once_and_both_sides_occur(ratings: Ratings):
    campaign, (me,) = opened(ratings, 60)
    seen: list[tuple[str, ...]] = []
    while (given := ratings.next_assignment(campaign, me, NOON)) is not None:
        seen.append(given.samples)
        assert ratings.record(me, vote(given.id, f"n{len(seen)}"), NOON)
    assert sorted(tuple(sorted(pair)) for pair in seen) == sorted((f"a{i}", f"b{i}") for i in range(60))
    swapped = sum(pair[0].startswith("b") for pair in seen)
    assert 10 < swapped < 50
    assert [r.samples for r in ratings.ratings(campaign)] == seen
    assert (ratings.standing(campaign).wanted, ratings.standing(campaign).rated) == (60, 60)


def test_asking_again_without_an_answer_gives_the_same_pair_on_the_same_sides(ratings: Ratings):
    campaign, (me,) = opened(ratings, 5)
    first, again = (ratings.next_assignment(campaign, me, NOON + timedelta(minutes=m)) for m in (0, 30))
    assert first is not None
    assert again is not None
    assert (first.id, first.samples) == (again.id, again.samples)


def test_a_double_click_counts_once_and_a_second_answer_is_refused(ratings: Ratings):
    campaign, (me,) = opened(ratings, 2)
    given = ratings.next_assignment(campaign, me, NOON)
    assert given is not None
    assert ratings.record(me, vote(given.id, "n1"), NOON) is True
    assert ratings.record(me, vote(given.id, "n1"), NOON) is False
    with pytest.raises(RatingRefused, match="answered already"):
        ratings.record(me, vote(given.id, "n2", Outcome.RIGHT), NOON)
    assert [rating.answer for rating in ratings.ratings(campaign)] == [Outcome.LEFT]


def test_an_undone_vote_stays_in_the_record_counts_no_longer_and_is_asked_again(ratings: Ratings, tmp_path: Path):
    campaign, (me,) = opened(ratings, 2)
    given = ratings.next_assignment(campaign, me, NOON)
    assert given is not None
    ratings.record(me, vote(given.id, "n1"), NOON)
    last = ratings.last_done(campaign, me)
    assert last is not None
    ratings.record(me, RatingEvent(last.id, Action.UNDO, "n2", 0.5, ""), NOON)
    assert ratings.ratings(campaign) == []
    with pytest.raises(RatingRefused, match="nothing to undo"):
        ratings.record(me, RatingEvent(last.id, Action.UNDO, "n3", 0.5, ""), NOON)
    again = ratings.next_assignment(campaign, me, NOON)
    assert again is not None
    assert again.id == given.id
    ratings.record(me, vote(again.id, "n4", Outcome.BOTH_BAD), NOON)
    assert [rating.answer for rating in ratings.ratings(campaign)] == [Outcome.BOTH_BAD]
    with sqlite3.connect(tmp_path / "naruto.db") as database:
        assert [row[0] for row in database.execute("SELECT act FROM rating_events ORDER BY id")] == [
            "vote",
            "undo",
            "vote",
        ]


def test_a_lease_that_ran_out_makes_room_for_another_and_the_late_vote_is_told_so(ratings: Ratings):
    campaign, (slow, quick) = opened(ratings, 1, people=2)
    held = ratings.next_assignment(campaign, slow, NOON)
    assert held is not None
    assert ratings.next_assignment(campaign, quick, NOON + LEASE / 2) is None
    given = ratings.next_assignment(campaign, quick, NOON + 2 * LEASE)
    assert given is not None
    with pytest.raises(RatingRefused, match="no longer yours"):
        ratings.record(slow, vote(held.id, "late"), NOON + 2 * LEASE)
    with pytest.raises(RatingRefused, match="no longer yours"):
        ratings.record(slow, vote(given.id, "foreign"), NOON)
    assert ratings.record(quick, vote(given.id, "in time"), NOON + 2 * LEASE)


def test_a_skipped_pair_goes_to_somebody_else_unless_the_skip_is_undone(ratings: Ratings):
    campaign, (me, other) = opened(ratings, 1, people=2)
    skipped = ratings.next_assignment(campaign, me, NOON)
    assert skipped is not None
    ratings.record(me, RatingEvent(skipped.id, Action.SKIP, "s", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, me, NOON) is None  # never the same pair twice to one person
    ratings.record(me, RatingEvent(skipped.id, Action.UNDO, "u", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, other, NOON) is None
    ratings.record(me, RatingEvent(skipped.id, Action.SKIP, "t", 1.0, ""), NOON)
    given = ratings.next_assignment(campaign, other, NOON)
    assert given is not None
    assert set(given.samples) == set(skipped.samples)


def test_an_undone_vote_that_is_never_given_again_makes_room_for_somebody_else(ratings: Ratings):
    campaign, (me, other) = opened(ratings, 1, people=2)
    given = ratings.next_assignment(campaign, me, NOON)
    assert given is not None
    ratings.record(me, vote(given.id, "n1"), NOON)
    ratings.record(me, RatingEvent(given.id, Action.UNDO, "n2", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, other, NOON) is None
    taken = ratings.next_assignment(campaign, other, NOON + 2 * LEASE)
    assert taken is not None
    ratings.record(other, vote(taken.id, "n3"), NOON + 2 * LEASE)
    assert [rating.reviewer_id for rating in ratings.ratings(campaign)] == [other]


def test_a_closed_campaign_takes_nothing(ratings: Ratings):
    campaign, (me,) = opened(ratings, 3)
    given = ratings.next_assignment(campaign, me, NOON)
    assert given is not None
    ratings.close_campaign(campaign, NOON)
    assert ratings.next_assignment(campaign, me, NOON) is None
    with pytest.raises(RatingRefused, match="closed"):
        ratings.record(me, vote(given.id, "n"), NOON)
    assert ratings.ratings(campaign) == []


def test_ten_people_at_once_lose_nothing_double_nothing_and_are_asked_nothing_twice(url: str):
    migrate(parse(url))
    with Ratings(make_engine(parse(url))) as first:
        campaign, people = opened(first, 40, wanted=3, people=10)

    def session(me: str) -> list[tuple[str, ...]]:
        done: list[tuple[str, ...]] = []
        with Ratings(make_engine(parse(url))) as mine:
            while (given := mine.next_assignment(campaign, me, NOON)) is not None:
                done.append(given.samples)
                for _ in range(2):  # every reply is lost once
                    mine.record(me, vote(given.id, f"{me}-{len(done)}"), NOON)
        return done

    with ThreadPoolExecutor(10) as pool:
        done = dict(zip(people, pool.map(session, people), strict=True))
    for pairs in done.values():
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    with Ratings(make_engine(parse(url))) as last:
        kept = last.ratings(campaign)
    assert Counter(r.reviewer_id for r in kept) == {me: len(pairs) for me, pairs in done.items() if pairs}
    assert set(Counter(frozenset(r.samples) for r in kept).values()) == {3}
    assert len(kept) == 120
