"""Tags and notes that people give to runs."""

import re
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ForeignKey, Text, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.domain import RunNote
from naruto_core.errors import RecipeInvalid
from naruto_core.store.connection import Repository
from naruto_core.store.schema import Base, run_row

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


class TagRow(Base):
    __tablename__ = "run_tags"

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)


class NoteRow(Base):
    __tablename__ = "run_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class Labels(Repository):
    """Tags (a set) and notes (a list) of runs."""

    def change_tags(self, run_id: str, add: Sequence[str], remove: Sequence[str]) -> list[str]:
        """Add and remove tags of a run; its tags then, in alphabetical order.

        Raises NotRecorded for an unknown run, and RecipeInvalid for a tag with other characters than a-z, 0-9, ".", "_"
        and "-", or for one to remove that the run does not have. Nothing is changed then.
        """
        for tag in add:
            if not _TAG.fullmatch(tag):
                raise RecipeInvalid(
                    f"{tag!r} is no tag: use 1 to 40 of the characters a-z, 0-9, '.', '_' and '-', e.g. +good."
                )
        with self._writing() as session:
            run_row(session, run_id)
            tags = set(session.scalars(select(TagRow.tag).where(TagRow.run_id == run_id)))
            if unknown := set(remove) - tags:
                has = ", ".join(sorted(tags)) or "none"
                raise RecipeInvalid(f"run {run_id} has no tag {', '.join(sorted(unknown))}; its tags: {has}.")
            session.execute(delete(TagRow).where(TagRow.run_id == run_id, TagRow.tag.in_(remove)))
            session.add_all(TagRow(run_id=run_id, tag=tag) for tag in sorted(set(add) - tags))
            return sorted((tags - set(remove)) | set(add))

    def tags(self, run_id: str) -> list[str]:
        """The tags of a run, in alphabetical order."""
        with self._reading() as session:
            return list(session.scalars(select(TagRow.tag).where(TagRow.run_id == run_id).order_by(TagRow.tag)))

    def add_note(self, run_id: str, text: str, now: datetime) -> None:
        """Add a note to a run. Raises NotRecorded for an unknown run, RecipeInvalid for an empty text."""
        if not text.strip():
            raise RecipeInvalid("the note is empty: type its text after the run.")
        with self._writing() as session:
            run_row(session, run_id)
            session.add(NoteRow(run_id=run_id, text=text.strip(), at=now))

    def notes(self, run_id: str) -> list[RunNote]:
        """The notes of a run, oldest first."""
        with self._reading() as session:
            rows = session.scalars(select(NoteRow).where(NoteRow.run_id == run_id).order_by(NoteRow.id))
            return [RunNote(row.text, row.at) for row in rows]
