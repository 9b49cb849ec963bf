"""Metric trust: does a metric say what people say? Next to how well one person predicts the others."""

from collections.abc import Sequence

import streamlit as st

from dashboard.queries import runs, votes
from dashboard.queries.database import the_ratings
from dashboard.views.campaigns import chosen_campaign
from naruto_core.domain import Variant
from naruto_core.errors import NarutoError
from naruto_core.judging.metric_validation import (
    ENOUGH_MODELS,
    MetricAgreement,
    human_ceiling,
    ordering_correlation,
    pairwise_agreement,
    pointwise_correlation,
)
from naruto_core.judging.votes import countable
from naruto_core.ratings import Campaign, Mode, Rating
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.settings import read_settings

Line = dict[str, str]
_NOT_ENOUGH = "not enough votes"


def show() -> None:
    st.title("Metric trust")
    campaigns = [one for one in votes.campaigns() if one.mode is Mode.PAIR]
    if not campaigns:
        st.info("Nobody was asked to choose between two pictures yet. Open such a campaign on the page Assignments.")
        return
    campaign = chosen_campaign(campaigns, "metrics")
    latest = the_ratings().latest(campaign.id)
    if not latest:
        st.info("There are no votes yet. Send the reviewers their links from the page Assignments.")
        return
    best, lines, by_tag = _measured(read_settings().database_url, campaign, latest)
    st.text(best)
    if not lines:
        st.info("No metric was measured on these pictures, so there is nothing to hold against the votes.")
        return
    st.table(lines, hide_index=True, alt="Each metric against people's votes")
    st.caption(
        "Chooses as people: share of decided votes in which the metric prefers the same picture (0.5 is a coin). "
        "Orders pictures: Spearman's correlation with the share of votes won. Orders models: Kendall's tau. "
        "95 % intervals over whole prompts."
    )
    if by_tag:
        with st.expander("By tag: chooses as people"):
            st.dataframe(by_tag, hide_index=True, alt="Each metric against people's votes, by tag")


@st.cache_data(max_entries=8, show_spinner="Holding the metrics against the votes …")
def _measured(url: str, campaign: Campaign, latest: int) -> tuple[str, list[Line], list[Line]]:
    """What one person reaches, each metric, and each metric by tag."""
    del url, latest
    ratings = countable(votes.ratings(campaign.id))
    scores = _scores(ratings)
    lines = [_line(campaign, name, better, scores[name], ratings) for name, better in _metrics() if name in scores]
    return _ceiling(ratings), lines, _by_tag(ratings, scores)


def _ceiling(ratings: Sequence[Rating]) -> str:
    found = human_ceiling(ratings)
    if found is None or not found.enough:
        return "How well one person predicts the others: not enough units were judged by several people."
    return f"One person chooses as the others in {_said(found)}. No metric can be expected to do better."


def _metrics() -> list[tuple[str, int]]:
    return [(metric.name, metric.better) for metric in SAMPLE_METRICS if metric.better]


def _scores(ratings: Sequence[Rating]) -> dict[str, dict[str, float]]:
    """By metric and sample, of the runs in the campaign; a metric that was measured in two ways is left out."""
    found: dict[str, dict[str, float]] = {}
    rulers: dict[str, set[str]] = {}
    for run_id in sorted({name.split("/", 1)[0] for rating in ratings for name in rating.contenders}):
        by_sample, measured = runs.sample_scores(run_id)
        for sample, of in by_sample.items():
            for metric, value in of.items():
                found.setdefault(metric, {})[sample] = value
        for metric, one in measured.items():
            rulers.setdefault(metric, set()).add(one)
    return {metric: values for metric, values in found.items() if len(rulers[metric]) == 1}


def _line(
    campaign: Campaign, name: str, better: int, scores: dict[str, float], ratings: Sequence[Rating]
) -> dict[str, str]:
    return {
        "Metric": name,
        "Chooses as people": _cell(pairwise_agreement(ratings, scores, better)),
        "Orders pictures as people": _cell(pointwise_correlation(ratings, scores, better)),
        "Orders models as people": _models(campaign, name, better),
    }


def _models(campaign: Campaign, metric: str, better: int) -> str:
    try:
        strengths = {one.model: one.value for one in votes.campaign_result(campaign.id).ranking.models}
    except NarutoError:
        return _NOT_ENOUGH
    means: dict[str, float] = {}
    for model in strengths:
        run_id, _, variant = model.partition("/")
        scores, _ = runs.sample_scores(run_id)
        found = [scores.get(sample.id, {}) for sample in runs.samples_of(run_id, Variant(variant))]
        values = [of[metric] for of in found if metric in of]
        if values:
            means[model] = sum(values) / len(values)
    tau, n = ordering_correlation(strengths, means, better)
    if n < ENOUGH_MODELS:
        return f"not enough models ({n} of {ENOUGH_MODELS})"
    return f"{tau:+.2f} (n = {n} models)"


def _by_tag(ratings: Sequence[Rating], scores: dict[str, dict[str, float]]) -> list[Line]:
    suites = [runs.prompts(run) for run in sorted({r.contenders[0].split("/", 1)[0] for r in ratings})]
    tags = {prompt.slug: prompt.tags for suite in suites if suite for prompt in suite.prompts}
    return [
        {"Tag": tag}
        | {
            name: _cell(pairwise_agreement([r for r in ratings if tag in tags.get(r.prompt, ())], scores[name], better))
            for name, better in _metrics()
            if name in scores
        }
        for tag in sorted({tag for of in tags.values() for tag in of})
    ]


def _cell(found: MetricAgreement | None) -> str:
    return _said(found) if found and found.enough else _NOT_ENOUGH


def _said(found: MetricAgreement) -> str:
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}, n = {found.n}, {found.prompts} prompts)"
