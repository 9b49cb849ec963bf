"""Read the jobs of the HTTP service and the quality of its pictures. Results are cached for half a minute."""

from datetime import UTC, datetime

import streamlit as st

from dashboard import latency
from dashboard.queries.database import database
from naruto_core.serving import Drift
from naruto_core.settings import read_settings

MAX_REQUESTS = 20_000  # of more, the newest are counted
_SECONDS = 30


def load(period: latency.Period) -> latency.ServiceLoad:
    """The load of a period: requests, latencies, pictures."""
    return _load(read_settings().database_url, period)


def quality(period: latency.Period) -> list[latency.QualityBucket]:
    """The quality of pictures served in a period, by run, metric and step of time."""
    return _quality(read_settings().database_url, period)


def drifts() -> list[Drift]:
    """The newest drift report of each run and metric."""
    return database().served_scores.drifts()


@st.cache_data(ttl=_SECONDS, max_entries=8, show_spinner=False)
def _load(url: str, period: latency.Period) -> latency.ServiceLoad:
    del url
    return latency.service_load(
        database().service_jobs.times(latency.period_start(period, datetime.now(UTC)), MAX_REQUESTS), period
    )


@st.cache_data(ttl=_SECONDS, max_entries=8, show_spinner=False)
def _quality(url: str, period: latency.Period) -> list[latency.QualityBucket]:
    del url
    return latency.quality(database().served_scores.scores(latency.period_start(period, datetime.now(UTC))), period)
