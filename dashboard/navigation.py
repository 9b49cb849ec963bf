"""Links between pages that keep the session, and the short name of a run."""

import re
from collections.abc import Mapping
from urllib.parse import urlencode

import streamlit as st
from streamlit.navigation.page import StreamlitPage

_PAGES = "pages_by_address"  # in the session's state
_DATED = re.compile(r"\d{4}-(\d\d-\d\d-.+)")


def remember_pages(pages: Mapping[str, StreamlitPage]) -> None:
    """Let `link` know the pages of this session by their addresses."""
    st.session_state[_PAGES] = dict(pages)


def link(address: str, label: str, *, tooltip: str | None = None, **query: str | list[str]) -> None:
    """A link to the page at `address` with a query. `label` is Markdown: no text that people wrote."""
    page = st.session_state.get(_PAGES, {}).get(address)
    if page is None:  # a page that is shown alone, as in a test
        st.link_button(label, f"{address}?{urlencode(query, doseq=True)}")
    else:
        st.page_link(page, label=label, help=tooltip, query_params=query)


def short_name(run_id: str) -> str:
    """A run's id without the year, which leaves room for columns: "11-27-mini-b4e8"."""
    dated = _DATED.fullmatch(run_id)
    return dated[1] if dated else run_id
