"""Campaigns and people: progress, whether more votes would help, who may rate."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

import streamlit as st

from dashboard.formatting import in_words
from dashboard.queries import runs, votes
from dashboard.queries.database import the_ratings, the_store
from naruto_core.errors import NarutoError
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Campaign, Mode, Role


def chosen_campaign(campaigns: Sequence[Campaign], about: str) -> Campaign:
    """The one that is chosen; made-up votes are marked, for they say nothing of `about`."""
    known = {one.id: one for one in campaigns}
    campaign = known[st.selectbox("Campaign", list(known), format_func=lambda one: known[one].name, key="campaign")]
    if campaign.example:
        st.warning(f"An example: a program made these votes up. They say nothing of the {about}.")
    return campaign


_ON_A_PAGE = 3  # each is ranked, which takes a moment with many votes
_MODES = {
    Mode.PAIR: "Two pictures: which is better?",
    Mode.SCALE: "One picture: grades from 1 to 5",
    Mode.BEST_WORST: "Four pictures: the best and the worst",
}
_QUESTIONS = {
    Mode.PAIR: "Which picture would you rather get for this text?",
    Mode.SCALE: "How good is this picture?",
    Mode.BEST_WORST: "Which picture is the best, and which the worst?",
}


def show() -> None:
    st.title("Assignments")
    everybody = the_ratings().reviewers()
    if not everybody:
        st.info("Nobody is registered. Add yourself as the lead first: from then on people get in by their links only.")
    _people()
    st.header("Campaigns")
    campaigns = votes.campaigns()
    if not campaigns:
        st.info("There is no campaign yet. Choose below which models are to be compared.")
    pages = ceil(len(campaigns) / _ON_A_PAGE)
    page = st.pagination(pages, key="campaigns") if pages > 1 else 1
    for campaign in campaigns[(page - 1) * _ON_A_PAGE : page * _ON_A_PAGE]:
        _campaign(campaign)
    _new_campaign()


def _campaign(campaign: Campaign) -> None:
    standing = the_ratings().standing(campaign.id)
    with st.container(border=True):
        st.text(campaign.name + (" (example, votes made up)" if campaign.example else ""))
        share = min(1.0, standing.rated / standing.wanted) if standing.wanted else 1.0
        st.progress(share, text=f"{standing.rated} of {standing.wanted} votes on {standing.units} units")
        for line in _decision_lines(campaign):
            st.text(line)
        if campaign.closed_at is not None:
            st.text(f"Closed on {campaign.closed_at:%Y-%m-%d}.")
        elif st.button("Close: no more votes", key=f"close-{campaign.id}"):
            the_ratings().close_campaign(campaign.id, datetime.now(UTC))
            st.rerun()


def _decision_lines(campaign: Campaign) -> list[str]:
    if campaign.mode is Mode.SCALE:
        return ["Grades rank nothing by themselves; the page Verdicts shows them with their intervals."]
    try:
        return [in_words(one) for one in votes.campaign_result(campaign.id).decisions]
    except NarutoError as error:
        return [str(error)]


def _people() -> None:
    st.header("People")
    everybody = the_ratings().reviewers()
    if everybody:
        st.dataframe(
            [{"Name": one.name, "Role": one.role.value, "Signs on as": one.email} for one in everybody],
            hide_index=True, alt="Everybody who may get in",
        )  # fmt: skip
    with st.form("person", clear_on_submit=True):
        left, middle, right = st.columns(3)
        name = left.text_input("Name", max_chars=80)
        roles = [Role.REVIEWER, Role.LEAD] if everybody else [Role.LEAD]
        role = middle.selectbox("Role", roles, format_func=lambda one: one.value)
        email = right.text_input("Address for single sign-on (optional)", max_chars=200)
        if st.form_submit_button("Add"):
            _, token = the_ratings().add_reviewer(name, role, email.strip())
            _link(token)
    if everybody:
        with st.popover("A new link for somebody who lost theirs"):
            names = {one.id: one for one in everybody}
            lost = st.selectbox("Who", list(names), format_func=lambda one: names[one].name)
            if st.button("Make a new link; the old one stops working"):
                _link(the_ratings().renew_link(lost))


def _link(token: str) -> None:
    address = (st.context.url or "").split("?")[0].rsplit("/", 1)[0]
    st.success("Send this personal link. It is shown only now: whoever has it judges under this name.")
    st.code(f"{address}/enter/{token}", language=None)


def _new_campaign() -> None:
    st.header("New campaign")
    drawn = {contender(run_id, variant.value): (run_id, variant) for run_id, variant, _ in the_store().drawn()}
    if not drawn:
        st.info("No pictures are recorded yet. Type `make demo` in a terminal and come back.")
        return
    mode = st.selectbox("What is asked", list(Mode), format_func=_MODES.__getitem__, key="mode")
    chosen = st.multiselect("Models", list(drawn), key="contenders", help="A run and its variant.")
    if len(chosen) < mode.pictures:
        st.text(f"Choose {mode.pictures} models or more.")
        return
    suites = [runs.prompts(drawn[name][0]) for name in chosen]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    tags = st.multiselect(
        "Only prompts with these tags (all when empty)", sorted({t for p in prompts.values() for t in p.tags})
    )
    kept = [prompt for prompt in prompts.values() if not tags or set(tags) & set(prompt.tags)]
    with st.form("campaign"):
        name = st.text_input("Name of the campaign", max_chars=80)
        question = st.text_input("Question", _QUESTIONS[mode], max_chars=300)
        one, two, three = st.columns(3)
        overlap = one.number_input("Units that several people judge", 0, 100_000, 20, help="To measure agreement.")
        raters = two.number_input("How many people those", 2, 20, 3)
        gold = three.number_input("Gold pairs", 0, 1000, 4, help="With a known answer, for everybody: who looks?")
        if not st.form_submit_button("Open the campaign"):
            return
        if not name.strip():
            st.error("Give the campaign a name.")
            return
        samples = {model: runs.samples_of(*drawn[model]) for model in chosen}
        units = plan_units(
            mode, samples, kept, overlap=int(overlap), raters=int(raters), gold=int(gold), seed=0
        )  # fmt: skip
        wish = Campaign("", name.strip(), question.strip() or _QUESTIONS[mode], mode, datetime.now(UTC))
        the_ratings().open_campaign(wish, units, seed=0)
    st.rerun()
