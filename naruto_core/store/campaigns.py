"""Campaigns of human evaluation: their units, their progress and the votes that count."""

import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, func, insert, literal_column, select
from sqlalchemy.orm import Session

from naruto_core.domain import RunState
from naruto_core.errors import NotRecorded, RatingRefused
from naruto_core.ratings import Action, AnswerCount, Campaign, CampaignProgress, Mode, Outcome, Rating, Unit
from naruto_core.store.connection import Repository
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, ExclusionRow, RatingEventRow, UnitRow
from naruto_core.store.schema import RunRow

_BATCH = 500
IS_GOLD = UnitRow.gold != literal_column("''")  # not a bound value, or SQLite does not use the index of gold units


class Campaigns(Repository):
    """Campaigns and their units."""

    def open_campaign(self, campaign: Campaign, units: Sequence[Unit], seed: int) -> Campaign:
        """Record `campaign` with a new id, and its `units` in an order shuffled by `seed`.

        Every prompt comes once, then every prompt again, so that votes spread over prompts. Raises RatingRefused for a
        name in use, without units, for units that do not fit the campaign's mode, and for pictures of a deleted run.
        """
        if not units:
            raise RatingRefused("these runs, prompts and seeds have no pictures in common: there is nothing to rate.")
        if any(len(unit.samples) != campaign.mode.pictures for unit in units):
            raise RatingRefused(f"a unit of mode {campaign.mode.value} has {campaign.mode.pictures} pictures.")
        with self._writing() as session:
            if session.scalar(select(CampaignRow.id).where(CampaignRow.name == campaign.name)):
                raise RatingRefused(f"the name {campaign.name!r} is used by another campaign: choose another name.")
            _refuse_deleted(session, {name for unit in units for name in unit.contenders})
            row = CampaignRow(
                id=secrets.token_hex(8), name=campaign.name, question=campaign.question, mode=campaign.mode,
                opened_at=campaign.opened_at, closed_at=campaign.closed_at, informative=campaign.informative,
                repeats=campaign.repeats, example=campaign.example, units=len(units),
                open_units=sum(not unit.gold and unit.raters > 0 for unit in units),
            )  # fmt: skip
            session.add(row)
            session.flush()
            values = [_values(row.id, position, unit) for position, unit in enumerate(_shuffled(units, seed))]
            for start in range(0, len(values), _BATCH):
                session.execute(insert(UnitRow), values[start : start + _BATCH])
            return row.to_domain()

    def campaigns(self) -> list[Campaign]:
        """Every campaign, newest first."""
        with self._reading() as session:
            rows = session.scalars(select(CampaignRow).order_by(CampaignRow.opened_at.desc(), CampaignRow.id))
            return [row.to_domain() for row in rows]

    def campaign(self, campaign_id: str) -> Campaign:
        """The campaign with this id. Raises NotRecorded when there is none."""
        with self._reading() as session:
            return find_campaign(session, campaign_id).to_domain()

    def close_campaign(self, campaign_id: str, now: datetime) -> None:
        """Close a campaign: it takes no more votes, and keeps those it has."""
        with self._writing() as session:
            find_campaign(session, campaign_id).closed_at = now

    def reopen_campaign(self, campaign_id: str) -> None:
        """Let a closed campaign take votes again. Raises RatingRefused where a run of it was deleted meanwhile."""
        with self._writing() as session:
            row = find_campaign(session, campaign_id)
            pairings = session.scalars(select(UnitRow.pairing).where(UnitRow.campaign_id == campaign_id).distinct())
            _refuse_deleted(session, {name for pairing in pairings for name in pairing.split(" ")})
            row.closed_at = None

    def pause_campaign(self, campaign_id: str, *, paused: bool = True) -> None:
        """Give nobody new units of a campaign, or give them again; votes on units that are on a screen count."""
        with self._writing() as session:
            find_campaign(session, campaign_id).paused = paused

    def ratings(self, campaign_id: str, *, with_excluded: bool = False) -> list[Rating]:
        """The votes that count: the last event of each assignment, where that is a vote; in order of time.

        Those of excluded reviewers are left out, unless `with_excluded`.
        """
        units_query = select(
            UnitRow.id, UnitRow.prompt, UnitRow.seed, UnitRow.samples, UnitRow.contenders, UnitRow.gold
        ).where(UnitRow.campaign_id == campaign_id)
        query = (
            select(
                AssignmentRow.unit_id, AssignmentRow.order, AssignmentRow.reviewer_id, RatingEventRow.answer,
                RatingEventRow.seconds, RatingEventRow.at, AssignmentRow.propensity, AssignmentRow.repeat,
            )
            .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
            .where(AssignmentRow.campaign_id == campaign_id, RatingEventRow.answer.is_not(None))
            .order_by(AssignmentRow.last_event)  # the same, in the order of an index
        )  # fmt: skip
        query = query if with_excluded else query.where(~is_excluded(campaign_id))
        with self._reading_rows() as connection:
            units = {row.id: row for row in connection.execute(units_query)}  # once each, although many vote on a unit
            return _ratings(units, connection.execute(query).tuples().all())

    def models(self, campaign_id: str) -> list[str]:
        """The contenders ("RUN/VARIANT") in alphabetical order."""
        query = select(UnitRow.pairing).where(UnitRow.campaign_id == campaign_id).distinct()
        with self._reading() as session:
            return sorted({name for pairing in session.scalars(query) for name in pairing.split(" ")})

    def answer_counts(self, campaign_id: str) -> list[AnswerCount]:
        """Count equal answers about each unit, in the order of units; those of excluded reviewers are left out."""
        units_query = select(UnitRow.id, UnitRow.prompt, UnitRow.samples, UnitRow.contenders).where(
            UnitRow.campaign_id == campaign_id, ~IS_GOLD
        )
        query = (
            select(AssignmentRow.unit_id, AssignmentRow.order, RatingEventRow.answer, func.count())
            .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
            .where(
                AssignmentRow.campaign_id == campaign_id, RatingEventRow.answer.is_not(None), ~AssignmentRow.repeat,
                ~is_excluded(campaign_id),
            )
            .group_by(AssignmentRow.unit_id, AssignmentRow.order, RatingEventRow.answer)
            .order_by(AssignmentRow.unit_id, AssignmentRow.order, RatingEventRow.answer)
        )  # fmt: skip
        with self._reading_rows() as connection:
            units = {row.id: row for row in connection.execute(units_query)}
            counts = connection.execute(query).tuples().all()
        return [
            AnswerCount(
                unit_id, unit.prompt, in_shown_order(unit.samples, order), in_shown_order(unit.contenders, order),
                answer, count,
            )
            for unit_id, order, answer, count in counts
            if (unit := units.get(unit_id)) and answer is not None  # no unit: it is a gold one
        ]  # fmt: skip

    def tally(self, campaign_id: str) -> list[tuple[str, tuple[str, str], Outcome, int]]:
        """Count the votes of a campaign of pairs: prompt, contenders in the order shown, outcome, number of votes.

        Repeats and gold units are left out. Empty for a campaign of another mode.
        """
        counts: dict[tuple[str, tuple[str, str], Outcome], int] = {}
        for one in self.answer_counts(campaign_id) if self.campaign(campaign_id).mode is Mode.PAIR else ():
            if isinstance(one.answer, Outcome):
                left, right = one.contenders
                key = one.prompt, (left, right), one.answer
                counts[key] = counts.get(key, 0) + one.count
        return [(*key, count) for key, count in counts.items()]

    def last_event_id(self, campaign_id: str) -> int:
        """The id of the last event that counts, 0 before the first; it grows with every event."""
        query = select(func.max(AssignmentRow.last_event)).where(AssignmentRow.campaign_id == campaign_id)
        with self._reading() as session:
            return session.scalar(query) or 0

    def results_version(self, campaign_id: str) -> str:
        """Changes when a vote of the campaign does, and when a reviewer is excluded or included: for caches."""
        excluded = select(ExclusionRow.reviewer_id).where(ExclusionRow.campaign_id == campaign_id)
        with self._reading() as session:
            names = sorted(session.scalars(excluded))
        return f"{self.last_event_id(campaign_id)} {' '.join(names)}".strip()

    def progress(self, campaign_id: str) -> CampaignProgress:
        """How many votes a campaign needs and how many it has; those of excluded reviewers do not count."""
        units = select(func.count(), func.coalesce(func.sum(UnitRow.raters), 0)).where(
            UnitRow.campaign_id == campaign_id, ~IS_GOLD
        )
        votes = select(func.count()).select_from(AssignmentRow).where(
            AssignmentRow.campaign_id == campaign_id, ~AssignmentRow.repeat, AssignmentRow.last_event.is_not(None),
            AssignmentRow.last_event.not_in(other_events()),
        )  # fmt: skip
        of_gold = votes.join(UnitRow, UnitRow.id == AssignmentRow.unit_id).where(
            UnitRow.campaign_id == campaign_id, IS_GOLD
        )
        with self._reading() as session:
            n_units, votes_needed = session.execute(units).one()
            n_votes = (session.scalar(votes) or 0) - (session.scalar(of_gold) or 0)
            if session.scalar(select(ExclusionRow.reviewer_id).where(ExclusionRow.campaign_id == campaign_id).limit(1)):
                n_votes -= session.scalar(_excluded_votes(campaign_id)) or 0
            return CampaignProgress(n_units, votes_needed, n_votes)


def find_campaign(session: Session, campaign_id: str) -> CampaignRow:
    """The row of a campaign. Raises NotRecorded when there is none."""
    row = session.get(CampaignRow, campaign_id)
    if row is None:
        raise NotRecorded("there is no such campaign.")
    return row


def _refuse_deleted(session: Session, contenders: Iterable[str]) -> None:
    """Raise RatingRefused where a run of the `contenders` ("RUN/VARIANT") is deleted: nobody would see pictures."""
    run_ids = {name.partition("/")[0] for name in contenders}
    deleted = select(RunRow.id).where(RunRow.id.in_(run_ids), RunRow.state == RunState.DELETED).order_by(RunRow.id)
    if names := session.scalars(deleted).all():
        raise RatingRefused(
            f"{', '.join(names)} is deleted, and its pictures with it: there is nothing to rate. Make it again with "
            "`naruto run`, or open a campaign of other runs."
        )


def is_excluded(campaign_id: str) -> ColumnElement[bool]:
    """Whether the reviewer of an assignment is excluded from the campaign."""
    excluded = select(ExclusionRow.reviewer_id).where(ExclusionRow.campaign_id == campaign_id)
    return AssignmentRow.reviewer_id.in_(excluded)


def other_events() -> Select[tuple[int]]:
    """The ids of the events that are no votes: few, and in an index, so that counting votes reads no vote."""
    is_other = RatingEventRow.action != literal_column(f"'{Action.VOTE.value}'")  # as the condition of the index
    return select(RatingEventRow.id).where(is_other)


def _excluded_votes(campaign_id: str) -> Select[tuple[int]]:
    """How many votes of excluded reviewers the view of ratings has, without repeats and gold units."""
    return (
        select(func.count())
        .select_from(AssignmentRow)
        .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
        .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
        .where(
            AssignmentRow.campaign_id == campaign_id, RatingEventRow.answer.is_not(None), ~AssignmentRow.repeat,
            ~IS_GOLD, is_excluded(campaign_id),
        )
    )  # fmt: skip


def in_shown_order(items: Sequence[str], order: str) -> tuple[str, ...]:
    """`items` in the order they are shown: "10" swaps two."""
    return tuple(items[int(index)] for index in order)


def _shuffled(units: Sequence[Unit], seed: int) -> list[Unit]:
    """Shuffled; then the first unit of each prompt, the second unit of each prompt, and so on."""
    rng = random.Random(seed)
    shuffled = rng.sample(units, len(units))
    rounds: dict[str, int] = {}
    keyed: list[tuple[int, float, Unit]] = []
    for unit in shuffled:
        rounds[unit.prompt] = rounds.get(unit.prompt, -1) + 1
        keyed.append((rounds[unit.prompt], rng.random(), unit))
    return [unit for _, _, unit in sorted(keyed, key=lambda key: key[:2])]


def _values(campaign_id: str, position: int, unit: Unit) -> dict[str, object]:
    return {
        "campaign_id": campaign_id, "position": position, "prompt": unit.prompt, "text": unit.text, "seed": unit.seed,
        "samples": list(unit.samples), "contenders": list(unit.contenders), "raters": unit.raters, "n_assigned": 0,
        "pairing": " ".join(sorted(unit.contenders)), "gold": unit.gold,
    }  # fmt: skip


def _ratings(units: Mapping[int, Row[Any]], votes: Iterable[tuple[Any, ...]]) -> list[Rating]:
    """The ratings of `votes`, rows of `Campaigns.ratings`; those of a unit in the same order share its names."""
    shown: dict[tuple[int, str], tuple[tuple[str, ...], tuple[str, ...]]] = {}
    ratings: list[Rating] = []
    for unit_id, order, reviewer, answer, seconds, at, propensity, repeat in votes:
        unit, key = units[unit_id], (unit_id, order)
        if key not in shown:
            shown[key] = in_shown_order(unit.samples, order), in_shown_order(unit.contenders, order)
        samples, contenders = shown[key]
        ratings.append(
            Rating(
                unit_id, reviewer, unit.prompt, unit.seed, samples, contenders, answer, seconds, at, propensity,
                repeat, unit.gold,
            )
        )  # fmt: skip
    return ratings
