"""What people said: which model is better, how sure that is, how far people agree; and how each judges (lead only)."""

import numpy as np
import streamlit as st

from dashboard import charts
from dashboard.formatting import in_words
from dashboard.queries import runs, votes
from dashboard.queries.database import the_ratings
from dashboard.views.campaigns import chosen_campaign
from naruto_core.errors import NarutoError
from naruto_core.judging.decision import WinRate
from naruto_core.judging.reviewer_quality import ReviewerQuality, Share, is_biased
from naruto_core.judging.votes import countable, defect_shares, mean_grades
from naruto_core.ratings import Campaign, Mode

_QUESTIONS = {Mode.PAIR: ("better",), Mode.SCALE: ("adherence", "style"), Mode.BEST_WORST: ("best", "worst")}


def show() -> None:
    st.title("Verdicts")
    campaigns = votes.campaigns()
    if not campaigns:
        st.info("Nobody was asked yet. Open a campaign on the page Assignments.")
        return
    campaign = chosen_campaign(campaigns, "models")
    if not votes.ratings(campaign.id):
        st.info("There are no votes yet. Send the reviewers their links from the page Assignments.")
        return
    if campaign.mode is Mode.SCALE:
        _grades(campaign)
    else:
        _ranking(campaign)
    _agreement(campaign)
    _people(campaign)


def _ranking(campaign: Campaign) -> None:
    try:
        found = votes.campaign_result(campaign.id)
    except NarutoError as error:
        st.info("The votes cannot be counted up yet:")
        st.text(str(error))
        return
    for one in found.decisions:
        st.text(in_words(one))
    models = found.ranking.models
    rows: list[charts.Row] = [
        {"name": one.model, "value": one.value, "low": _finite(one.low), "high": _finite(one.high)} for one in models
    ]
    st.header("Strength")
    st.altair_chart(charts.with_intervals(rows, "Strength in log-odds (their mean is 0), with 95 % intervals", zero=0))
    st.table([_rate(rate) for rate in found.win_rates], hide_index=True, alt="Win rates")
    left = found.ranking.left
    pull = "is not seen" if left.low <= 0 <= left.high else "is real, and was taken out of the strengths"
    st.text(
        f"The pull of the left side {pull}: {left.value:+.2f} log-odds ({left.low:+.2f} to {left.high:+.2f}, "
        f"n = {left.votes} votes; Bradley-Terry with a term for the side, intervals over whole prompts)."
    )
    st.header("Which is better")
    table = [
        {"": one.model} | {other.model: "" if i == j else f"{found.ranking.better[i, j]:.0%}"
                           for j, other in enumerate(models)}
        for i, one in enumerate(models)
    ]  # fmt: skip
    st.text("How probable it is that the model of the row is better than that of the column.")
    st.table(table, hide_index=True, alt="Probability that the row's model is better than the column's")
    _by_tag(campaign, [one.model for one in models])


def _finite(value: float) -> float:
    """For the plot: an interval without an end is drawn to ten log-odds."""
    return float(np.clip(value, -10, 10))


def _by_tag(campaign: Campaign, models: list[str]) -> None:
    suites = [runs.prompts(model.split("/", 1)[0]) for model in models]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    found = votes.wins_by_tag(campaign.id, tuple(prompts.values()))
    if found:
        st.header("Win rates by tag")
        rows = [{"Tag": tag} | _rate(rate) for tag, rates in found.items() for rate in rates]
        st.dataframe(rows, hide_index=True, alt="Win rates by tag")


def _rate(rate: WinRate) -> dict[str, str]:
    return {
        "Model": rate.model,
        "Won": f"{rate.value:.0%}",
        "95 % interval": f"{rate.low:.0%} to {rate.high:.0%}",
        "Votes": str(rate.votes),
        "Prompts": str(rate.prompts),
    }


def _grades(campaign: Campaign) -> None:
    ratings = countable(votes.ratings(campaign.id))
    graded = mean_grades(ratings)
    for question, title in (("adherence", "Shows what was asked for"), ("style", "Is in the style")):
        st.header(title)
        of_it = [one for one in graded if one.question == question]
        rows: list[charts.Row] = [
            {"name": one.model, "value": one.mean, "low": one.low, "high": one.high} for one in of_it
        ]
        st.altair_chart(charts.with_intervals(rows, "Mean grade, 1 to 5, with 95 % intervals over prompts"))
        st.text("; ".join(f"{one.model}: n = {one.ratings} ratings of {one.prompts} prompts" for one in of_it))
    st.header("What was wrong")
    table = [
        {"Model": model} | {defect.value: _share(found) for defect, found in flags.items()}
        for model, flags in defect_shares(ratings).items()
    ]
    st.table(table, hide_index=True, alt="How often each defect was flagged")


def _agreement(campaign: Campaign) -> None:
    st.header("Do people agree?")
    for question in _QUESTIONS[campaign.mode]:
        found = votes.agreement(campaign.id, question, "ordinal" if campaign.mode is Mode.SCALE else "nominal")
        if isinstance(found, str):
            st.text(f"{question}: {found}")
            continue
        st.text(
            f"{question}: Krippendorff's alpha {found.alpha:.2f} ({found.low:.2f} to {found.high:.2f}, "
            f"{found.units} units judged by two people or more). 1 is full agreement, 0 is chance."
        )


def _people(campaign: Campaign) -> None:
    st.header("How each reviewer judges")
    names = {one.id: one.name for one in the_ratings().reviewers()}
    rows = [_line(names.get(one.reviewer_id, "?"), one) for one in votes.conduct(campaign.id)]
    st.dataframe(rows, hide_index=True, alt="Pace, sides, agreement with themselves, gold pairs; one row a reviewer")


def _line(name: str, one: ReviewerQuality) -> dict[str, str | float]:
    side = ("left" if one.left.hits * 2 > one.left.n else "right") if is_biased(one.left) else "none seen"
    return {
        "Reviewer": name,
        "Votes": one.votes,
        "Seconds a vote (median)": round(one.seconds, 1),
        "Leans to": side,
        "Took the left": _share(one.left),
        "Same answer again": _share(one.consistent),
        "Gold pairs right": _share(one.gold),
    }


def _share(found: Share) -> str:
    if not found.n:
        return "not asked"
    return f"{found.hits / found.n:.0%} ({found.low:.0%} to {found.high:.0%}, n = {found.n})"
