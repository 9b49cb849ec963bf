"""The page Campaigns: people and their links, progress of campaigns, whether more votes would help, a new campaign."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

import streamlit as st

from dashboard import access
from dashboard.component import keep_link
from dashboard.formatting import describe_decision
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from naruto_core.domain import Variant, distinct_variants
from naruto_core.errors import NarutoError
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Campaign, Mode, Role


def select_campaign(campaigns: Sequence[Campaign], subject: str) -> Campaign:
    """Let the user choose a campaign; warn where its votes are made up and say nothing about the `subject`."""
    by_id = {campaign.id: campaign for campaign in campaigns}
    chosen = st.selectbox("Campaign", list(by_id), format_func=lambda key: by_id[key].name, key="campaign")
    campaign = by_id[chosen]
    if campaign.example:
        st.warning(f"This is an example: a program made these votes up. They say nothing about the {subject}.")
    return campaign


_PER_PAGE = 3  # each is ranked, which takes a moment with many votes
_DEFAULT_UNITS = 120  # at five seconds a vote, three reviewers need five minutes each
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


def show() -> None:
    st.title("Campaigns")
    if not database().ratings.has_admin():
        st.info("No admin is registered. Add yourself as the first: from then on, everybody needs a personal link.")
    _people()
    st.header("Progress")
    campaigns = votes.campaigns()
    if not campaigns:
        st.info("There is no campaign yet. Choose the models to compare below.")
    pages = ceil(len(campaigns) / _PER_PAGE)
    page = st.pagination(pages, key="campaigns") if pages > 1 else 1
    for campaign in campaigns[(page - 1) * _PER_PAGE : page * _PER_PAGE]:
        _campaign(campaign)
    _new_campaign()


def _campaign(campaign: Campaign) -> None:
    progress = database().ratings.progress(campaign.id)
    with st.container(border=True):
        st.text(campaign.name + (" (example, votes made up)" if campaign.example else ""))
        st.progress(progress.share, text=f"{progress.votes} of {progress.votes_needed} votes on {progress.units} units")
        for line in _decision_lines(campaign):
            st.text(line)
        if campaign.closed_at is not None:
            st.text(f"Closed on {campaign.closed_at:%Y-%m-%d}.")
            if st.button("Reopen the campaign", key=f"reopen-{campaign.id}"):
                database().ratings.reopen_campaign(campaign.id)
                st.rerun()
            return
        with st.popover("Close the campaign"):
            st.text("Reviewers get no more pictures of it. Votes stay, and you can reopen it.")
            if st.button("Close it", key=f"close-{campaign.id}"):
                database().ratings.close_campaign(campaign.id, datetime.now(UTC))
                st.rerun()


def _decision_lines(campaign: Campaign) -> list[str]:
    if campaign.mode is Mode.SCALE:
        return ["Grades give no ranking; the page Verdicts shows them with their intervals."]
    try:
        return [describe_decision(decision) for decision in votes.campaign_result(campaign.id).decisions]
    except NarutoError as error:
        return [str(error)]


def _people() -> None:
    st.header("People")
    people = database().ratings.reviewers()
    if people:
        st.dataframe(
            [{"Name": person.name, "Role": person.role.value, "Single sign-on": person.email} for person in people],
            hide_index=True, alt="Everybody who is registered",
        )  # fmt: skip
    with st.form("person", clear_on_submit=True):
        left, middle, right = st.columns(3)
        name = left.text_input("Name", max_chars=80)
        is_first = not database().ratings.has_admin()
        roles = [Role.ADMIN] if is_first else [Role.REVIEWER, Role.ADMIN]
        role = middle.selectbox("Role", roles, format_func=lambda role: role.value)
        email = right.text_input("Address for single sign-on (optional)", max_chars=200)
        if st.form_submit_button("Add"):
            _, token = database().ratings.add_reviewer(name, role, email.strip())
            if is_first:  # from now on the dashboard needs a link: this session and this browser go on with theirs
                access.remember_link(token)
                keep_link(token)
            _link(token)
    if people:
        with st.popover("Replace a lost link"):
            names = {person.id: person.name for person in people}
            reviewer_id = st.selectbox("Person", list(names), format_func=names.__getitem__)
            if st.button("Make a new link; the old link stops working"):
                _link(database().ratings.renew_link(reviewer_id))


def _link(token: str) -> None:
    address = (st.context.url or "").split("?")[0].rsplit("/", 1)[0]
    st.success(
        "Send this personal link. It is shown only once; `naruto people link NAME` makes a new one. Whoever has it "
        "votes under this name."
    )
    st.code(f"{address}/enter/{token}", language=None)


def _models(drawn: Sequence[tuple[str, Variant]]) -> dict[str, tuple[str, Variant]]:
    """The models that a campaign can compare; fused models beside adapted ones on demand."""
    variants: dict[str, set[Variant]] = {}
    for run_id, variant in drawn:
        variants.setdefault(run_id, set()).add(variant)
    kept = [(run_id, variant) for run_id, variant in drawn if variant in distinct_variants(variants[run_id])]
    if len(kept) < len(drawn) and st.checkbox("List fused models too: they draw the adapted model's pictures"):
        kept = list(drawn)
    return {contender(run_id, variant.value): (run_id, variant) for run_id, variant in kept}


def _new_campaign() -> None:
    st.header("New campaign")
    counts = database().runs.sample_counts()
    models = _models([(run_id, variant) for run_id, variant, _ in counts])
    if not models:
        st.info("There are no pictures yet. Type `make demo` in a terminal, then reload this page.")
        return
    mode = st.selectbox("Kind of question", list(Mode), format_func=_MODES.__getitem__, key="mode")
    chosen = st.multiselect("Models", list(models), key="contenders", help="A run and a variant of it.")
    if len(chosen) < mode.pictures:
        st.text(f"Choose at least {mode.pictures} models.")
        return
    suites = [runs.prompts(models[name][0]) for name in chosen]
    prompts = {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}
    all_tags = sorted({tag for prompt in prompts.values() for tag in prompt.tags})
    tags = st.multiselect("Only prompts with these tags (empty: all prompts)", all_tags)
    tagged = [prompt for prompt in prompts.values() if not tags or set(tags) & set(prompt.tags)]
    with st.form("campaign"):
        name = st.text_input("Name of the campaign", max_chars=80)
        question = st.text_input("Question", _QUESTIONS[mode], max_chars=300)
        first, left, middle, right = st.columns(4)
        limit = first.number_input("Units at most", 1, 1_000_000, _DEFAULT_UNITS, help="Spread over the prompts.")
        overlap = left.number_input("Units rated by several people", 0, 100_000, 20, help="They measure agreement.")
        raters = middle.number_input("Raters of each of these units", 2, 20, 3)
        gold = right.number_input("Gold pairs", 0, 1000, 4, help="Pairs with a known answer, to test attention.")
        if not st.form_submit_button("Open the campaign"):
            return
        if not name.strip():
            st.error("Give the campaign a name.")
            return
        samples = {model: runs.samples_of(*models[model]) for model in chosen}
        units = plan_units(
            mode, samples, tagged, overlap=int(overlap), raters=int(raters), gold=int(gold), seed=0, limit=int(limit)
        )
        campaign = Campaign("", name.strip(), question.strip() or _QUESTIONS[mode], mode, datetime.now(UTC))
        database().ratings.open_campaign(campaign, units, seed=0)
    st.rerun()
