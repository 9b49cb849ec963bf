"""What an admin sees and decides of reviewers in a campaign, and the notes that reviewers write.

Nothing here deletes a vote: an excluded reviewer's votes stay recorded and do not count.
"""

import math
from datetime import datetime

from sqlalchemy import and_, case, func, select, update

from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import Exclusion, PictureNote, RecordedNote, ReviewerProgress
from naruto_core.store.campaigns import IS_GOLD, find_campaign, in_shown_order, other_events
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import (
    AssignmentRow,
    ExclusionRow,
    PictureNoteRow,
    RatingEventRow,
    ReviewerRow,
    UnitRow,
)
from naruto_core.store.unit_counts import count_again

MOST_NOTE = 500  # characters
_MOST_NOTES = 20  # of one assignment: a page that goes wrong cannot fill the database


class ReviewControl(Repository):
    """Exclusions, the progress of each reviewer, and notes on pictures."""

    def exclude_reviewer(self, campaign_id: str, reviewer_id: str, by: str, why: str, now: datetime) -> None:
        """Let the votes of a reviewer not count in a campaign; a second exclusion changes nothing.

        They get no more units, what they were assigned is assigned to others, and votes on their way are refused.
        Raises NotRecorded for an unknown campaign or reviewer, RatingRefused without a name or a reason.
        """
        if not by.strip() or not why.strip():
            raise RatingRefused("an exclusion needs a name and a reason: say who decides, and why.")
        with self._writing() as session:
            find_campaign(session, campaign_id)
            if session.get(ReviewerRow, reviewer_id) is None:
                raise NotRecorded("there is no such reviewer.")
            if session.get(ExclusionRow, (campaign_id, reviewer_id)) is None:
                row = ExclusionRow(
                    campaign_id=campaign_id, reviewer_id=reviewer_id, by=by.strip(), why=why.strip(), at=now
                )
                session.add(row)
                mine = AssignmentRow.campaign_id == campaign_id, AssignmentRow.reviewer_id == reviewer_id
                session.execute(update(AssignmentRow).where(*mine, ~AssignmentRow.done).values(done=True))
                count_again(session, campaign_id, reviewer_id)

    def include_reviewer(self, campaign_id: str, reviewer_id: str) -> None:
        """Let the votes of an excluded reviewer count again."""
        with self._writing() as session:
            row = session.get(ExclusionRow, (campaign_id, reviewer_id))
            if row is not None:
                session.delete(row)
                count_again(session, campaign_id, reviewer_id)

    def exclusions(self, campaign_id: str) -> list[Exclusion]:
        """The excluded reviewers of a campaign, oldest first."""
        query = select(ExclusionRow).where(ExclusionRow.campaign_id == campaign_id).order_by(ExclusionRow.at)
        with self._reading() as session:
            return [
                Exclusion(row.campaign_id, row.reviewer_id, row.by, row.why, row.at) for row in session.scalars(query)
            ]

    def reviewer_progress(self, campaign_id: str) -> list[ReviewerProgress]:
        """What everybody did in a campaign, the most votes first; excluded reviewers too."""
        last = AssignmentRow.last_event
        voted, skipped = last.not_in(other_events()), last.in_(other_events().where(RatingEventRow.action == "skip"))
        counted = (voted, skipped, and_(voted, UnitRow.raters > 1, ~IS_GOLD), and_(voted, IS_GOLD))
        counts = (
            select(
                func.max(AssignmentRow.reviewer_id).label("reviewer"),
                *(func.count(case((condition, 1))) for condition in counted),
                func.max(last).label("last"),
            )
            .select_from(AssignmentRow)
            .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
            .where(AssignmentRow.campaign_id == campaign_id, last.is_not(None))
            .group_by(func.coalesce(AssignmentRow.reviewer_id, ""))  # an index in the order of reviewers is slower
            .subquery()
        )
        columns = [column for column in counts.c if column.name != "last"]
        query = select(*columns, RatingEventRow.at).join(RatingEventRow, RatingEventRow.id == counts.c.last)
        with self._reading() as session:
            rows = [ReviewerProgress(*row) for row in session.execute(query)]
        return sorted(rows, key=lambda row: (-row.votes, row.reviewer_id))

    def add_picture_note(self, reviewer_id: str, note: PictureNote, now: datetime) -> bool:
        """Record a note of a reviewer on an assignment of theirs; False for a `nonce` that is recorded already.

        Raises RatingRefused for somebody else's assignment, an empty or too long text, a place outside the picture, and
        for more notes than a person writes.
        """
        _check_note(note)
        with self._writing() as session:
            if session.scalar(select(PictureNoteRow.id).where(PictureNoteRow.nonce == note.nonce)):
                return False
            row = session.get(AssignmentRow, note.assignment_id)
            if row is None or row.reviewer_id != reviewer_id:
                raise RatingRefused("these pictures are not assigned to you: the note is not kept.")
            unit = session.get_one(UnitRow, row.unit_id)
            if note.position is not None and not 0 <= note.position < len(unit.samples):
                raise RatingRefused("there is no picture at this position.")
            existing = select(func.count()).where(PictureNoteRow.assignment_id == row.id)
            if (session.scalar(existing) or 0) >= _MOST_NOTES:
                raise RatingRefused(f"these pictures have {_MOST_NOTES} notes already, which is the most.")
            shown = in_shown_order(unit.samples, row.order)
            sample = "" if note.position is None else shown[note.position]
            session.add(
                PictureNoteRow(
                    assignment_id=row.id, sample=sample, text=note.text.strip(), defect=note.defect, x=note.x, y=note.y,
                    nonce=note.nonce, at=now,
                )
            )  # fmt: skip
            return True

    def picture_notes(self, campaign_id: str) -> list[RecordedNote]:
        """The notes of a campaign, newest first, those of excluded reviewers too."""
        query = (
            select(PictureNoteRow, AssignmentRow.reviewer_id, UnitRow.text, UnitRow.samples, UnitRow.contenders)
            .join(AssignmentRow, AssignmentRow.id == PictureNoteRow.assignment_id)
            .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
            .where(AssignmentRow.campaign_id == campaign_id)
            .order_by(PictureNoteRow.id.desc())
        )
        with self._reading() as session:
            return [
                RecordedNote(
                    reviewer, text, note.sample, dict(zip(samples, contenders, strict=True)).get(note.sample, ""),
                    note.text, note.defect, note.x, note.y, note.at,
                )
                for note, reviewer, text, samples, contenders in session.execute(query).tuples()
            ]  # fmt: skip


def _check_note(note: PictureNote) -> None:
    placed = note.position is not None and note.x is not None and note.y is not None
    if not note.text.strip() and not placed:
        raise RatingRefused("the note is empty: write what you see, or click on the place in the picture.")
    if len(note.text) > MOST_NOTE:
        raise RatingRefused(f"a note has at most {MOST_NOTE} characters.")
    if any(place is not None and not (math.isfinite(place) and 0 <= place <= 1) for place in (note.x, note.y)):
        raise RatingRefused("the place of a defect lies outside the picture.")
