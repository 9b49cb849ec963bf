"""The page Verdicts: leaderboard of models from people's votes, agreement of reviewers, quality of each reviewer."""

import numpy as np
import streamlit as st
from scipy.special import expit

from dashboard import charts
from dashboard.formatting import describe_decision
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from dashboard.views.campaigns import select_campaign
from naruto_core.errors import NarutoError
from naruto_core.judging.decision import WinRate
from naruto_core.judging.ranking import Gap
from naruto_core.judging.reviewer_quality import ReviewerQuality, Share, is_biased
from naruto_core.judging.vote_table import votes_csv
from naruto_core.judging.votes import countable, defect_shares, mean_grades
from naruto_core.ratings import Campaign, Mode

_QUESTIONS = {Mode.PAIR: ("better",), Mode.SCALE: ("adherence", "style"), Mode.BEST_WORST: ("best", "worst")}


def show() -> None:
    st.title("Verdicts")
    campaigns = votes.campaigns()
    if not campaigns:
        st.info("There is no campaign yet. Open one on the page Campaigns.")
        return
    campaign = select_campaign(campaigns, "models")
    if not votes.ratings(campaign.id):
        st.info("There are no votes yet. Send the reviewers their links from the page Campaigns.")
        return
    if campaign.mode is Mode.SCALE:
        _grades(campaign)
    else:
        _ranking(campaign)
    _agreement(campaign)
    _people(campaign)
    st.download_button("All votes (CSV)", lambda: votes_csv(votes.ratings(campaign.id)), "votes.csv", "text/csv")


def _ranking(campaign: Campaign) -> None:
    try:
        result = votes.campaign_result(campaign.id)
    except NarutoError as error:
        st.info("The votes cannot be evaluated yet:")
        st.text(str(error))
        return
    for decision in result.decisions:
        st.text(describe_decision(decision))
    models = result.ranking.models
    rows: list[charts.Row] = [
        {"name": model.model, "value": model.value, "low": _clip(model.low), "high": _clip(model.high)}
        for model in models
    ]
    st.header("Leaderboard")
    st.altair_chart(
        charts.interval_plot(rows, "Strength in log-odds (mean 0), with anytime-valid 95 % intervals", zero=0)
    )
    st.table([_rate(rate) for rate in result.win_rates], hide_index=True, alt="Win rates")
    left = result.ranking.left
    significance = (
        "not significant" if left.low <= 0 <= left.high else "significant; the strengths are corrected for it"
    )
    st.text(
        f"Bias to the left side: {left.value:+.2f} log-odds ({left.low:+.2f} to {left.high:+.2f}, n = {left.votes} "
        f"votes), {significance}. Bradley-Terry model with a term for the side; intervals over whole prompts."
    )
    st.header("Win rates between two models")
    table = [
        {"": model.model} | {other.model: "" if i == j else _win_rate(result.ranking.gaps[i, j])
                             for j, other in enumerate(models)}
        for i, model in enumerate(models)
    ]  # fmt: skip
    st.text("How often the row's model wins against the column's: 95 % intervals, valid at any number of votes.")
    st.table(table, hide_index=True, alt="Intervals of the win rate of the row's model against the column's")
    _by_tag(campaign, [model.model for model in models])


def _win_rate(gap: Gap) -> str:
    return f"{expit(gap.low):.0%} to {expit(gap.high):.0%}"


def _clip(value: float) -> float:
    """For the plot: an infinite interval is drawn up to ten log-odds."""
    return float(np.clip(value, -10, 10))


def _by_tag(campaign: Campaign, models: list[str]) -> None:
    suites = [runs.prompts(model.split("/", 1)[0]) for model in models]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    by_tag = votes.wins_by_tag(campaign.id, tuple(prompts.values()))
    if by_tag:
        st.header("Win rates by tag")
        rows = [{"Tag": tag} | _rate(rate) for tag, rates in by_tag.items() for rate in rates]
        st.dataframe(rows, hide_index=True, alt="Win rates by tag")


def _rate(rate: WinRate) -> dict[str, str]:
    return {
        "Model": rate.model,
        "Win rate": f"{rate.value:.0%}",
        "95 % interval": f"{rate.low:.0%} to {rate.high:.0%}",
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
        st.altair_chart(charts.interval_plot(rows, "Mean grade, 1 to 5, with 95 % intervals over prompts"))
        st.text("; ".join(f"{mean.model}: n = {mean.ratings} ratings of {mean.prompts} prompts" for mean in means))
    st.header("Defects")
    table = [
        {"Model": model} | {defect.value: _share(share) for defect, share in shares.items()}
        for model, shares in defect_shares(ratings).items()
    ]
    st.table(table, hide_index=True, alt="How often each defect was marked")


def _agreement(campaign: Campaign) -> None:
    st.header("Agreement between reviewers")
    for question in _QUESTIONS[campaign.mode]:
        agreement = votes.agreement(campaign.id, question, "ordinal" if campaign.mode is Mode.SCALE else "nominal")
        if isinstance(agreement, str):
            st.text(f"{question}: {agreement}")
            continue
        st.text(
            f"{question}: Krippendorff's alpha {agreement.alpha:.2f} ({agreement.low:.2f} to {agreement.high:.2f}, "
            f"{agreement.units} units rated by at least two people). 1 is full agreement, 0 is chance."
        )


def _people(campaign: Campaign) -> None:
    st.header("Quality of reviewers")
    names = {reviewer.id: reviewer.name for reviewer in database().ratings.reviewers()}
    qualities = votes.reviewer_quality(campaign.id)
    rows = [_line(names.get(quality.reviewer_id, "?"), quality) for quality in qualities]
    st.dataframe(rows, hide_index=True, alt="Speed, side bias, consistency and gold pairs of each reviewer")


def _line(name: str, quality: ReviewerQuality) -> dict[str, str | float]:
    left = quality.left
    return {
        "Reviewer": name,
        "Votes": quality.votes,
        "Seconds per vote (median)": round(quality.seconds, 1),
        "Side bias": ("left" if left.hits * 2 > left.n else "right") if is_biased(left) else "none",
        "Chose left": _share(left),
        "Consistent on repeats": _share(quality.consistent),
        "Correct on gold pairs": _share(quality.gold),
    }


def _share(share: Share) -> str:
    if not share.n:
        return "no data"
    return f"{share.hits / share.n:.0%} ({share.low:.0%} to {share.high:.0%}, n = {share.n})"
