"""What the HTTP service did, and how good its pictures were. Read anew every half minute."""

from datetime import UTC, datetime

import streamlit as st

from dashboard import latency
from dashboard.queries.database import the_jobs, the_served_scores
from naruto_core.serving import Drift
from naruto_core.settings import read_settings

MOST = 20_000  # requests looked at; of more, the newest
_SECONDS = 30


def jobs(period: latency.Period) -> latency.Load:
    """Requests of a period, counted."""
    return _jobs(read_settings().database_url, period)


def quality(period: latency.Period) -> list[latency.Level]:
    """Served pictures of a period, by run, metric and moment."""
    return _quality(read_settings().database_url, period)


def drifts() -> list[Drift]:
    """What was said last of each run and metric."""
    return the_served_scores().drifts()


@st.cache_data(ttl=_SECONDS, max_entries=8, show_spinner=False)
def _jobs(url: str, period: latency.Period) -> latency.Load:
    del url
    return latency.count(the_jobs().times(latency.since(period, datetime.now(UTC)), MOST), period)


@st.cache_data(ttl=_SECONDS, max_entries=8, show_spinner=False)
def _quality(url: str, period: latency.Period) -> list[latency.Level]:
    del url
    return latency.levels(the_served_scores().scores(latency.since(period, datetime.now(UTC))), period)
