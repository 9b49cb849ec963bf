"""Metric agreement: how well each metric agrees with people's votes, beside how well people agree."""

from collections.abc import Sequence

import streamlit as st

from dashboard.queries import runs, votes
from dashboard.queries.database import database
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
from naruto_core.ratings import AnswerCount, Campaign, Mode
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.settings import read_settings

Line = dict[str, str]
_NOT_ENOUGH = "not enough votes"


def show(campaign: Campaign) -> None:
    """Each metric of single pictures beside people's votes."""
    if campaign.mode is not Mode.PAIR:
        st.info("Metrics are compared with the votes of campaigns of pairs; this one asks another question.")
        return
    if not database().ratings.last_event_id(campaign.id):
        st.info("There are no votes yet. Send the reviewers their links from the part People.")
        return
    human, lines, by_tag = _results(
        read_settings().database_url, campaign, database().ratings.results_version(campaign.id)
    )
    st.text(human)
    if not lines:
        st.info("No metric was measured on these pictures, so there is nothing to compare with the votes.")
        return
    st.table(lines, hide_index=True, alt="Agreement of each metric with people's votes")
    st.caption(
        "Pairwise agreement: share of decided votes in which the metric prefers the same picture (0.5 is chance). "
        "Picture correlation: Spearman's rho with the win rates of pictures. Model correlation: Kendall's tau with the "
        "strengths of models. 95 % intervals over whole prompts."
    )
    if by_tag:
        with st.expander("Pairwise agreement by tag"):
            st.dataframe(by_tag, hide_index=True, alt="Agreement of each metric with people's votes, by tag")


@st.cache_data(max_entries=8, show_spinner="Comparing metrics with votes …")
def _results(url: str, campaign: Campaign, version: str) -> tuple[str, list[Line], list[Line]]:
    """The agreement between people as a sentence, a line for each metric, and lines by tag."""
    del url, version
    answers = votes.answers(campaign.id)
    scores = _scores(answers)
    lines = [_line(campaign, name, better, scores[name], answers) for name, better in _metrics() if name in scores]
    return _ceiling(answers), lines, _by_tag(answers, scores)


def _ceiling(answers: Sequence[AnswerCount]) -> str:
    agreement = human_ceiling(answers)
    if agreement is None or not agreement.enough:
        return "Agreement between people: not enough units were rated by several people."
    return f"A person agrees with the others in {_agreement(agreement)}. No metric can be expected to agree more."


def _metrics() -> list[tuple[str, int]]:
    return [(metric.name, metric.better) for metric in SAMPLE_METRICS if metric.better]


def _scores(answers: Sequence[AnswerCount]) -> dict[str, dict[str, float]]:
    """Scores by metric and sample, of the runs in the campaign; metrics with two measurements are left out."""
    scores: dict[str, dict[str, float]] = {}
    measurements: dict[str, set[str]] = {}
    for run_id in sorted({name.split("/", 1)[0] for one in answers for name in one.contenders}):
        by_sample, run_measurements = runs.sample_scores(run_id)
        for sample, values in by_sample.items():
            for metric, value in values.items():
                scores.setdefault(metric, {})[sample] = value
        for metric, measurement in run_measurements.items():
            measurements.setdefault(metric, set()).add(measurement)
    return {metric: values for metric, values in scores.items() if len(measurements[metric]) == 1}


def _line(
    campaign: Campaign, name: str, better: int, scores: dict[str, float], answers: Sequence[AnswerCount]
) -> dict[str, str]:
    return {
        "Metric": name,
        "Pairwise agreement": _cell(pairwise_agreement(answers, scores, better)),
        "Picture correlation": _cell(pointwise_correlation(answers, scores, better)),
        "Model correlation": _models(campaign, name, better),
    }


def _models(campaign: Campaign, metric: str, better: int) -> str:
    try:
        strengths = {model.model: model.value for model in votes.campaign_result(campaign.id).ranking.models}
    except NarutoError:
        return _NOT_ENOUGH
    means: dict[str, float] = {}
    for model in strengths:
        run_id, _, variant = model.partition("/")
        scores, _ = runs.sample_scores(run_id)
        by_sample = [scores.get(sample.id, {}) for sample in runs.samples_of(run_id, Variant(variant))]
        values = [sample_scores[metric] for sample_scores in by_sample if metric in sample_scores]
        if values:
            means[model] = sum(values) / len(values)
    tau, n = ordering_correlation(strengths, means, better)
    if n < ENOUGH_MODELS:
        return f"not enough models ({n} of {ENOUGH_MODELS})"
    return f"{tau:+.2f} (n = {n} models)"


def _by_tag(answers: Sequence[AnswerCount], scores: dict[str, dict[str, float]]) -> list[Line]:
    suites = [runs.prompts(run) for run in sorted({one.contenders[0].split("/", 1)[0] for one in answers})]
    tags = {prompt.slug: prompt.tags for suite in suites if suite for prompt in suite.prompts}
    return [
        {"Tag": tag}
        | {
            name: _cell(pairwise_agreement(of_tag, scores[name], better))
            for name, better in _metrics()
            if name in scores
        }
        for tag in sorted({tag for prompt_tags in tags.values() for tag in prompt_tags})
        for of_tag in [[one for one in answers if tag in tags.get(one.prompt, ())]]
    ]


def _cell(agreement: MetricAgreement | None) -> str:
    return _agreement(agreement) if agreement and agreement.enough else _NOT_ENOUGH


def _agreement(agreement: MetricAgreement) -> str:
    interval = f"{agreement.low:.2f} to {agreement.high:.2f}"
    return f"{agreement.value:.2f} ({interval}, n = {agreement.n}, {agreement.prompts} prompts)"
