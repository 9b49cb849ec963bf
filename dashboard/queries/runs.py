"""Read runs, pictures and scores. Results are cached for a few seconds, so that a click needs no query."""

import streamlit as st

from dashboard import model_comparison
from dashboard.queries.database import database
from naruto_core.domain import PhaseRecord, PromptSuite, Sample, Variant
from naruto_core.settings import read_settings
from naruto_core.store.queries import RunSummary

_SECONDS = 5


def home() -> str:
    """The path of NARUTO_HOME, for people."""
    return str(read_settings().root)


def runs() -> list[RunSummary]:
    """Every run with its set scores, newest first."""
    return _runs(read_settings().database_url)


def samples(run_id: str) -> list[Sample]:
    """The pictures of one run."""
    return _samples(read_settings().database_url, run_id)


def samples_of(run_id: str, variant: Variant) -> list[Sample]:
    """The pictures of one variant of a run."""
    return [sample for sample in samples(run_id) if sample.variant is variant]


def phases(run_id: str) -> list[PhaseRecord]:
    """The plan of a run, and what its phases took."""
    return _phases(read_settings().database_url, run_id)


def sample_scores(run_id: str) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The scores of a run's single pictures; see `model_comparison.sample_scores`."""
    return _sample_scores(read_settings().database_url, run_id)


def prompts(run_id: str) -> PromptSuite | None:
    """The prompt suite of a run's pictures; None before they are generated."""
    return _prompts(read_settings().database_url, run_id)


@st.cache_data(ttl=_SECONDS, show_spinner=False)
def _runs(url: str) -> list[RunSummary]:
    del url  # it is the cache's key only
    return database().runs.runs()


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _samples(url: str, run_id: str) -> list[Sample]:
    del url
    return database().runs.samples(run_id)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _phases(url: str, run_id: str) -> list[PhaseRecord]:
    del url
    return database().runs.phases(run_id)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _sample_scores(url: str, run_id: str) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    del url
    return model_comparison.sample_scores(database().runs.scores(run_id))


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _prompts(url: str, run_id: str) -> PromptSuite | None:
    del url
    return database().runs.prompts(run_id)
