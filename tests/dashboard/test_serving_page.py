"""The page Serving: latency, requests, quality over time, and drift."""

from datetime import UTC, datetime, timedelta

import pytest
from streamlit.testing.v1 import AppTest

from dashboard import latency
from dashboard.latency import Period
from naruto_core.domain import Run
from naruto_core.serving import Drift, DriftVerdict, JobState, JobTimes, ServedScore, ServiceJob
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database

NOW = datetime.now(UTC)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def page() -> AppTest:
    def run() -> None:
        from dashboard.views import serving

        serving.show()

    return AppTest.from_function(run, default_timeout=60).run()


def job(number: int, minutes_ago: int, seconds: float, state: JobState) -> ServiceJob:
    requested = NOW - timedelta(minutes=minutes_ago)
    finished = None if state is JobState.RUNNING else requested + timedelta(seconds=seconds)
    started = requested + timedelta(seconds=1)
    return ServiceJob(
        f"job-{number}", "one", "ada", "r", 2, 64, 64, 30, [1, 2], requested, state, started, finished
    )  # fmt: skip


def test_nothing_served_is_a_sentence(home: object) -> None:
    app = page()
    assert not app.exception
    assert "make service" in app.info[0].value
    assert "naruto watch" in app.info[1].value


def test_it_counts_requests_and_says_what_has_drifted(home: object, run: Run) -> None:
    url = read_settings().database_url
    ends = [JobState.DONE] * 8 + [JobState.FAILED, JobState.LOST, JobState.CANCELLED, JobState.RUNNING]
    with open_database(url) as database:
        for n, state in enumerate(ends):
            database.service_jobs.put(job(n, n * 20, 4.0, state))
        database.service_jobs.put(job(99, 60 * 24 * 3, 4.0, JobState.DONE))  # before the period
        served = database.served_scores
        served.add_scores([ServedScore(f"{n}", run.id, f"a{n % 5}", NOW, "clip", n / 10, "judge") for n in range(10)])
        drift = Drift(
            run.id, "clip", NOON, NOON, 0.45, 0.7, -0.25, -0.3, -0.2, 0.02, 10, 5, 176, "judge", DriftVerdict.DRIFTED
        )
        served.add_drifts([drift])
    app = page()
    assert not app.exception
    assert [(metric.label, metric.value) for metric in app.metric] == [
        ("Pictures", "16"),
        ("Pictures per minute", "0.1"),
        ("Latency p50", "4.00 s"),
        ("Latency p95", "4.00 s"),
        ("Latency p99", "4.00 s"),
        ("Time in queue p50", "1.00 s"),
        ("Error rate", "20.0%"),
    ]
    assert "Requests: 8 done, 1 cancelled, 1 failed, 1 lost, 1 in progress" in [text.value for text in app.text]
    assert f"Drift of {run.id} on clip" in app.warning[0].value
    assert app.table[0].value["Difference"][0] == "-0.250 (-0.300 to -0.200)"
    assert len(app.get("vega_lite_chart")) + len(app.get("arrow_vega_lite_chart")) == 3


def test_a_period_is_cut_into_steps_and_nothing_is_counted_twice() -> None:
    jobs = [
        JobTimes(NOON + timedelta(minutes=10 * n), None, NOON + timedelta(minutes=10 * n, seconds=n), 1, JobState.DONE)
        for n in range(12)
    ]
    load = latency.service_load(jobs[::-1], Period.DAY)
    assert [(bucket.at.hour, bucket.pictures, bucket.p50) for bucket in load.buckets] == [(12, 6, 2.5), (13, 6, 8.5)]
    assert (load.pictures, load.p50, load.queue_p50) == (12, 5.5, None)


@pytest.mark.parametrize("prompts", [9, 10])
def test_a_mean_of_few_prompts_has_no_interval_and_two_extractors_do_not_mix(prompts: int) -> None:
    scores = [
        ServedScore(f"{extractor}{n}", "r", f"a{n % prompts}", NOON, "clip", n + (extractor == "b") * 100, extractor)
        for n in range(12)
        for extractor in "ab"
    ]
    first, second = latency.quality(scores, Period.DAY)
    assert (first.value, second.value, first.n) == (5.5, 105.5, 12)
    assert (first.extractor, second.extractor) == ("a", "b")
    assert (first.low is None) is (prompts == 9)
