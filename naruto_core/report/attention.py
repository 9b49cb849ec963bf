"""What needs somebody's attention: failed and abandoned runs, a doubtful champion, drift, campaigns that are done."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from naruto_core.domain import Finding, RunState
from naruto_core.ratings import Campaign, CampaignProgress
from naruto_core.report.leaderboard import Leaderboard, Place
from naruto_core.serving import Drift, DriftVerdict
from naruto_core.store.queries import RunSummary

_RECENT = timedelta(days=7)
_LENGTH = 160  # characters of a failure


class Subject(StrEnum):
    """What an item is about."""

    RUN = "run"
    CAMPAIGN = "campaign"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Attention:
    """An item: a sentence, what it is about, and the id of the run or campaign."""

    sentence: str
    subject: Subject
    id: str


@dataclass(frozen=True, slots=True)
class Champion:
    """The champion, as far as its promotion is doubtful.

    `fault` is why it could not be promoted now, "" for nothing; `findings` are those of its run.
    """

    run_id: str
    fault: str
    findings: Sequence[Finding]


def attention(
    board: Leaderboard,
    champion: Champion | None,
    abandoned: Collection[str],
    drifts: Iterable[Drift],
    campaigns: Iterable[tuple[Campaign, CampaignProgress]],
    now: datetime,
) -> list[Attention]:
    """Every item, the most urgent first. `abandoned` are running runs on which no process works."""
    items = _of_champion(champion) if champion else []
    items += [item for row in board.rows for item in _of_run(row.summary, abandoned, now)]
    items += [
        Attention(f"Drift of {drift.run_id}: {drift.metric} of served pictures differs.", Subject.SERVICE, drift.run_id)
        for drift in drifts
        if drift.verdict is DriftVerdict.DRIFTED
    ]
    items += _better_run(board, champion) if champion else []
    items += [
        Attention(f"Campaign {campaign.name!r} has all its votes: read its results and close it.", Subject.CAMPAIGN,
                  campaign.id)
        for campaign, progress in campaigns
        if campaign.closed_at is None and progress.votes >= progress.votes_needed
    ]  # fmt: skip
    return items


def _of_champion(champion: Champion) -> list[Attention]:
    if champion.fault:
        sentence = f"The champion {champion.run_id} could not be promoted now: {champion.fault}."
        return [Attention(sentence, Subject.RUN, champion.run_id)]
    warnings = [finding.name for finding in champion.findings if finding.warning]
    if not warnings:
        return []
    return [Attention(f"The champion has warnings: {', '.join(warnings)}.", Subject.RUN, champion.run_id)]


def _of_run(summary: RunSummary, abandoned: Collection[str], now: datetime) -> list[Attention]:
    run = summary.run
    if run.id in abandoned:
        sentence = f"{run.id} is recorded as running, but no process works on it. The same command resumes it."
        return [Attention(sentence, Subject.RUN, run.id)]
    if run.state is RunState.FAILED and run.finished_at and now - run.finished_at < _RECENT:
        failure = run.failure if len(run.failure) <= _LENGTH else run.failure[: _LENGTH - 1] + "…"
        return [Attention(f"{run.id} failed: {failure}", Subject.RUN, run.id)]
    return []


def _better_run(board: Leaderboard, champion: Champion) -> list[Attention]:
    """The best run by the first headline metric, where the champion is worse and the best is done."""
    row = next((row for row in board.rows if row.summary.run.id == champion.run_id), None)
    headline = [column for column in board.columns if column.headline and row and column.key in row.scores]
    if row is None or not headline or row.places.get(headline[0].key) is not Place.WORSE:
        return []
    column = headline[0]
    best = next(other for other in board.rows if other.places.get(column.key) is Place.BEST)
    if best.summary.run.state is not RunState.DONE:
        return []
    values = (f"{other.scores[column.key].value:.{column.decimals}f}" for other in (best, row))
    title = column.title.rstrip(" ↓↑")
    sentence = f"{best.summary.run.id} is better than the champion by {title}: {' against '.join(values)}."
    return [Attention(sentence, Subject.RUN, best.summary.run.id)]
