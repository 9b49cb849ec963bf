"""The tables of human judgement; see `schema`. Events and promotions are only ever added."""

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.ratings import Action, Campaign, Mode, Promotion, Reviewer, Role
from naruto_core.store.schema import Base, words


class ReviewerRow(Base):
    __tablename__ = "reviewers"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role] = mapped_column(words(Role))
    email: Mapped[str | None] = mapped_column(unique=True)
    token_sha256: Mapped[str] = mapped_column(unique=True)

    def noun(self) -> Reviewer:
        return Reviewer(id=self.id, name=self.name, role=self.role, email=self.email or "")


class CampaignRow(Base):
    __tablename__ = "campaigns"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    question: Mapped[str] = mapped_column(Text)
    mode: Mapped[Mode] = mapped_column(words(Mode))
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    informative: Mapped[float]
    repeats: Mapped[float]
    example: Mapped[bool]
    units: Mapped[int]  # counted once, so that a draw needs no count

    def noun(self) -> Campaign:
        return Campaign(
            self.id, self.name, self.question, self.mode, self.opened_at, self.closed_at, self.informative,
            self.repeats, self.example,
        )  # fmt: skip


class UnitRow(Base):
    __tablename__ = "units"
    __table_args__ = (
        UniqueConstraint("campaign_id", "position"),  # a uniform draw takes a position
        # what a reviewer gets next: the least rated unit, of a pairing or of all, in the order of the draw
        Index(None, "campaign_id", "pairing", "given", "position"),
        Index(None, "campaign_id", "given", "position", "wanted"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    position: Mapped[int]
    prompt: Mapped[str]
    text: Mapped[str] = mapped_column(Text)
    seed: Mapped[int] = mapped_column(BigInteger)
    # ids of samples; no foreign keys, because a vote outlives a picture that has to be drawn again
    samples: Mapped[list[str]] = mapped_column(JSON)
    contenders: Mapped[list[str]] = mapped_column(JSON)
    pairing: Mapped[str]  # the contenders in alphabetical order, as one word
    wanted: Mapped[int]
    given: Mapped[int]  # assignments there are, counted here so that finding the next one needs no count
    gold: Mapped[str]


class AssignmentRow(Base):
    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("unit_id", "reviewer_id", "repeat"),  # never the same unit twice to one person, but to repeat
        Index(None, "reviewer_id", "campaign_id", "done"),
        Index(None, "done", "leased_until"),
        Index(None, "campaign_id", "done"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    unit_id: Mapped[int] = mapped_column(ForeignKey("units.id"))
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("reviewers.id"))
    shown: Mapped[str]  # the order: "10" is the unit's second sample on the left
    repeat: Mapped[bool]
    propensity: Mapped[float]
    done: Mapped[bool]  # voted on or skipped, and not undone
    leased_until: Mapped[datetime]
    last_event: Mapped[int | None]  # the event that counts; the view `ratings` joins by it


class RatingEventRow(Base):
    __tablename__ = "rating_events"
    __table_args__ = (Index(None, "assignment_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"))
    act: Mapped[Action] = mapped_column(words(Action))
    answer: Mapped[str | None] = mapped_column(Text)  # JSON, see `answers`
    nonce: Mapped[str] = mapped_column(unique=True)
    seconds: Mapped[float]
    viewport: Mapped[str]
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

    def noun(self) -> Promotion:
        return Promotion(self.alias, self.run_id, self.by, self.why, self.at, self.checks, self.rollback)
