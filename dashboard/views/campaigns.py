"""The page Campaigns: results, reviewers, agreement of metrics with people, notes, a new campaign, people."""

from collections.abc import Callable
from datetime import UTC, datetime

import streamlit as st

from dashboard.queries import votes
from dashboard.queries.database import database
from dashboard.views import metric_validation, new_campaign, people, picture_notes, reviewers, verdicts
from naruto_core.ratings import Campaign

_PARTS: dict[str, Callable[[Campaign], None]] = {
    "Results": verdicts.show,
    "Reviewers": reviewers.show,
    "Metric agreement": metric_validation.show,
    "Notes": picture_notes.show,
}
_NEW, _PEOPLE = "New campaign", "People"


def show() -> None:
    st.title("Campaigns")
    if not database().ratings.has_admin():
        st.info("No admin is registered. Add yourself as the first: from then on, everybody needs a personal link.")
    campaigns = votes.campaigns()
    names = [*(_PARTS if campaigns else ()), _NEW, _PEOPLE]
    address = (st.context.url or "").rstrip("/").rpartition("/")[2]
    default = "Metric agreement" if address == "metric-validation" and campaigns else names[0]
    if not database().ratings.has_admin() and not campaigns:
        default = _PEOPLE
    chosen = st.segmented_control("Part", names, default=default, required=True, key="part",
                                  label_visibility="collapsed", bind="query-params") or default  # fmt: skip
    if chosen == _PEOPLE:
        people.show()
    elif chosen == _NEW:
        new_campaign.show()
    else:
        _campaign(campaigns, _PARTS[chosen])


def _campaign(campaigns: list[Campaign], show_part: Callable[[Campaign], None]) -> None:
    by_id = {campaign.id: campaign for campaign in campaigns}
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    ids, in_address = list(by_id), st.query_params.get("campaign", "")
    if in_address and in_address not in by_id:
        st.warning("The campaign in the address is not recorded here; the newest campaign is shown.")
    first = ids.index(in_address) if in_address in by_id else 0
    chosen = left.selectbox("Campaign", ids, first, format_func=lambda key: by_id[key].name, key="campaign")
    st.query_params["campaign"] = chosen
    campaign = by_id[chosen]
    if campaign.example:
        st.warning("This is an example: a program made these votes up. They say nothing about the models.")
    with right:
        _state(campaign)
    progress = database().ratings.progress(campaign.id)
    st.progress(progress.share, text=f"{progress.votes} of {progress.votes_needed} votes on {progress.units} units")
    show_part(campaign)


def _state(campaign: Campaign) -> None:
    """Whether it takes votes, and the buttons that change it."""
    ratings = database().ratings
    with st.container(horizontal=True, vertical_alignment="center"):
        if campaign.closed_at is not None:
            st.text(f"Closed on {campaign.closed_at:%Y-%m-%d}.")
            if st.button("Reopen", key=f"reopen-{campaign.id}"):
                ratings.reopen_campaign(campaign.id)
                st.rerun()
            return
        st.text("Paused." if campaign.paused else "Open.")
        label, key = ("Go on", "go-on") if campaign.paused else ("Pause", "pause")  # two buttons: see `change_labels`
        if st.button(label, key=f"{key}-{campaign.id}", help="Reviewers get no new pictures while it is paused."):
            ratings.pause_campaign(campaign.id, paused=not campaign.paused)
            st.rerun()
        with st.popover("Close the campaign"):
            st.text("Reviewers get no more pictures of it. Votes stay, and you can reopen it.")
            if st.button("Close it", key=f"close-{campaign.id}"):
                ratings.close_campaign(campaign.id, datetime.now(UTC))
                st.rerun()
