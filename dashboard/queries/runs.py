"""Read runs, pictures and scores. Results are cached for a few seconds, so that a click needs no query."""

from collections.abc import Mapping
from datetime import UTC, datetime

import streamlit as st

from dashboard import charts, model_comparison
from dashboard.queries.database import database
from naruto_core.artifacts import Layout
from naruto_core.domain import PhaseRecord, PromptSuite, RunState, Sample, Variant, distinct_variants
from naruto_core.judging.campaign_plan import contender
from naruto_core.report import key_grid
from naruto_core.report.key_grid import RunRecipe
from naruto_core.report.leaderboard import Leaderboard, leaderboard
from naruto_core.report.recipe_changes import changed_keys
from naruto_core.settings import read_settings
from naruto_core.store.queries import RunSummary

_SECONDS = 5
_UNCHANGED_SECONDS = 30  # of what is read again as soon as a run, a score or a tag changes
_TRAINED = (Variant.ADAPTED, Variant.FUSED)
FAVOURITE, ARCHIVED = "favourite", "archived"  # tags; also `naruto tag RUN +favourite`


def home() -> str:
    """The path of NARUTO_HOME, for people."""
    return str(read_settings().root)


def layout() -> Layout:
    """The folders of NARUTO_HOME."""
    settings = read_settings()
    return Layout(settings.root, settings.store)


def runs() -> list[RunSummary]:
    """Every run with its set scores, newest first."""
    return _runs(*_version())


def board() -> Leaderboard:
    """The leaderboard of all runs that are not archived, newest first."""
    return _board(*_version())


def board_with_archived() -> Leaderboard:
    """The leaderboard of all runs, newest first."""
    return leaderboard(runs())


def colours() -> Mapping[str, str]:
    """The colour of each run, the same on every page: by its place in the order of starts."""
    return _colours(*_version())


def changes() -> Mapping[str, Mapping[str, str]]:
    """For each run: the keys of its recipe that differ from the most common value, with its values."""
    return _changes(*_version())


def recorded_recipes() -> list[RunRecipe]:
    """The recipe of every run that has pictures of its trained model, newest first."""
    recipes, drawn = database().runs.recipes(), {run_id for run_id, variant in models().values() if variant in _TRAINED}
    ordered = (summary.run for summary in runs())
    return [RunRecipe(run.id, run.dataset_id, recipes[run.id]) for run in ordered if run.id in drawn & recipes.keys()]


def key_pairs() -> Mapping[tuple[str, str], int]:
    """The pairs of keys in which runs differ and in nothing else; see `naruto_core.report.key_grid`."""
    return _key_pairs(*_version())


def models() -> Mapping[str, tuple[str, Variant]]:
    """Run and variant of every model that has pictures, by name ("RUN/adapted"); newest runs first."""
    return _models(*_version())


def first_pictures() -> Mapping[str, str]:
    """The sha256 of one picture of each run's trained model, of the first prompt and seed by name; by run id."""
    return _first_pictures(*_version())


def abandoned() -> list[str]:
    """The runs that are recorded as running, although no process works on them."""
    running = (summary.run.id for summary in runs() if summary.run.state is RunState.RUNNING)
    return [run_id for run_id in running if database().runs.live_lease(run_id, datetime.now(UTC)) is None]


def promotion_fault(run_id: str) -> str:
    """Why a run cannot be promoted, for people; its files are read again only when they changed. `promote` itself
    reads them always."""
    paths = [layout().absolute(adapter.path) for adapter in database().runs.adapters(run_id)]
    files = tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths if path.exists())
    return _promotion_fault(*_version(), run_id, files)


def samples(run_id: str) -> list[Sample]:
    """The pictures of one run."""
    return _samples(read_settings().database_url, run_id)


def samples_of(run_id: str, variant: Variant) -> list[Sample]:
    """The pictures of one variant of a run."""
    return [sample for sample in samples(run_id) if sample.variant is variant]


def trained_variant(run_id: str) -> Variant:
    """The trained model of a run that has pictures: the adapted one, unless only the fused one drew."""
    drawn = models()
    return next((variant for variant in _TRAINED if contender(run_id, variant.value) in drawn), Variant.ADAPTED)


def phases(run_id: str) -> list[PhaseRecord]:
    """The plan of a run, and what its phases took."""
    return _phases(read_settings().database_url, run_id)


def sample_scores(run_id: str) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """The scores of a run's single pictures; see `model_comparison.sample_scores`."""
    return _sample_scores(read_settings().database_url, run_id)


def prompts(run_id: str) -> PromptSuite | None:
    """The prompt suite of a run's pictures; None before they are generated."""
    return _prompts(read_settings().database_url, run_id)


def _version() -> tuple[str, str]:
    """The database, and what changes with its runs."""
    return read_settings().database_url, database().runs.runs_version()


# a resource is not copied: these are immutable, and many
@st.cache_resource(ttl=_UNCHANGED_SECONDS, max_entries=4, show_spinner=False)
def _runs(url: str, version: str) -> list[RunSummary]:
    del url, version  # they are the cache's key only
    return database().runs.runs()


@st.cache_resource(ttl=_UNCHANGED_SECONDS, max_entries=4, show_spinner=False)
def _board(url: str, version: str) -> Leaderboard:
    return leaderboard([summary for summary in _runs(url, version) if ARCHIVED not in summary.tags])


@st.cache_resource(ttl=_UNCHANGED_SECONDS, max_entries=4, show_spinner=False)
def _colours(url: str, version: str) -> Mapping[str, str]:
    oldest_first = (summary.run.id for summary in reversed(_runs(url, version)))
    return {run_id: charts.COLOURS[place % len(charts.COLOURS)] for place, run_id in enumerate(oldest_first)}


@st.cache_resource(max_entries=4, show_spinner=False)
def _changes(url: str, version: str) -> Mapping[str, Mapping[str, str]]:
    del url, version
    return changed_keys(database().runs.recipes())


@st.cache_resource(max_entries=4, show_spinner=False)
def _key_pairs(url: str, version: str) -> Mapping[tuple[str, str], int]:
    del url, version
    return key_grid.key_pairs(recorded_recipes())


@st.cache_resource(ttl=_UNCHANGED_SECONDS, max_entries=4, show_spinner=False)
def _models(url: str, version: str) -> Mapping[str, tuple[str, Variant]]:
    del url, version
    counts = database().runs.sample_counts()
    return {contender(run_id, variant.value): (run_id, variant) for run_id, variant, _ in counts}


@st.cache_resource(ttl=_UNCHANGED_SECONDS, max_entries=4, show_spinner=False)
def _first_pictures(url: str, version: str) -> Mapping[str, str]:
    del url, version
    return database().runs.first_pictures()


@st.cache_data(max_entries=200, show_spinner=False)
def _promotion_fault(url: str, version: str, run_id: str, files: tuple[tuple[str, int, int], ...]) -> str:
    del url, version, files
    return database().ratings.promotion_fault(run_id, layout())


def distinct_models() -> dict[str, tuple[str, Variant]]:
    """`models` without fused models beside adapted ones, which draw the same pictures."""
    variants: dict[str, set[Variant]] = {}
    for run_id, variant in models().values():
        variants.setdefault(run_id, set()).add(variant)
    return {n: (run_id, v) for n, (run_id, v) in models().items() if v in distinct_variants(variants[run_id])}


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
