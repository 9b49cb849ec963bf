"""Read campaigns and votes, and compute their results. Results are cached until a vote is added."""

from dataclasses import dataclass

import streamlit as st

from dashboard import access
from dashboard.queries.database import database
from naruto_core.domain import Prompt, Variant
from naruto_core.errors import NarutoError
from naruto_core.judging.agreement import Agreement, Level, krippendorff_alpha
from naruto_core.judging.decision import PairDecision, WinRate, decide_pairs, win_rates
from naruto_core.judging.ranking import Ranking, Vote, rank
from naruto_core.judging.reviewer_quality import ReviewerQuality, reviewer_qualities
from naruto_core.judging.votes import answers_by_unit, to_votes
from naruto_core.ratings import AnswerCount, Campaign, Mode, Rating
from naruto_core.recipe_sections import RESAMPLES
from naruto_core.report.win_rates import win_rate_over_base as win_rate_over_base_of
from naruto_core.settings import read_settings

_SEED = 0
_NEWEST = 5  # campaigns


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """The result of a campaign of comparisons."""

    ranking: Ranking
    decisions: list[PairDecision]
    win_rates: list[WinRate]


def visitor() -> access.Visitor:
    """Who opens the page."""
    first_token = "" if access.listens_locally() else access.first_admin_token(read_settings().root)
    return access.visitor(database().ratings, *access.credentials(), first_token)


def campaigns(*, open_only: bool = False) -> list[Campaign]:
    """All campaigns, or those that take votes; newest first."""
    campaigns = database().ratings.campaigns()
    return [c for c in campaigns if not open_only or (c.closed_at is None and not c.paused)]


def ratings(campaign_id: str) -> tuple[Rating, ...]:
    """All votes that count, including repeats and gold units."""
    return _ratings(*_cache_key(campaign_id))


def answers(campaign_id: str) -> tuple[AnswerCount, ...]:
    """Equal answers about each unit, counted, without repeats and gold units: much fewer than `ratings`."""
    return _answers(*_cache_key(campaign_id))


def votes(campaign_id: str) -> tuple[Vote, ...]:
    """The votes as comparisons of two models; empty for a campaign of grades."""
    return _votes(*_cache_key(campaign_id))


def campaign_result(campaign_id: str) -> CampaignResult:
    """Ranking, decisions and win rates. Raises NarutoError when there are not enough votes."""
    return _campaign_result(*_cache_key(campaign_id))


def win_rates_of(campaign_id: str) -> list[WinRate]:
    """The win rate of each model; fast, because nothing is resampled."""
    return _win_rates(*_cache_key(campaign_id))


def newest_win_rates() -> tuple[str, dict[str, WinRate]]:
    """The newest campaign of pairs with votes that are not made up: its name, and the win rates of trained models by
    run id; "" and {} where there is none."""
    for campaign in [c for c in campaigns() if c.mode is Mode.PAIR and not c.example][:_NEWEST]:
        if rates := {
            run_id: rate
            for rate in win_rates_of(campaign.id)
            for run_id, _, variant in [rate.model.partition("/")]
            if variant in (Variant.ADAPTED, Variant.FUSED)
        }:
            return campaign.name, rates
    return "", {}


def win_rate_over_base(run_id: str) -> WinRate | None:
    """How often people preferred the run's trained model to its base; None without votes on these two."""
    version = " ".join(database().ratings.results_version(campaign.id) for campaign in campaigns())
    return _win_rate_over_base(read_settings().database_url, run_id, version)


def reviewer_quality(campaign_id: str) -> list[ReviewerQuality]:
    """The quality of each reviewer of a campaign, excluded ones too."""
    return _reviewer_quality(*_cache_key(campaign_id))


def agreement(campaign_id: str, question: str, level: Level) -> Agreement | str:
    """Krippendorff's alpha of one question, or a sentence why it cannot be computed."""
    return _agreement(*_cache_key(campaign_id), question, level)


def wins_by_tag(campaign_id: str, prompts: tuple[Prompt, ...]) -> dict[str, list[WinRate]]:
    """Win rates over the prompts of each tag that has votes."""
    tags = {prompt.slug: prompt.tags for prompt in prompts}
    by_tag: dict[str, list[Vote]] = {}
    for vote in votes(campaign_id):
        for tag in tags.get(vote.prompt, ()):
            by_tag.setdefault(tag, []).append(vote)
    return {tag: win_rates(of_tag) for tag, of_tag in sorted(by_tag.items())}


def _cache_key(campaign_id: str) -> tuple[str, str, str]:
    """The database, the campaign, and what changes with its votes: results change only with these."""
    return read_settings().database_url, campaign_id, database().ratings.results_version(campaign_id)


@st.cache_resource(max_entries=4, show_spinner=False)  # a resource is not copied: the ratings are immutable and many
def _ratings(url: str, campaign_id: str, version: str) -> tuple[Rating, ...]:
    del url, version
    return tuple(database().ratings.ratings(campaign_id))


@st.cache_resource(max_entries=4, show_spinner=False)
def _answers(url: str, campaign_id: str, version: str) -> tuple[AnswerCount, ...]:
    del url, version
    return tuple(database().ratings.answer_counts(campaign_id))


@st.cache_resource(max_entries=20, show_spinner=False)
def _votes(url: str, campaign_id: str, version: str) -> tuple[Vote, ...]:
    return tuple(to_votes(_answers(url, campaign_id, version)))


@st.cache_data(max_entries=20, show_spinner="Counting the votes …")
def _campaign_result(url: str, campaign_id: str, version: str) -> CampaignResult:
    votes = _votes(url, campaign_id, version)
    ranking = rank(votes)
    return CampaignResult(ranking, decide_pairs(ranking, votes), win_rates(votes))


@st.cache_data(max_entries=20, show_spinner=False)
def _win_rates(url: str, campaign_id: str, version: str) -> list[WinRate]:
    return win_rates(_votes(url, campaign_id, version))


@st.cache_data(max_entries=20, show_spinner=False)
def _win_rate_over_base(url: str, run_id: str, version: str) -> WinRate | None:
    del url, version
    return win_rate_over_base_of(database().ratings, run_id)


@st.cache_data(max_entries=20, show_spinner=False)
def _agreement(url: str, campaign_id: str, version: str, question: str, level: Level) -> Agreement | str:
    counts = answers_by_unit(_answers(url, campaign_id, version), question)
    try:
        return krippendorff_alpha(counts, level, RESAMPLES, _SEED)
    except NarutoError as error:
        return str(error)


@st.cache_data(max_entries=20, show_spinner=False)
def _reviewer_quality(url: str, campaign_id: str, version: str) -> list[ReviewerQuality]:
    del url, version
    return reviewer_qualities(database().ratings.ratings(campaign_id, with_excluded=True))
