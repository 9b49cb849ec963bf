"""Which campaign a page is about."""

from collections.abc import Sequence

import streamlit as st

from naruto_core.ratings import Campaign


def chosen_campaign(campaigns: Sequence[Campaign], about: str) -> Campaign:
    """The one that is chosen; made-up votes are marked, for they say nothing of `about`."""
    known = {one.id: one for one in campaigns}
    campaign = known[st.selectbox("Campaign", list(known), format_func=lambda one: known[one].name, key="campaign")]
    if campaign.example:
        st.warning(f"An example: a program made these votes up. They say nothing of the {about}.")
    return campaign
