"""Pauses, excluded reviewers, the progress of each reviewer, and notes on pictures."""

import pytest
from voting import NOON, open_campaign, vote

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import Action, Defect, PictureNote, RatingEvent
from naruto_core.store.assignments import LEASE
from naruto_core.store.database import Ratings


def rate(ratings: Ratings, campaign: str, reviewer: str, count: int) -> list[str]:
    assignments: list[str] = []
    for number in range(count):
        assignment = ratings.next_assignment(campaign, reviewer, NOON)
        assert assignment is not None
        ratings.record(reviewer, vote(assignment.id, f"{reviewer}{number}"), NOON)
        assignments.append(assignment.id)
    return assignments


def test_a_paused_campaign_gives_no_unit_and_takes_the_vote_on_the_shown_one(ratings: Ratings):
    campaign, (me,) = open_campaign(ratings, 3)
    shown = ratings.next_assignment(campaign, me, NOON)
    assert shown is not None
    ratings.pause_campaign(campaign)
    assert ratings.next_assignment(campaign, me, NOON) is None
    assert ratings.record(me, vote(shown.id, "n"), NOON)
    ratings.pause_campaign(campaign, paused=False)
    assert ratings.next_assignment(campaign, me, NOON) is not None
    with pytest.raises(NotRecorded):
        ratings.pause_campaign("nothing")


def test_votes_of_an_excluded_reviewer_stay_recorded_and_do_not_count(ratings: Ratings):
    campaign, (one, other) = open_campaign(ratings, 10, people=2)
    rate(ratings, campaign, one, 3)
    rate(ratings, campaign, other, 2)
    version = ratings.results_version(campaign)
    for by, why in (("", "x"), ("Lea", " ")):
        with pytest.raises(RatingRefused, match="say who decides, and why"):
            ratings.exclude_reviewer(campaign, one, by, why, NOON)
    with pytest.raises(NotRecorded):
        ratings.exclude_reviewer(campaign, "nobody", "Lea", "x", NOON)
    for _ in range(2):
        ratings.exclude_reviewer(campaign, one, "Lea", "always left", NOON)
    assert [(e.reviewer_id, e.by, e.why) for e in ratings.exclusions(campaign)] == [(one, "Lea", "always left")]
    assert {rating.reviewer_id for rating in ratings.ratings(campaign)} == {other}
    assert len(ratings.ratings(campaign, with_excluded=True)) == 5
    assert sum(n for *_, n in ratings.tally(campaign)) == ratings.progress(campaign).votes == 2
    assert ratings.results_version(campaign) != version
    ratings.include_reviewer(campaign, one)
    assert len(ratings.ratings(campaign)) == ratings.progress(campaign).votes == 5
    assert ratings.results_version(campaign) == version


def test_what_an_excluded_reviewer_was_assigned_is_assigned_to_others_and_they_get_no_more(ratings: Ratings):
    campaign, (one, other) = open_campaign(ratings, 3, people=2)
    rate(ratings, campaign, one, 2)
    shown = ratings.next_assignment(campaign, one, NOON)
    assert shown is not None
    assert ratings.next_assignment(campaign, other, NOON) is None  # one rater for each of three units
    ratings.exclude_reviewer(campaign, one, "Lea", "always left", NOON)
    assert ratings.wrong_counts() == []
    assert ratings.next_assignment(campaign, one, NOON) is None
    last = ratings.last_done(campaign, one)
    assert last is not None
    for event in (vote(shown.id, "on its way"), RatingEvent(last.id, Action.UNDO, "undo", 0, "")):
        with pytest.raises(RatingRefused, match="your part of this campaign has ended"):
            ratings.record(one, event, NOON)
    rate(ratings, campaign, other, 3)
    assert ratings.progress(campaign).share == 1
    ratings.include_reviewer(campaign, one)
    assert ratings.wrong_counts() == []
    assert ratings.progress(campaign).votes == 5
    assert ratings.next_assignment(campaign, one, NOON) is None  # nothing is left


def test_the_progress_of_each_reviewer_counts_votes_skips_and_units_of_several(ratings: Ratings):
    campaign, (one, other) = open_campaign(ratings, 10, raters=2, people=2)
    rate(ratings, campaign, one, 3)
    assignment = ratings.next_assignment(campaign, one, NOON)
    assert assignment is not None
    ratings.record(one, RatingEvent(assignment.id, Action.SKIP, "s", 1.0, ""), NOON)
    rate(ratings, campaign, other, 1)
    rows = ratings.reviewer_progress(campaign)
    assert [(row.reviewer_id, row.votes, row.skips, row.overlap, row.gold) for row in rows] == [
        (one, 3, 1, 3, 0),
        (other, 1, 0, 1, 0),
    ]
    assert rows[0].last_at == NOON


def test_a_note_is_kept_once_with_the_sample_at_its_position(ratings: Ratings):
    campaign, (me, other) = open_campaign(ratings, 3, people=2)
    shown = ratings.next_assignment(campaign, me, NOON)
    assert shown is not None
    mark = PictureNote(shown.id, "n1", position=1, defect=Defect.HANDS, x=0.25, y=0.75)
    assert ratings.add_picture_note(me, mark, NOON)
    assert not ratings.add_picture_note(me, mark, NOON)
    assert ratings.add_picture_note(me, PictureNote(shown.id, "n2", text=" both are dark "), NOON)
    newest, first = ratings.picture_notes(campaign)
    assert (newest.text, newest.sample, newest.contender) == ("both are dark", "", "")
    assert (first.sample, first.defect, first.x, first.y) == (shown.samples[1], Defect.HANDS, 0.25, 0.75)
    assert first.contender in ("one", "two")
    for note, reason in (
        (PictureNote(shown.id, "x", text="  "), "the note is empty"),
        (PictureNote(shown.id, "x", text="n" * 501), "at most 500"),
        (PictureNote(shown.id, "x", position=0, x=1.5, y=0.0), "outside the picture"),
        (PictureNote(shown.id, "x", position=0, x=float("nan"), y=0.0), "outside the picture"),
        (PictureNote(shown.id, "x", position=7, x=0.5, y=0.5), "no picture at this position"),
    ):
        with pytest.raises(RatingRefused, match=reason):
            ratings.add_picture_note(me, note, NOON)
    with pytest.raises(RatingRefused, match="not assigned to you"):
        ratings.add_picture_note(other, PictureNote(shown.id, "y", text="mine"), NOON)
    for number in range(18):
        ratings.add_picture_note(me, PictureNote(shown.id, f"m{number}", text="again"), NOON)
    with pytest.raises(RatingRefused, match="20 notes already"):
        ratings.add_picture_note(me, PictureNote(shown.id, "last", text="again"), NOON)


def test_a_noted_pair_that_nobody_answered_is_assigned_to_somebody_else_after_its_lease(ratings: Ratings):
    campaign, (one, other) = open_campaign(ratings, 1, people=2)
    shown = ratings.next_assignment(campaign, one, NOON)
    assert shown is not None
    ratings.add_picture_note(one, PictureNote(shown.id, "n", "six fingers", None, None, None, None), NOON)
    assert ratings.next_assignment(campaign, other, NOON + 2 * LEASE) is not None
    assert [note.text for note in ratings.picture_notes(campaign)] == ["six fingers"]
    assert ratings.wrong_counts() == []
