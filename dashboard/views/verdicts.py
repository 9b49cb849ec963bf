"""Results of a campaign: win rates and ranking of models from people's votes, and agreement of reviewers."""

import math

import numpy as np
import streamlit as st
from scipy.special import expit

from dashboard import charts
from dashboard.formatting import describe_decision
from dashboard.navigation import short_name
from dashboard.queries import runs, votes
from naruto_core.errors import NarutoError
from naruto_core.judging.decision import WinRate
from naruto_core.judging.ranking import Gap
from naruto_core.judging.reviewer_quality import Share
from naruto_core.judging.vote_table import votes_csv, write_votes_parquet
from naruto_core.judging.votes import countable, defect_shares, mean_grades
from naruto_core.ratings import Campaign, Mode

_QUESTIONS = {Mode.PAIR: ("better",), Mode.SCALE: ("adherence", "style"), Mode.BEST_WORST: ("best", "worst")}


def show(campaign: Campaign) -> None:
    """The results of a campaign; a sentence before its first vote."""
    if not votes.answers(campaign.id):
        st.info("There are no votes yet. Send the reviewers their links from the part People.")
        return
    if campaign.mode is Mode.SCALE:
        _grades(campaign)
    else:
        _ranking(campaign)
    _agreement(campaign)
    with st.container(horizontal=True):
        st.download_button("All votes (CSV)", lambda: votes_csv(votes.ratings(campaign.id)), "votes.csv", "text/csv")
        st.download_button("All votes (Parquet)", lambda: write_votes_parquet(votes.ratings(campaign.id)),
                           "votes.parquet", "application/vnd.apache.parquet")  # fmt: skip


def _ranking(campaign: Campaign) -> None:
    try:
        result = votes.campaign_result(campaign.id)
    except NarutoError as error:
        st.info("The votes cannot be evaluated yet:")
        st.text(str(error))
        return
    models = result.ranking.models
    rows: list[charts.Row] = [
        {"name": short_name(model.model), "value": model.value, "low": _clip(model.low), "high": _clip(model.high)}
        for model in models
    ]
    shares: list[charts.Row] = [
        {"name": short_name(rate.model), "value": rate.value, "low": rate.low, "high": rate.high}
        for rate in result.win_rates
    ]
    st.subheader("Win rates")
    left_column, right_column = st.columns(2)
    charts.show(charts.interval_plot(shares, "Share of comparisons won, with 95 % intervals", zero=0.5), left_column)
    right_column.table([_rate(rate) for rate in result.win_rates], hide_index=True, alt="Win rates")
    for decision in result.decisions:
        st.text(describe_decision(decision, short=True))
    st.subheader("Strengths")
    charts.show(
        charts.interval_plot(rows, "Bradley-Terry strength in log-odds (mean 0), anytime-valid 95 % intervals", zero=0)
    )
    left = result.ranking.left
    significance = (
        "not significant" if left.low <= 0 <= left.high else "significant; the strengths are corrected for it"
    )
    known = math.isfinite(left.low) and math.isfinite(left.high)
    interval = f"{left.low:+.2f} to {left.high:+.2f}" if known else "no interval: too few votes or prompts"
    st.text(
        f"Bias to the left side: {left.value:+.2f} log-odds ({interval}, n = {left.votes}), {significance}. "
        "Bradley-Terry model with a term for the side; intervals over whole prompts."
    )
    st.subheader("Win rates between two models")
    table = [
        {"": short_name(model.model)} | {short_name(other.model): "" if i == j else _win_rate(result.ranking.gaps[i, j])
                             for j, other in enumerate(models)}
        for i, model in enumerate(models)
    ]  # fmt: skip
    st.text("How often the row's model wins against the column's: 95 % intervals, valid at any number of votes.")
    st.table(table, hide_index=True, alt="Intervals of the win rate of the row's model against the column's")
    _by_tag(campaign, [model.model for model in models])


def _win_rate(gap: Gap) -> str:
    return f"{expit(gap.low):.1%} to {expit(gap.high):.1%}"


def _clip(value: float) -> float:
    """For the plot: an infinite interval is drawn up to ten log-odds."""
    return float(np.clip(value, -10, 10))


def _by_tag(campaign: Campaign, models: list[str]) -> None:
    suites = [runs.prompts(model.split("/", 1)[0]) for model in models]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    by_tag = votes.wins_by_tag(campaign.id, tuple(prompts.values()))
    if by_tag:
        st.subheader("Win rates by tag")
        rows = [{"Tag": tag} | _rate(rate) for tag, rates in by_tag.items() for rate in rates]
        st.dataframe(rows, hide_index=True, alt="Win rates by tag")


def _rate(rate: WinRate) -> dict[str, str]:
    return {
        "Model": short_name(rate.model),
        "Win rate": f"{rate.value:.0%}",
        "95 % interval": f"{rate.low:.1%} to {rate.high:.1%}",
        "Votes": str(rate.votes),
        "Prompts": str(rate.prompts),
    }


def _grades(campaign: Campaign) -> None:
    ratings = countable(votes.ratings(campaign.id))
    graded = mean_grades(ratings)
    for question, title in (("adherence", "Agreement with the prompt"), ("style", "Agreement with the style")):
        st.header(title)
        means = [mean for mean in graded if mean.question == question]
        rows: list[charts.Row] = [
            {"name": mean.model, "value": mean.mean, "low": mean.low, "high": mean.high} for mean in means
        ]
        charts.show(charts.interval_plot(rows, "Mean grade, 1 to 5, with 95 % intervals over prompts"))
        st.text("; ".join(f"{mean.model}: n = {mean.ratings} ratings of {mean.prompts} prompts" for mean in means))
    st.subheader("Defects")
    table = [
        {"Model": model} | {defect.value: share_text(share) for defect, share in shares.items()}
        for model, shares in defect_shares(ratings).items()
    ]
    st.table(table, hide_index=True, alt="How often each defect was marked")


def _agreement(campaign: Campaign) -> None:
    st.subheader("Agreement between reviewers")
    for question in _QUESTIONS[campaign.mode]:
        agreement = votes.agreement(campaign.id, question, "ordinal" if campaign.mode is Mode.SCALE else "nominal")
        if isinstance(agreement, str):
            st.text(f"{question}: {agreement}")
            continue
        st.text(
            f"{question}: Krippendorff's alpha {agreement.alpha:.2f} ({agreement.low:.2f} to {agreement.high:.2f}, "
            f"{agreement.units} units rated by at least two people). 1 is full agreement, 0 is chance."
        )


def share_text(share: Share) -> str:
    """A share with its interval and number."""
    if not share.n:
        return "no data"
    return f"{share.hits / share.n:.0%} ({share.low:.0%} to {share.high:.0%}, n = {share.n})"
