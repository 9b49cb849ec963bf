"""What was recorded of people's judgement, and what follows from it. Kept for as long as no vote is added."""

from dataclasses import dataclass

import streamlit as st

from dashboard import access
from dashboard.queries.database import the_ratings
from naruto_core.domain import Prompt
from naruto_core.errors import NarutoError
from naruto_core.judging.agreement import Agreement, Level, krippendorff_alpha
from naruto_core.judging.decision import PairDecision, WinRate, decide_pairs, win_rates
from naruto_core.judging.ranking import Ranking, Vote, rank
from naruto_core.judging.reviewer_quality import ReviewerQuality, reviewer_qualities
from naruto_core.judging.votes import answers_by_unit, countable, to_votes
from naruto_core.ratings import Campaign, Mode, Rating
from naruto_core.recipe import RESAMPLES
from naruto_core.settings import read_settings

_SEED = 0


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """What a campaign of comparisons says."""

    ranking: Ranking
    decisions: list[PairDecision]
    win_rates: list[WinRate]


def visitor() -> access.Visitor:
    """Who is looking."""
    first = "" if access.listens_locally() else access.first_token(read_settings().root)
    return access.visitor(the_ratings(), *access.presented(), first)


def campaigns(*, opened: bool = False) -> list[Campaign]:
    """All campaigns, or those that take votes; newest first."""
    return [one for one in the_ratings().campaigns() if not opened or one.closed_at is None]


def ratings(campaign_id: str) -> tuple[Rating, ...]:
    """All votes that count, with repeats and gold units."""
    return _ratings(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id))


def votes(campaign_id: str) -> tuple[Vote, ...]:
    """Two models at a time; of a campaign of grades, none."""
    return _votes(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id))


def campaign_result(campaign_id: str) -> CampaignResult:
    """NarutoError when the votes cannot say anything yet."""
    return _campaign_result(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id))


def win_rates_of(campaign_id: str) -> list[WinRate]:
    """How often each model won; quick, because nothing is resampled."""
    return _win_rates(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id))


def conduct(campaign_id: str) -> list[ReviewerQuality]:
    """How each reviewer of a campaign judges."""
    return _conduct(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id))


def agreement(campaign_id: str, question: str, level: Level) -> Agreement | str:
    """Krippendorff's alpha of one question, or why there is none."""
    return _agreement(read_settings().database_url, campaign_id, the_ratings().latest(campaign_id), question, level)


def wins_by_tag(campaign_id: str, prompts: tuple[Prompt, ...]) -> dict[str, list[WinRate]]:
    """Win rates over the prompts of each tag that was voted on."""
    tags = {prompt.slug: prompt.tags for prompt in prompts}
    found: dict[str, list[Vote]] = {}
    for vote in votes(campaign_id):
        for tag in tags.get(vote.prompt, ()):
            found.setdefault(tag, []).append(vote)
    return {tag: win_rates(of_tag) for tag, of_tag in sorted(found.items())}


@st.cache_resource(max_entries=4, show_spinner=False)  # nothing here is ever changed, and copies take long
def _ratings(url: str, campaign_id: str, latest: int) -> tuple[Rating, ...]:
    del url, latest
    return tuple(the_ratings().ratings(campaign_id))


@st.cache_resource(max_entries=20, show_spinner=False)
def _votes(url: str, campaign_id: str, latest: int) -> tuple[Vote, ...]:
    if the_ratings().campaign(campaign_id).mode is Mode.PAIR:  # counted by the database: much quicker, and the same
        return tuple(Vote(prompt, *sides, said, n) for prompt, sides, said, n in the_ratings().tally(campaign_id))
    return tuple(to_votes(countable(_ratings(url, campaign_id, latest))))


@st.cache_data(max_entries=20, show_spinner="Counting the votes …")
def _campaign_result(url: str, campaign_id: str, latest: int) -> CampaignResult:
    found = _votes(url, campaign_id, latest)
    ranking = rank(found, RESAMPLES, _SEED)
    return CampaignResult(ranking, decide_pairs(ranking, found), win_rates(found))


@st.cache_data(max_entries=20, show_spinner=False)
def _win_rates(url: str, campaign_id: str, latest: int) -> list[WinRate]:
    return win_rates(_votes(url, campaign_id, latest))


@st.cache_data(max_entries=20, show_spinner=False)
def _agreement(url: str, campaign_id: str, latest: int, question: str, level: Level) -> Agreement | str:
    table, _ = answers_by_unit(countable(_ratings(url, campaign_id, latest)), question)
    try:
        return krippendorff_alpha(table, level, RESAMPLES, _SEED)
    except NarutoError as error:
        return str(error)


@st.cache_data(max_entries=20, show_spinner=False)
def _conduct(url: str, campaign_id: str, latest: int) -> list[ReviewerQuality]:
    return reviewer_qualities(_ratings(url, campaign_id, latest))
