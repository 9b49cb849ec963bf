"""A new campaign in four steps: models, prompts, budget, invitations. A part of the page Campaigns."""

from collections.abc import Mapping
from datetime import UTC, datetime

import streamlit as st

from dashboard.navigation import short_name
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.views.people import link_of
from naruto_core.domain import Prompt, Variant
from naruto_core.errors import NarutoError
from naruto_core.judging.campaign_plan import Budget, plan_budget, plan_units
from naruto_core.judging.decision import detectable_win_rate
from naruto_core.ratings import Campaign, Mode, Role

_MODES = {
    Mode.PAIR: "Two pictures: which is better?",
    Mode.SCALE: "One picture: grades from 1 to 5",
    Mode.BEST_WORST: "Four pictures: the best and the worst",
}
_QUESTIONS = {
    Mode.PAIR: "Which picture would you rather get for this text?",
    Mode.SCALE: "How good is this picture?",
    Mode.BEST_WORST: "Which picture is the best, and which is the worst?",
}
_SECONDS_PER_VOTE = 5
_LINKS = "invitations"  # in the session's state: the name and the link of each person who was just invited


def show() -> None:
    """The four steps; after the last one, the links to send."""
    _show_links()
    models = _models()
    if not models:
        st.info("There are no pictures yet. Type `make demo` in a terminal, then reload this page.")
        return
    st.subheader("1. Models")
    left, right = st.columns(2)
    mode = left.selectbox("Kind of question", list(Mode), format_func=_MODES.__getitem__, key="mode")
    chosen = right.multiselect("Models", list(models), key="contenders", format_func=short_name,
                               help="A run and a variant of it.")  # fmt: skip
    if len(chosen) < mode.pictures:
        st.text(f"Choose at least {mode.pictures} models." if mode.pictures > 1 else "Choose at least one model.")
        return
    st.subheader("2. Prompts")
    prompts = _prompts(models, chosen)
    st.subheader("3. Budget")
    budget, gold = _budget(mode, len(chosen))
    st.subheader("4. Invitations")
    with st.form("campaign"):
        left, right = st.columns(2)
        name = left.text_input("Name of the campaign", max_chars=80)
        question = right.text_input("Question", _QUESTIONS[mode], max_chars=300)
        invited = st.text_area("Invite new reviewers: a name on each line (empty: those who are registered)", height=80)
        if not st.form_submit_button("Open the campaign"):
            return
    if not name.strip():
        st.error("Give the campaign a name.")
        return
    samples = {model: runs.samples_of(*models[model]) for model in chosen}
    units = plan_units(
        mode, samples, prompts, overlap=budget.overlap, raters=budget.raters, gold=gold, seed=0, limit=budget.limit
    )
    campaign = Campaign("", name.strip(), question.strip() or _QUESTIONS[mode], mode, datetime.now(UTC))
    database().ratings.open_campaign(campaign, units, seed=0)
    st.session_state[_LINKS] = (campaign.name, _invite(invited))
    st.rerun()


def _models() -> Mapping[str, tuple[str, Variant]]:
    """The models that a campaign can compare; fused models beside adapted ones on demand."""
    distinct = runs.distinct_models()
    if len(distinct) < len(runs.models()) and st.checkbox(
        "List fused models too: they draw the adapted model's pictures"
    ):
        return runs.models()
    return distinct


def _prompts(models: Mapping[str, tuple[str, Variant]], chosen: list[str]) -> list[Prompt]:
    suites = [runs.prompts(run_id) for run_id in dict.fromkeys(models[name][0] for name in chosen)]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    all_tags = sorted({tag for prompt in prompts.values() for tag in prompt.tags})
    tags = st.multiselect("Only prompts with these tags (empty: all prompts)", all_tags, key="tags")
    tagged = [prompt for prompt in prompts.values() if not tags or set(tags) & set(prompt.tags)]
    st.text(f"{len(tagged)} of {len(prompts)} prompts.")
    return tagged


def _budget(mode: Mode, models: int) -> tuple[Budget, int]:
    """The units to rate and the gold pairs, from what people can spend; and what that can detect."""
    first, second, third = st.columns(3)
    people = int(first.number_input("Reviewers", 1, 500, 3, key="people"))
    each = int(second.number_input("Votes of each", 1, 10_000, 50, key="votes_each"))
    gold = int(third.number_input("Gold pairs", 0, 1000, 4, help="Pairs with a known answer, to test attention."))
    budget = plan_budget(people * each, people)
    minutes = each * _SECONDS_PER_VOTE / 60
    st.text(
        f"{budget.votes} votes on {budget.limit} units; {budget.overlap} of them are rated by {budget.raters} people, "
        f"to measure agreement. About {minutes:.0f} minutes for each reviewer."
    )
    if mode is Mode.PAIR:
        st.text(detectable_text(budget.votes, models))
    return budget, gold


def detectable_text(votes: int, models: int) -> str:
    """Which difference a campaign of pairs can detect, in a sentence."""
    rate = detectable_win_rate(votes, models)
    if rate >= 1:
        return "So few votes decide only where one model wins far more often, or not at all. Plan more votes."
    return (
        f"This decides between two models, with a chance of 80 %, when one of them wins {rate:.0%} or more of their "
        "comparisons. It needs more votes where the winner changes from prompt to prompt."
    )


def _invite(text: str) -> list[tuple[str, str]]:
    """Register everybody who is named on a line of `text`; the name, and the link or why there is none."""
    links: list[tuple[str, str]] = []
    for name in dict.fromkeys(line.strip()[:80] for line in text.splitlines() if line.strip()):
        try:
            _, token = database().ratings.add_reviewer(name, Role.REVIEWER)
        except NarutoError as error:
            links.append((name, f"not invited: {error}"))
        else:
            links.append((name, link_of(token)))
    return links


def _show_links() -> None:
    if _LINKS not in st.session_state:
        return
    name, links = st.session_state.pop(_LINKS)
    st.success("The campaign is open:")
    st.text(name)
    if links:
        st.text("Send each person their link. The links are shown only once.")
        st.code("\n".join(f"{person}: {link}" for person, link in links), language=None)
