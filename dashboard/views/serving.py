"""The HTTP service: latency, requests and pictures; quality and drift of served pictures."""

import math
from collections.abc import Iterable

import streamlit as st

from dashboard import charts
from dashboard.latency import Period, QualityBucket, ServiceLoad
from dashboard.queries import serving
from naruto_core.domain import format_duration
from naruto_core.serving import OPEN, Drift, DriftVerdict, JobState

_FAILED_STATES = [JobState.CANCELLED, JobState.REFUSED, JobState.FAILED, JobState.LOST]
_TITLES = {
    "clip": "Agreement with the prompt (CLIP score)",
    "style": "Similarity to the style",
    "blank": "Share of blank pictures",
}


def show() -> None:
    chosen = st.segmented_control("Period", list(Period), default=Period.DAY, key="period", bind="query-params")
    period = Period(chosen or Period.DAY)
    load = serving.load(period)
    if not load.requests:
        st.info(f"There were no requests in the last {period}. `make service` starts the service.")
    else:
        _load(load)
    st.header("Quality")
    drifts = serving.drifts()
    _drifts(drifts)
    _quality(serving.quality(period), drifts)


def _load(load: ServiceLoad) -> None:
    errors = load.errors
    interval = f"{errors.low:.1%} to {errors.high:.1%} (95 %), failed or lost" if errors else None
    tiles = (
        ("Pictures", f"{load.pictures:,}", None),
        ("Pictures per minute", "–" if load.per_minute is None else f"{load.per_minute:.1f}", None),
        ("Latency p50", _seconds(load.p50), None),
        ("Latency p95", _seconds(load.p95), None),
        ("Latency p99", _seconds(load.p99), None),
        ("Time in queue p50", _seconds(load.queue_p50), None),
        ("Error rate", f"{errors.value:.1%}" if errors else "–", interval),
    )
    for column, (label, value, tooltip) in zip(st.columns(len(tiles)), tiles, strict=True):
        column.metric(label, value, help=tooltip)
    st.text("Requests: " + ", ".join(_request_counts(load)))
    if sum(load.requests.values()) >= serving.MAX_REQUESTS:
        st.caption(f"The newest {serving.MAX_REQUESTS:,} requests of this period.")
    st.subheader("Latency")
    latencies: list[charts.Row] = [
        {"at": bucket.at.isoformat(), "name": name, "value": value, "n": bucket.pictures}
        for bucket in load.buckets
        for name, value in (("p50", bucket.p50), ("p95", bucket.p95))
        if value is not None
    ]
    charts.show(charts.time_series(latencies, "seconds"))
    st.subheader("Pictures")
    pictures: list[charts.Row] = [
        {"at": bucket.at.isoformat(), "name": name, "value": value, "n": value}
        for bucket in load.buckets
        for name, value in (("drawn", bucket.pictures), ("failed or lost", bucket.lost))
    ]
    charts.show(charts.time_series(pictures, "pictures"))


def _request_counts(load: ServiceLoad) -> Iterable[str]:
    in_progress = sum(load.requests.get(state, 0) for state in OPEN)
    yield f"{load.requests.get(JobState.DONE, 0):,} done"
    for state in _FAILED_STATES:
        if n := load.requests.get(state, 0):
            yield f"{n:,} {state}"
    if in_progress:
        yield f"{in_progress:,} in progress"


def _drifts(drifts: list[Drift]) -> None:
    if not drifts:
        st.info("There is no drift report yet. `naruto watch` makes one, and the flow `watch` makes one every night.")
        return
    for drift in drifts:
        if drift.verdict is DriftVerdict.DRIFTED:
            st.warning(f"Drift of {drift.run_id} on {drift.metric}: the model's pictures or the prompts have changed.")
    st.table([_line(drift) for drift in drifts], hide_index=True, alt="Served pictures against the runs' own samples")
    st.caption(
        "Served pictures with the same settings as the run's own samples are compared with those samples; 95 % "
        "intervals over whole prompts. Drifted: the whole interval is beyond a quarter of a standard deviation (2 % "
        "for blank pictures). The prompts differ, so drift can also mean that people write other prompts."
    )


def _line(drift: Drift) -> dict[str, str]:
    return {
        "Run": drift.run_id,
        "Metric": drift.metric,
        "Served": f"{drift.served:.3f} (n = {drift.n_served}, {drift.prompts_served} prompts)",
        "Own samples": f"{drift.own:.3f} (n = {drift.n_own})",
        "Difference": f"{drift.difference:+.3f} ({_interval(drift)})",
        "Verdict": str(drift.verdict),
        "Time (UTC)": f"{drift.said_at:%Y-%m-%d %H:%M}",
    }


def _interval(drift: Drift) -> str:
    finite = math.isfinite(drift.low) and math.isfinite(drift.high)
    return f"{drift.low:+.3f} to {drift.high:+.3f}" if finite else "no interval: too few prompts"


def _quality(buckets: list[QualityBucket], drifts: list[Drift]) -> None:
    own_means = {(drift.run_id, drift.metric): drift.own for drift in drifts}
    for metric, title in _TITLES.items():
        of_metric = [bucket for bucket in buckets if bucket.metric == metric]
        if not of_metric:
            continue
        st.subheader(title)
        mixed = len({bucket.extractor for bucket in of_metric}) > 1  # scores of two extractors need two lines
        rows: list[charts.Row] = [
            {
                "at": bucket.at.isoformat(),
                "name": f"{bucket.run_id}, {bucket.extractor}" if mixed else bucket.run_id,
                "value": bucket.value,
                "low": bucket.low,
                "high": bucket.high,
                "n": bucket.n,
            }
            for bucket in of_metric
        ]
        times = sorted({bucket.at for bucket in of_metric})
        for run_id in sorted({bucket.run_id for bucket in of_metric}):
            if (value := own_means.get((run_id, metric))) is not None:
                name = f"{run_id}, own samples"
                rows += [{"at": at.isoformat(), "name": name, "value": value} for at in (times[0], times[-1])]
        charts.show(charts.time_series(rows, metric, zero=metric == "blank"))


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f} s" if value < 10 else format_duration(value)
