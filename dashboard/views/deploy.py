"""The page Deploy: the champion and its history, the HTTP service, and a playground."""

import streamlit as st

from dashboard.views import playground, promote, serving

_PARTS = {"Champion": promote.show, "Service": serving.show, "Playground": playground.show}
_ADDRESSES = {"serving": "Service", "playground": "Playground"}  # of earlier versions


def show() -> None:
    st.title("Deploy")
    address = (st.context.url or "").rstrip("/").rpartition("/")[2]
    names = list(_PARTS)
    part = st.segmented_control("Part", names, default=_ADDRESSES.get(address, names[0]), required=True, key="part",
                                label_visibility="collapsed", bind="query-params")  # fmt: skip
    _PARTS[part or names[0]]()
