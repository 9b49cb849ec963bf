"""The tables of human judgement; see `schema`. Events are only ever added."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from naruto_core.ratings import Act, Campaign, Outcome, Reviewer, Role
from naruto_core.store.schema import Base, words


class ReviewerRow(Base):
    __tablename__ = "reviewers"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role] = mapped_column(words(Role))
    token_sha256: Mapped[str] = mapped_column(unique=True)

    def noun(self) -> Reviewer:
        return Reviewer(id=self.id, name=self.name, role=self.role)


class CampaignRow(Base):
    __tablename__ = "campaigns"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    question: Mapped[str] = mapped_column(Text)
    opened_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]

    def noun(self) -> Campaign:
        return Campaign(self.id, self.name, self.question, self.opened_at, self.closed_at)


class ComparisonRow(Base):
    __tablename__ = "comparisons"
    __table_args__ = (
        UniqueConstraint("campaign_id", "first", "second"),
        # what a reviewer gets next: the least rated one, in the order of the draw
        Index(None, "campaign_id", "given", "position"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    campaign_id: Mapped[str] = mapped_column(ForeignKey("campaigns.id"))
    position: Mapped[int]
    prompt: Mapped[str]
    seed: Mapped[int] = mapped_column(BigInteger)
    first: Mapped[str]  # ids of samples; no foreign keys, because a vote outlives a picture that has to be drawn again
    second: Mapped[str]
    wanted: Mapped[int]
    given: Mapped[int]  # assignments there are, counted here so that finding the next one needs no count


class AssignmentRow(Base):
    __tablename__ = "assignments"
    __table_args__ = (
        UniqueConstraint("comparison_id", "reviewer_id"),  # never the same comparison twice to one person
        Index(None, "reviewer_id", "done"),
        Index(None, "done", "leased_until"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparisons.id"))
    reviewer_id: Mapped[str] = mapped_column(ForeignKey("reviewers.id"))
    swapped: Mapped[bool]
    done: Mapped[bool]  # voted on or skipped, and not undone
    leased_until: Mapped[datetime]


class RatingEventRow(Base):
    __tablename__ = "rating_events"
    __table_args__ = (Index(None, "assignment_id", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    assignment_id: Mapped[str] = mapped_column(ForeignKey("assignments.id"))
    act: Mapped[Act] = mapped_column(words(Act))
    outcome: Mapped[Outcome | None] = mapped_column(words(Outcome))
    nonce: Mapped[str] = mapped_column(unique=True)
    seconds: Mapped[float]
    viewport: Mapped[str]
    at: Mapped[datetime]
