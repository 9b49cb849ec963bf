"""Serving: how fast pictures were, how many, and whether they are still as good as those that the run was chosen by."""

import math
from collections.abc import Iterable

import streamlit as st

from dashboard import charts
from dashboard.formatting import duration
from dashboard.latency import Level, Load, Period
from dashboard.queries import serving
from naruto_core.serving import OPEN, Drift, JobState, Steadiness

_ENDS = [JobState.CANCELLED, JobState.REFUSED, JobState.FAILED, JobState.LOST]
_TITLES = {
    "clip": "Agreement with the prompt (CLIP score)",
    "style": "Closeness to the style",
    "blank": "Share of blank pictures",
}


def show() -> None:
    st.title("Serving")
    chosen = st.segmented_control("Look back", list(Period), default=Period.DAY, key="period")
    period = Period(chosen or Period.DAY)
    pace = serving.jobs(period)
    if not pace.requests:
        st.info(f"Nothing was asked for in the last {period}. `make service` starts the service.")
    else:
        _show_pace(pace)
    st.header("Quality")
    said = serving.drifts()
    _show_drifts(said)
    _show_levels(serving.quality(period), said)


def _show_pace(pace: Load) -> None:
    columns = st.columns(4)
    columns[0].metric("Pictures", f"{pace.pictures:,}")
    columns[1].metric("Half of requests within", _seconds(pace.median))
    columns[2].metric("95 of 100 within", _seconds(pace.p95))
    columns[3].metric("Half waited at most", _seconds(pace.waited))
    st.text("Requests: " + ", ".join(_ends(pace)))
    if sum(pace.requests.values()) >= serving.MOST:
        st.caption(f"The newest {serving.MOST:,} requests of this time.")
    st.subheader("Time of a request")
    times: list[charts.Row] = [
        {"at": moment.at.isoformat(), "name": name, "value": value, "n": moment.pictures}
        for moment in pace.moments
        for name, value in (("half within", moment.median), ("95 of 100 within", moment.p95))
        if value is not None
    ]
    st.altair_chart(charts.over_time(times, "seconds"), width="stretch")
    st.subheader("Pictures")
    drawn: list[charts.Row] = [
        {"at": moment.at.isoformat(), "name": name, "value": value, "n": value}
        for moment in pace.moments
        for name, value in (("drawn", moment.pictures), ("failed or lost", moment.lost))
    ]
    st.altair_chart(charts.over_time(drawn, "pictures"), width="stretch")


def _ends(pace: Load) -> Iterable[str]:
    waiting = sum(pace.requests.get(state, 0) for state in OPEN)
    yield f"{pace.requests.get(JobState.DONE, 0):,} drawn"
    for state in _ENDS:
        if n := pace.requests.get(state, 0):
            yield f"{n:,} {state}"
    if waiting:
        yield f"{waiting:,} under way"


def _show_drifts(found: list[Drift]) -> None:
    if not found:
        st.info("Served pictures have not been compared yet. `naruto watch` does it, and the flow `watch` every night.")
        return
    for one in found:
        if one.verdict is Steadiness.DRIFTED:
            st.warning(f"{one.run_id} has drifted on {one.metric}: the model draws otherwise, or people ask otherwise.")
    st.table([_line(one) for one in found], hide_index=True, alt="Served pictures against the runs' own samples")
    st.caption(
        "A sample of what was served, drawn as the run's own samples were, against those samples; 95 % intervals over "
        "whole prompts. Drifted: the interval lies beyond a quarter of a standard deviation (2 % of blank pictures). "
        "The prompts differ, so a drift may also mean that people ask for other things."
    )


def _line(one: Drift) -> dict[str, str]:
    return {
        "Run": one.run_id,
        "Metric": one.metric,
        "Served": f"{one.served:.3f} (n = {one.n_served}, {one.prompts_served} prompts)",
        "Its own samples": f"{one.own:.3f} (n = {one.n_own})",
        "Difference": f"{one.difference:+.3f} ({_interval(one)})",
        "Verdict": str(one.verdict),
        "Said (UTC)": f"{one.said_at:%Y-%m-%d %H:%M}",
    }


def _interval(one: Drift) -> str:
    known = math.isfinite(one.low) and math.isfinite(one.high)
    return f"{one.low:+.3f} to {one.high:+.3f}" if known else "no interval: too few prompts"


def _show_levels(found: list[Level], said: list[Drift]) -> None:
    own = {(one.run_id, one.metric): one.own for one in said}
    for metric, title in _TITLES.items():
        levels = [one for one in found if one.metric == metric]
        if not levels:
            continue
        st.subheader(title)
        mixed = len({one.extractor for one in levels}) > 1  # figures of two rulers are no one line
        rows: list[charts.Row] = [
            {
                "at": one.at.isoformat(),
                "name": f"{one.run_id}, {one.extractor}" if mixed else one.run_id,
                "value": one.value,
                "low": one.low,
                "high": one.high,
                "n": one.n,
            }
            for one in levels
        ]
        moments = sorted({one.at for one in levels})
        for run_id in sorted({one.run_id for one in levels}):
            if (value := own.get((run_id, metric))) is not None:
                name = f"{run_id}, its own samples"
                rows += [{"at": at.isoformat(), "name": name, "value": value} for at in (moments[0], moments[-1])]
        st.altair_chart(charts.over_time(rows, metric, zero=metric == "blank"), width="stretch")


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value < 10 else duration(value)
