"""Votes: nobody gets a unit twice, no vote is lost, no vote counts twice."""

import sqlite3
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event
from voting import NOON, open_campaign, vote

from naruto_core.errors import RatingRefused
from naruto_core.ratings import Action, Outcome, RatingEvent, Role
from naruto_core.store.assignments import LEASE
from naruto_core.store.connection import make_engine, migrate, parse_url
from naruto_core.store.database import Ratings


def test_a_personal_link_identifies_a_reviewer_and_its_token_is_not_stored(ratings: Ratings, tmp_path: Path):
    ada, token = ratings.add_reviewer("Ada", Role.ADMIN)
    assert ratings.reviewer_by_token(token) == ada
    assert ratings.reviewer_by_token(token + "x") is None
    assert token.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("naruto.db*"))
    with pytest.raises(RatingRefused, match="the name 'Ada' is used by another reviewer"):
        ratings.add_reviewer("Ada", Role.REVIEWER)


def test_one_person_sees_every_comparison_once_and_both_sides_occur(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 60)
    pairs: list[tuple[str, ...]] = []
    while (assignment := ratings.next_assignment(campaign, me, NOON)) is not None:
        pairs.append(assignment.samples)
        assert ratings.record(me, vote(assignment.id, f"n{len(pairs)}"), NOON)
    assert sorted(tuple(sorted(pair)) for pair in pairs) == sorted((f"a{i}", f"b{i}") for i in range(60))
    swapped = sum(pair[0].startswith("b") for pair in pairs)
    assert 10 < swapped < 50
    assert [r.samples for r in ratings.ratings(campaign)] == pairs
    progress = ratings.progress(campaign)
    assert (progress.votes_needed, progress.votes) == (60, 60)


def test_asking_again_without_an_answer_gives_the_same_pair_on_the_same_sides(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 5)
    first, again = (ratings.next_assignment(campaign, me, NOON + timedelta(minutes=m)) for m in (0, 30))
    assert first is not None
    assert again is not None
    assert (first.id, first.samples) == (again.id, again.samples)


def test_a_double_click_counts_once_and_a_second_answer_is_refused(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 2)
    assignment = ratings.next_assignment(campaign, me, NOON)
    assert assignment is not None
    assert ratings.record(me, vote(assignment.id, "n1"), NOON) is True
    assert ratings.record(me, vote(assignment.id, "n1"), NOON) is False
    with pytest.raises(RatingRefused, match="answered already"):
        ratings.record(me, vote(assignment.id, "n2", Outcome.RIGHT), NOON)
    assert [rating.answer for rating in ratings.ratings(campaign)] == [Outcome.LEFT]


def test_an_undone_vote_stays_in_the_database_does_not_count_and_is_asked_again(ratings: Ratings, tmp_path: Path):
    campaign, (me,) = open_campaign(ratings, 2)
    assignment = ratings.next_assignment(campaign, me, NOON)
    assert assignment is not None
    ratings.record(me, vote(assignment.id, "n1"), NOON)
    last = ratings.last_done(campaign, me)
    assert last is not None
    ratings.record(me, RatingEvent(last.id, Action.UNDO, "n2", 0.5, ""), NOON)
    assert ratings.ratings(campaign) == []
    with pytest.raises(RatingRefused, match="nothing to undo"):
        ratings.record(me, RatingEvent(last.id, Action.UNDO, "n3", 0.5, ""), NOON)
    again = ratings.next_assignment(campaign, me, NOON)
    assert again is not None
    assert again.id == assignment.id
    ratings.record(me, vote(again.id, "n4", Outcome.BOTH_BAD), NOON)
    assert [rating.answer for rating in ratings.ratings(campaign)] == [Outcome.BOTH_BAD]
    with sqlite3.connect(tmp_path / "naruto.db") as database:
        assert [row[0] for row in database.execute("SELECT act FROM rating_events ORDER BY id")] == [
            "vote",
            "undo",
            "vote",
        ]


def test_an_expired_lease_is_released_and_a_late_vote_is_refused(ratings: Ratings):
    campaign, (slow, quick) = open_campaign(ratings, 1, people=2)
    held = ratings.next_assignment(campaign, slow, NOON)
    assert held is not None
    assert ratings.next_assignment(campaign, quick, NOON + LEASE / 2) is None
    assignment = ratings.next_assignment(campaign, quick, NOON + 2 * LEASE)
    assert assignment is not None
    with pytest.raises(RatingRefused, match="no longer assigned to you"):
        ratings.record(slow, vote(held.id, "late"), NOON + 2 * LEASE)
    with pytest.raises(RatingRefused, match="no longer assigned to you"):
        ratings.record(slow, vote(assignment.id, "foreign"), NOON)
    assert ratings.record(quick, vote(assignment.id, "in time"), NOON + 2 * LEASE)


def test_a_skipped_pair_goes_to_somebody_else_unless_the_skip_is_undone(ratings: Ratings):
    campaign, (me, other) = open_campaign(ratings, 1, people=2)
    skipped = ratings.next_assignment(campaign, me, NOON)
    assert skipped is not None
    ratings.record(me, RatingEvent(skipped.id, Action.SKIP, "s", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, me, NOON) is None  # never the same pair twice to one person
    ratings.record(me, RatingEvent(skipped.id, Action.UNDO, "u", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, other, NOON) is None
    ratings.record(me, RatingEvent(skipped.id, Action.SKIP, "t", 1.0, ""), NOON)
    assignment = ratings.next_assignment(campaign, other, NOON)
    assert assignment is not None
    assert set(assignment.samples) == set(skipped.samples)


def test_a_unit_with_an_undone_vote_is_released_to_somebody_else(ratings: Ratings):
    campaign, (me, other) = open_campaign(ratings, 1, people=2)
    assignment = ratings.next_assignment(campaign, me, NOON)
    assert assignment is not None
    ratings.record(me, vote(assignment.id, "n1"), NOON)
    ratings.record(me, RatingEvent(assignment.id, Action.UNDO, "n2", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, other, NOON) is None
    taken = ratings.next_assignment(campaign, other, NOON + 2 * LEASE)
    assert taken is not None
    ratings.record(other, vote(taken.id, "n3"), NOON + 2 * LEASE)
    assert [rating.reviewer_id for rating in ratings.ratings(campaign)] == [other]


def test_a_closed_campaign_takes_no_votes(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 3)
    assignment = ratings.next_assignment(campaign, me, NOON)
    assert assignment is not None
    ratings.close_campaign(campaign, NOON)
    assert ratings.next_assignment(campaign, me, NOON) is None
    with pytest.raises(RatingRefused, match="closed"):
        ratings.record(me, vote(assignment.id, "n"), NOON)
    assert ratings.ratings(campaign) == []
    ratings.reopen_campaign(campaign)
    assert ratings.record(me, vote(assignment.id, "n"), NOON)


def test_ten_reviewers_at_once_lose_no_vote_and_get_no_unit_twice(url: str):
    migrate(parse_url(url))
    with Ratings(make_engine(parse_url(url))) as first:
        campaign, people = open_campaign(first, 40, raters=3, people=10)

    def session(me: str) -> list[tuple[str, ...]]:
        done: list[tuple[str, ...]] = []
        with Ratings(make_engine(parse_url(url))) as own:
            while (assignment := own.next_assignment(campaign, me, NOON)) is not None:
                done.append(assignment.samples)
                for _ in range(2):  # every reply is lost once
                    own.record(me, vote(assignment.id, f"{me}-{len(done)}"), NOON)
        return done

    with ThreadPoolExecutor(10) as pool:
        done = dict(zip(people, pool.map(session, people), strict=True))
    for pairs in done.values():
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
    with Ratings(make_engine(parse_url(url))) as last:
        votes = last.ratings(campaign)
    assert Counter(r.reviewer_id for r in votes) == {me: len(pairs) for me, pairs in done.items() if pairs}
    assert set(Counter(frozenset(r.samples) for r in votes).values()) == {3}
    assert len(votes) == 120


def test_a_vote_waits_for_the_disk_and_an_assignment_does_not(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 3)
    written: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        written.extend(word for word in ("FULL", "NORMAL") if statement == f"PRAGMA synchronous = {word}")

    event.listen(ratings._engine, "before_cursor_execute", note)
    assignment = ratings.next_assignment(campaign, me, NOON)
    assert assignment is not None
    ratings.record(me, vote(assignment.id, "n"), NOON)
    assert written == ["NORMAL", "FULL"]  # the vote writes the assignment to the disk too: they are in one journal
