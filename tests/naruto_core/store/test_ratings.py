"""Judgement in the record: nobody is asked twice, nothing is lost, nothing counts twice."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.dialects.sqlite import dialect

from naruto_core.domain import Run
from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import (
    Act,
    Answer,
    Assignment,
    Campaign,
    Deed,
    Defect,
    Extremes,
    Grades,
    Mode,
    Outcome,
    Role,
    Unit,
)
from naruto_core.store.assignments import LEASE, next_unit
from naruto_core.store.connection import make_engine, parse
from naruto_core.store.migrating import migrate
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.ratings import Ratings
from naruto_core.store.records import Store

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def ratings(url: str) -> Iterator[Ratings]:
    migrate(parse(url))
    with Ratings(make_engine(parse(url))) as opened:
        yield opened


def units(count: int, wanted: int = 1) -> list[Unit]:
    return [Unit(f"p{i % 5}", "a ninja", i, (f"a{i}", f"b{i}"), ("one", "two"), wanted) for i in range(count)]


def vote(assignment: str, nonce: str, outcome: Outcome = Outcome.LEFT) -> Deed:
    return Deed(assignment, Act.VOTE, nonce, 2.5, "390x844", outcome)


def opened(
    ratings: Ratings, count: int, wanted: int = 1, people: int = 1, informative: float = 0.7, repeats: float = 0.0
) -> tuple[str, list[str]]:
    wish = Campaign("", "first", "Which is better?", Mode.PAIR, NOON, None, informative, repeats)
    campaign = ratings.open_campaign(wish, units(count, wanted), 1)
    ratings.add_reviewer("lead", Role.LEAD)
    return campaign.id, [ratings.add_reviewer(f"r{i}", Role.REVIEWER)[0].id for i in range(people)]


def sides(given: Assignment | None) -> tuple[str, ...]:
    assert given is not None
    return given.samples


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
    ratings.record(me, Deed(last.id, Act.UNDO, "n2", 0.5, ""), NOON)
    assert ratings.ratings(campaign) == []
    with pytest.raises(RatingRefused, match="nothing to undo"):
        ratings.record(me, Deed(last.id, Act.UNDO, "n3", 0.5, ""), NOON)
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
    ratings.record(me, Deed(skipped.id, Act.SKIP, "s", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, me, NOON) is None  # never the same pair twice to one person
    ratings.record(me, Deed(skipped.id, Act.UNDO, "u", 1.0, ""), NOON)
    assert ratings.next_assignment(campaign, other, NOON) is None
    ratings.record(me, Deed(skipped.id, Act.SKIP, "t", 1.0, ""), NOON)
    given = ratings.next_assignment(campaign, other, NOON)
    assert given is not None
    assert set(given.samples) == set(skipped.samples)


def test_an_undone_vote_that_is_never_given_again_makes_room_for_somebody_else(ratings: Ratings):
    campaign, (me, other) = opened(ratings, 1, people=2)
    given = ratings.next_assignment(campaign, me, NOON)
    assert given is not None
    ratings.record(me, vote(given.id, "n1"), NOON)
    ratings.record(me, Deed(given.id, Act.UNDO, "n2", 1.0, ""), NOON)
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
                ratings.record(me, Deed(given.id, Act.VOTE, f"bad {bad}", 1.0, "", bad), NOON)
        ratings.record(me, Deed(given.id, Act.VOTE, f"good {mode}", 1.0, "", answer), NOON)
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


def test_the_champion_is_the_newest_promotion_and_a_rollback_is_one_more(ratings: Ratings, store: Store, run: Run):
    other = store.open_run(
        profile="mini", recipe_json="{}", fingerprint="f2", dataset_id=run.dataset_id, git_commit="", now=NOON
    )
    with pytest.raises(RatingRefused, match="signed"):
        ratings.promote(CHAMPION, run.id, "Lea", " ", NOON, {})
    with pytest.raises(NotRecorded):
        ratings.promote(CHAMPION, "nobody", "Lea", "best", NOON, {})
    ratings.promote(CHAMPION, run.id, "Lea", "first", NOON, {"people": "asked"})
    with pytest.raises(RatingRefused, match="nothing to go back to"):
        ratings.roll_back(CHAMPION, "Lea", NOON)
    ratings.promote(CHAMPION, other.id, "Lea", "better hands", NOON, {})
    ratings.roll_back(CHAMPION, "Max", NOON)
    history = ratings.promotions(CHAMPION)
    assert [p.run_id for p in history] == [run.id, other.id, run.id]
    assert (history[0].by, history[0].why) == ("Max", f"rolled back from {other.id}")
    assert history[2].checks == {"people": "asked"}
