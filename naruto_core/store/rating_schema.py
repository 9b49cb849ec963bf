"""The tables of human evaluation. Rating events and promotions are append-only.

An answer is stored as JSON: `"left"`, grades or extremes.
"""

import json
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Text, UniqueConstraint, false, text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from naruto_core.errors import RecordDamaged
from naruto_core.ratings import (
    Action,
    Answer,
    Campaign,
    Defect,
    Extremes,
    Grades,
    Mode,
    Outcome,
    Promotion,
    Reviewer,
    Role,
)
from naruto_core.store.schema import Base, enum_as_text


class AnswerJson(TypeDecorator[Answer]):
    """An answer as JSON text. Reading raises RecordDamaged for text that this type did not write."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Answer | None, dialect: Dialect) -> str | None:
        del dialect
        if value is None:
            return None
        if isinstance(value, Outcome):
            return json.dumps(value.value)
        if isinstance(value, Grades):
            return json.dumps(asdict(value) | {"defects": sorted(value.defects)})
        return json.dumps(asdict(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Answer | None:
        del dialect
        return None if value is None else _parse_answer(value)


@lru_cache(maxsize=1024)  # a campaign of pairs has four answers, and thousands of votes
def _parse_answer(text: str) -> Answer:
    try:
        value = json.loads(text)
        if isinstance(value, str):
            return Outcome(value)
        if "best" in value:
            return Extremes(value["best"], value["worst"])
        return Grades(value["adherence"], value["style"], frozenset(map(Defect, value["defects"])))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordDamaged(
            f"a vote in the database cannot be read ({text[:80]!r}): restore the database from a backup."
        ) from error


class ReviewerRow(Base):
    __tablename__ = "reviewers"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role] = mapped_column(enum_as_text(Role))
    email: Mapped[str | None] = mapped_column(unique=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)

    def to_domain(self) -> Reviewer:
        return Reviewer(self.id, self.name, self.role, self.email or "", self.token_sha256)


class CampaignRow(Base):
    __tablename__ = "campaigns"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    question: Mapped[str] = mapped_column(Text)
    mode: Mapped[Mode] = mapped_column(enum_as_text(Mode))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    informative: Mapped[float]
    repeats: Mapped[float]
    example: Mapped[bool]
    units: Mapped[int]  # their number, stored so that an assignment needs no count
    paused: Mapped[bool] = mapped_column(server_default=false())
    # of them those that can be assigned, without gold units; see `unit_counts`
    open_units: Mapped[int] = mapped_column(server_default=text("0"))

    def to_domain(self) -> Campaign:
        return Campaign(
            self.id, self.name, self.question, self.mode, self.opened_at, self.closed_at, self.informative,
            self.repeats, self.example, self.paused,
        )  # fmt: skip


_GOLD, _OVERLAP = text("gold != ''"), text("wanted > 1 AND gold = ''")
_OTHER = text("act != 'vote'")


class UnitRow(Base):
    __tablename__ = "units"
    __table_args__ = (
        UniqueConstraint("campaign_id", "position"),  # uniform sampling draws a position
        # the next unit of a reviewer: the least assigned one, of a pairing or of all, then by position
        Index(None, "campaign_id", "pairing", "given", "position"),
        Index(None, "campaign_id", "given", "position", "wanted"),
        # the few gold units and units for several reviewers, which every reviewer gets a share of; Postgres gets the
        # same condition from the migration, because naming it here imports Postgres' dialect in every command
        Index("ix_units_gold", "campaign_id", "given", "position", sqlite_where=_GOLD),
        Index("ix_units_overlap", "campaign_id", "given", "position", sqlite_where=_OVERLAP),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    position: Mapped[int]
    prompt: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    # ids of samples; no foreign keys, because votes stay when a picture is drawn again
    samples: Mapped[list[str]] = mapped_column(JSON)
    contenders: Mapped[list[str]] = mapped_column(JSON)
    pairing: Mapped[str]  # the contenders in alphabetical order, separated by a space
    raters: Mapped[int] = mapped_column("wanted")
    n_assigned: Mapped[int] = mapped_column("given")  # stored so that finding the next unit needs no count
    gold: Mapped[str]


class AssignmentRow(Base):
    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("unit_id", "reviewer_id", "repeat"),  # a reviewer gets a unit once, and once as a repeat
        Index(None, "reviewer_id", "campaign_id", "done"),
        Index(None, "done", "leased_until"),
        # counting reads these two, and not the rows: units that a reviewer has seen, and the progress of a campaign
        Index("ix_assignments_of_reviewer", "reviewer_id", "campaign_id", "repeat", "unit_id"),
        Index("ix_assignments_of_campaign", "campaign_id", "last_event", "repeat", "reviewer_id", "unit_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    unit_id: Mapped[int] = mapped_column(ForeignKey("units.id"))
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("reviewers.id"))
    order: Mapped[str] = mapped_column("shown")  # on the screen: "10" has the unit's second sample on the left
    repeat: Mapped[bool]
    propensity: Mapped[float]
    done: Mapped[bool]  # voted on or skipped, and not undone
    leased_until: Mapped[datetime]
    last_event: Mapped[int | None]  # the event that counts; the view `ratings` joins by it
    unit: Mapped[UnitRow] = relationship()


class RatingEventRow(Base):
    __tablename__ = "rating_events"
    __table_args__ = (
        Index(None, "assignment_id", "id"),
        # the few skips and undos, so that counting the votes of a campaign reads no votes
        Index("ix_rating_events_other", "id", "act", sqlite_where=_OTHER),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"))
    action: Mapped[Action] = mapped_column("act", enum_as_text(Action))
    answer: Mapped[Answer | None] = mapped_column(AnswerJson)
    nonce: Mapped[str] = mapped_column(unique=True)
    seconds: Mapped[float]
    viewport: Mapped[str]
    at: Mapped[datetime]


class ExclusionRow(Base):
    __tablename__ = "excluded_reviewers"

    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("reviewers.id"), primary_key=True)
    by: Mapped[str]
    why: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]


class PictureNoteRow(Base):
    __tablename__ = "picture_notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"), index=True)
    sample: Mapped[str]  # its id, "" for a note on the unit
    text: Mapped[str] = mapped_column(Text)
    defect: Mapped[Defect | None] = mapped_column(enum_as_text(Defect))
    x: Mapped[float | None]
    y: Mapped[float | None]
    nonce: Mapped[str] = mapped_column(unique=True)
    at: Mapped[datetime]


class PromotionRow(Base):
    __tablename__ = "promotions"
    __table_args__ = (Index(None, "alias", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    by: Mapped[str]
    why: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    checks: Mapped[dict[str, str]] = mapped_column(JSON)
    rollback: Mapped[bool] = mapped_column(server_default=false())

    def to_domain(self) -> Promotion:
        return Promotion(self.alias, self.run_id, self.by, self.why, self.at, self.checks, self.rollback)
