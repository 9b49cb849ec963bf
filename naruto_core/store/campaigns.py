"""What was said, as the text of an event's column: `"left"`, or JSON of grades or of the best and the worst."""

import json
import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, column, func, insert, select, table
from sqlalchemy.orm import Session

from naruto_core.errors import NotRecorded, RatingRefused, RecordDamaged
from naruto_core.ratings import Answer, Campaign, Defect, Extremes, Grades, Mode, Outcome, Rating, Standing, Unit
from naruto_core.store.connection import Database
from naruto_core.store.rating_schema import AssignmentRow, CampaignRow, RatingEventRow, UnitRow

ANCHORS = range(1, 6)


def to_text(answer: Answer) -> str:
    """The text of `answer`, which `from_text` turns back."""
    if isinstance(answer, Outcome):
        return json.dumps(answer.value)
    if isinstance(answer, Grades):
        return json.dumps(asdict(answer) | {"defects": sorted(answer.defects)})
    return json.dumps(asdict(answer))


def from_text(text: str) -> Answer:
    """RecordDamaged when it is not what `to_text` writes."""
    try:
        value = json.loads(text)
        if isinstance(value, str):
            return Outcome(value)
        if "best" in value:
            return Extremes(value["best"], value["worst"])
        return Grades(value["adherence"], value["style"], frozenset(map(Defect, value["defects"])))
    except (ValueError, KeyError, TypeError) as error:
        raise RecordDamaged(f"a vote in the record cannot be read ({text[:80]!r}): put back a copy of it.") from error


def check(answer: Answer, mode: Mode) -> None:
    """RatingRefused when `answer` is not one to a question of `mode`, or out of its range."""
    kind = {Mode.PAIR: Outcome, Mode.SCALE: Grades, Mode.BEST_WORST: Extremes}[mode]
    if type(answer) is not kind:
        raise RatingRefused(f"this campaign asks another question: an answer of mode {mode.value} is needed.")
    if isinstance(answer, Grades) and not (answer.adherence in ANCHORS and answer.style in ANCHORS):
        raise RatingRefused("grades go from 1 to 5.")
    if isinstance(answer, Extremes) and (
        answer.best == answer.worst or not {answer.best, answer.worst} <= set(range(mode.pictures))
    ):
        raise RatingRefused("the best and the worst are two different ones of the four pictures.")


_AT_ONCE = 500
_COUNTED = table("ratings", column("campaign_id"), column("repeat"))  # the view of migration 0005


class Campaigns(Database):
    """Campaigns and their units."""

    def open_campaign(self, campaign: Campaign, units: Sequence[Unit], seed: int) -> Campaign:
        """Record `campaign`, its id made anew, over `units`, given in an order drawn by `seed`: every prompt once, then
        every prompt again, so that votes spread over prompts. RatingRefused for a name in use or no units."""
        if not units:
            raise RatingRefused("these runs, prompts and seeds have no pictures in common: nothing could be judged.")
        if any(len(unit.samples) != campaign.mode.pictures for unit in units):
            raise RatingRefused(f"a unit of mode {campaign.mode.value} has {campaign.mode.pictures} pictures.")
        with self._writing() as session:
            if session.scalar(select(CampaignRow.id).where(CampaignRow.name == campaign.name)):
                raise RatingRefused(f"there is a campaign called {campaign.name!r} already: choose another name.")
            row = CampaignRow(
                id=secrets.token_hex(8), name=campaign.name, question=campaign.question, mode=campaign.mode,
                opened_at=campaign.opened_at, closed_at=campaign.closed_at, informative=campaign.informative,
                repeats=campaign.repeats, example=campaign.example, units=len(units),
            )  # fmt: skip
            session.add(row)
            session.flush()
            values = [_values(row.id, place, unit) for place, unit in enumerate(_ordered(units, seed))]
            for start in range(0, len(values), _AT_ONCE):
                session.execute(insert(UnitRow), values[start : start + _AT_ONCE])
            return row.noun()

    def campaigns(self) -> list[Campaign]:
        """Every campaign, newest first."""
        with self._reading() as session:
            rows = session.scalars(select(CampaignRow).order_by(CampaignRow.opened_at.desc(), CampaignRow.id))
            return [row.noun() for row in rows]

    def campaign(self, campaign_id: str) -> Campaign:
        """NotRecorded when there is none of this id."""
        with self._reading() as session:
            return find_campaign(session, campaign_id).noun()

    def close_campaign(self, campaign_id: str, now: datetime) -> None:
        """No more votes; what is there stays."""
        with self._writing() as session:
            find_campaign(session, campaign_id).closed_at = now

    def ratings(self, campaign_id: str) -> list[Rating]:
        """The votes that count: of each assignment the last event, where that is a vote."""
        wanted = (
            select(
                UnitRow.id, AssignmentRow.reviewer_id, UnitRow.prompt, UnitRow.seed, UnitRow.samples,
                UnitRow.contenders, AssignmentRow.shown, RatingEventRow.answer, RatingEventRow.seconds,
                RatingEventRow.at, AssignmentRow.propensity, AssignmentRow.repeat, UnitRow.gold,
            )
            .select_from(AssignmentRow)
            .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
            .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
            .where(AssignmentRow.campaign_id == campaign_id, RatingEventRow.answer.is_not(None))
            .order_by(RatingEventRow.id)
        )  # fmt: skip
        with self._reading() as session:
            return [_rating(row) for row in session.execute(wanted)]

    def models(self, campaign_id: str) -> list[str]:
        """The contenders, by name."""
        asked = select(UnitRow.pairing).where(UnitRow.campaign_id == campaign_id).distinct()
        with self._reading() as session:
            return sorted({name for pairing in session.scalars(asked) for name in pairing.split(" ")})

    def tally(self, campaign_id: str) -> list[tuple[str, tuple[str, str], Outcome, int]]:
        """Of a campaign of pairs: prompt, contenders in the order shown, outcome, and how often it was said; without
        repeats and gold."""
        said = (
            select(UnitRow.prompt, UnitRow.contenders, AssignmentRow.shown, RatingEventRow.answer, func.count())
            .select_from(AssignmentRow)
            .join(RatingEventRow, RatingEventRow.id == AssignmentRow.last_event)
            .join(UnitRow, UnitRow.id == AssignmentRow.unit_id)
            .where(
                AssignmentRow.campaign_id == campaign_id, RatingEventRow.answer.is_not(None), ~AssignmentRow.repeat,
                UnitRow.gold == "",
            )
            .group_by(UnitRow.prompt, UnitRow.contenders, AssignmentRow.shown, RatingEventRow.answer)
        )  # fmt: skip
        with self._reading() as session:
            if find_campaign(session, campaign_id).mode is not Mode.PAIR:
                return []
            found = [
                (prompt, in_order_shown(names, shown), from_text(answer or ""), count)
                for prompt, names, shown, answer, count in session.execute(said).tuples()
            ]
        return [(prompt, (one[0], one[1]), said, n) for prompt, one, said, n in found if isinstance(said, Outcome)]

    def latest(self, campaign_id: str) -> int:
        """The number of the last event that counts, 0 before the first: it grows with every deed."""
        asked = select(func.max(AssignmentRow.last_event)).where(AssignmentRow.campaign_id == campaign_id)
        with self._reading() as session:
            return session.scalar(asked) or 0

    def standing(self, campaign_id: str) -> Standing:
        """How far a campaign is."""
        units = select(func.count(), func.coalesce(func.sum(UnitRow.wanted), 0))
        rated = select(func.count()).select_from(_COUNTED).where(_COUNTED.c.campaign_id == campaign_id)
        with self._reading() as session:
            number, wanted = session.execute(units.where(UnitRow.campaign_id == campaign_id)).one()
            return Standing(number, wanted, session.scalar(rated.where(~_COUNTED.c.repeat)) or 0)


def find_campaign(session: Session, campaign_id: str) -> CampaignRow:
    row = session.get(CampaignRow, campaign_id)
    if row is None:
        raise NotRecorded("there is no such campaign.")
    return row


def in_order_shown(things: Sequence[str], shown: str) -> tuple[str, ...]:
    return tuple(things[int(place)] for place in shown)


def _ordered(units: Sequence[Unit], seed: int) -> list[Unit]:
    """Shuffled; then the first of each prompt, the second of each prompt, and so on."""
    draw = random.Random(seed)
    shuffled = draw.sample(units, len(units))
    rounds: dict[str, int] = {}
    keyed: list[tuple[int, float, Unit]] = []
    for unit in shuffled:
        rounds[unit.prompt] = rounds.get(unit.prompt, -1) + 1
        keyed.append((rounds[unit.prompt], draw.random(), unit))
    return [unit for _, _, unit in sorted(keyed, key=lambda key: key[:2])]


def _values(campaign_id: str, place: int, unit: Unit) -> dict[str, object]:
    return {
        "campaign_id": campaign_id, "position": place, "prompt": unit.prompt, "text": unit.text, "seed": unit.seed,
        "samples": list(unit.samples), "contenders": list(unit.contenders), "wanted": unit.wanted, "given": 0,
        "pairing": " ".join(sorted(unit.contenders)), "gold": unit.gold,
    }  # fmt: skip


def _rating(row: Row[Any]) -> Rating:
    unit_id, reviewer, prompt, seed, samples, contenders, shown, answer, seconds, at, propensity, repeat, gold = row
    return Rating(
        unit_id, reviewer, prompt, seed, in_order_shown(samples, shown), in_order_shown(contenders, shown),
        from_text(answer), seconds, at, propensity, repeat, gold,
    )  # fmt: skip
