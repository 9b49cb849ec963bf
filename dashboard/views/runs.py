"""Every run with its state, and its scores: one table for each ruler, because only one ruler's numbers compare."""

from collections.abc import Iterable

import streamlit as st

from dashboard.queries import records
from naruto_core.domain import Score, Variant
from naruto_core.store.reports import Ruler, RunSummary, ruler


def show() -> None:
    st.title("Runs")
    summaries = records.runs()
    if not summaries:
        st.info("No run is recorded yet. Type `make demo` in a terminal and come back: it takes a few minutes.")
        st.text(f"Looked in {records.home()}; NARUTO_HOME says where else to look.")
        return
    st.dataframe([_line(summary) for summary in summaries], hide_index=True, alt="Every run, newest first")
    st.header("Scores")
    rulers = sorted({ruler(score) for summary in summaries for score in summary.scores})
    if not rulers:
        st.info("Nothing is scored yet. A run is scored at its end; `naruto runs` shows how far it is.")
    for one in rulers:
        st.text(_described(one))
        st.table(list(_scores(one, summaries)), hide_index=True, alt=_described(one))


def _line(summary: RunSummary) -> dict[str, str]:
    run = summary.run
    return {
        "Run": run.id,
        "State": run.state.value,
        "Profile": run.profile,
        "Dataset": summary.dataset_source,
        "Started (UTC)": f"{run.started_at:%Y-%m-%d %H:%M}",
        "Took": "" if summary.seconds is None else duration(summary.seconds),
        "What went wrong": run.failure,
    }


def duration(seconds: float) -> str:
    """Seconds as a person says them: 48 s, 4 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _described(one: Ruler) -> str:
    against = f", against {one.reference}" if one.reference else ""
    return f"{one.metric}, measured by {one.extractor} (version {one.version}){against}"


def _scores(one: Ruler, summaries: Iterable[RunSummary]) -> Iterable[dict[str, str]]:
    for summary in summaries:
        found = {score.variant: score for score in summary.scores if ruler(score) == one}
        if found:
            cells = {variant.value: _cell(found.get(variant)) for variant in Variant}
            yield {"Run": summary.run.id} | cells


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.value:.4g} ({score.low:.4g} to {score.high:.4g}, n = {score.n})"
