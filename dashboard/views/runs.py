"""The page Runs: state, live progress, pictures and scores of every run.

There is a table for each measurement (metric, extractor, version, reference), because scores of different measurements
are not comparable.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlencode

import streamlit as st

from dashboard.queries import runs, votes
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from naruto_core.domain import PhaseRecord, Run, RunState, Score, Variant, distinct_variants, format_duration
from naruto_core.judging.campaign_plan import contender
from naruto_core.ratings import Mode
from naruto_core.store.queries import Measurement, RunSummary, measurement_of


@st.fragment(run_every=3)
def show_progress(runs: list[Run]) -> None:
    """A progress bar for each run, with the estimated time left."""
    for run in runs:
        step, total = database().runs.last_step(run.id), _steps(run.id)
        if not step or not total:
            st.progress(0.0, text=f"{run.id}: not training (before it, or generating and scoring)")
            continue
        seconds = (datetime.now(UTC) - run.started_at).total_seconds()
        left = (
            f"about {format_duration(seconds / step * (total - step))} of training left" if step < total else "trained"
        )
        st.progress(min(1.0, step / total), text=f"{run.id}: step {step} of {total}, {left}")


def _steps(run_id: str) -> int:
    """The number of training steps in the recipe; 0 for an old recipe without it, and for an import."""
    training = json.loads(database().runs.recipe_json(run_id)).get("training", {})
    return int(training.get("max_train_steps", 0))


_SHOWN = 3  # runs with pictures, running runs, campaigns
_TRAINED = (Variant.ADAPTED, Variant.FUSED)  # in this order: adapter and fused model draw the same pictures
_STRIDE = 3  # every third sample is in a run's strip of pictures


def show() -> None:
    st.title("Runs")
    summaries = runs.runs()
    if not summaries:
        st.info("There is no run yet. Type `make demo` in a terminal, wait some minutes, then reload this page.")
        st.text(f"This dashboard reads {runs.home()}; set NARUTO_HOME to read another folder.")
        return
    running = [summary.run for summary in summaries if summary.run.state is RunState.RUNNING]
    if running:
        show_progress(running[:_SHOWN])
    summaries = _filter(summaries)
    if not summaries:
        st.info("No run matches. Clear the words or the states above.")
        return
    win_rates = _win_rates()
    chosen = st.dataframe(
        [_line(summary, win_rates) for summary in summaries], hide_index=True, alt="Every run, newest first",
        on_select="rerun", selection_mode="multi-row", key="chosen_runs",
    )  # fmt: skip
    rows = [row for row in chosen.selection.rows if row < len(summaries)]
    _strips([summaries[row] for row in rows] or summaries[:_SHOWN], bool(rows))
    show_plans([summary.run.id for summary in [summaries[row] for row in rows] or summaries[:1]])
    st.header("Scores")
    measurements = sorted({measurement_of(score) for summary in summaries for score in summary.scores})
    if not measurements:
        st.info("There are no scores yet. A run is scored at its end; `naruto runs` shows its progress.")
    for measurement in measurements:
        st.text(_describe(measurement))
        st.table(list(_scores(measurement, summaries)), hide_index=True, alt=_describe(measurement))


_STATES = [state.value for state in RunState if state is not RunState.DELETED]


def _filter(summaries: list[RunSummary]) -> list[RunSummary]:
    left, right = st.columns([2, 1])
    words = (
        left.text_input("Words in the id, profile, dataset, tags or failure", key="words", max_chars=200)
        .lower()
        .split()
    )
    states = right.multiselect("State", _STATES, key="states")
    return [
        summary
        for summary in summaries
        if (not states or summary.run.state.value in states) and all(word in _searchable(summary) for word in words)
    ]


def _searchable(summary: RunSummary) -> str:
    run, tags = summary.run, " ".join(summary.tags)
    return f"{run.id} {run.profile} {summary.dataset_source} {tags} {run.failure}".lower()


def _win_rates() -> dict[str, str]:
    """The win rate of each run's trained model, in the newest campaign of pairs that has it; by run id."""
    rates: dict[str, str] = {}
    campaigns = [campaign for campaign in votes.campaigns() if campaign.mode is Mode.PAIR and not campaign.example]
    for campaign in campaigns[:_SHOWN]:
        by_name = sorted(votes.win_rates_of(campaign.id), key=lambda rate: rate.model)
        for rate in by_name:
            run_id, _, variant = rate.model.partition("/")
            if variant in _TRAINED:
                text = f"{rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%}, n = {rate.votes})"
                rates.setdefault(run_id, text)
    return rates


def _strips(summaries: list[RunSummary], chosen: bool) -> None:
    """A few pictures of each run; and a link to the page Compare or Run, by how many runs are chosen."""
    models = [(summary.run.id, _trained_variant(summary.run.id)) for summary in summaries]
    if chosen and 2 <= len(summaries) <= 4:
        query = urlencode([("model", contender(run_id, variant.value)) for run_id, variant in models])
        st.link_button("Compare these", f"compare?{query}")
    elif chosen:
        for run_id, _ in models[:_SHOWN]:
            st.link_button(f"Open {run_id}", f"run?{urlencode({'id': run_id})}")
        st.text("Choose two to four runs to compare them.")
    for run_id, variant in models[:_SHOWN]:
        samples = runs.samples_of(run_id, variant)[: 6 * _STRIDE : _STRIDE]
        thumbnails = [(path, sample) for sample in samples if (path := thumbnail(sample.sha256, "256"))]
        if thumbnails:
            st.text(run_id)
            suite = runs.prompts(run_id)
            texts = {prompt.slug: prompt.text for prompt in suite.prompts} if suite else {}
            for column, (path, sample) in zip(st.columns(6), thumbnails, strict=False):
                column.image(path.read_bytes(), width="stretch", alt=texts.get(sample.prompt, sample.prompt))


def _trained_variant(run_id: str) -> Variant:
    """The trained model of a run that has pictures: the adapted one, unless only the fused one drew."""
    return next((variant for variant in _TRAINED if runs.samples_of(run_id, variant)), Variant.ADAPTED)


def show_plans(run_ids: list[str]) -> None:
    """The plan of each run beside what its phases took."""
    planned = [(run_id, phases) for run_id in run_ids[:_SHOWN] if (phases := runs.phases(run_id))]
    if planned:
        st.header("Plan")
    for run_id, phases in planned:
        st.text(f"{run_id} on {phases[0].planned.device}")
        st.table([_phase(record) for record in phases], hide_index=True, alt=f"Planned and measured time of {run_id}")


def _phase(record: PhaseRecord) -> dict[str, str]:
    plan, took = record.planned, f"{format_duration(record.measured_seconds)} for {record.measured_units:,}"
    return {
        "Phase": plan.phase,
        "Units": f"{plan.units:,} {plan.unit}{'' if plan.units == 1 else 's'}",
        "Planned": f"{format_duration(plan.seconds)} ({plan.basis})",
        "Took": took if record.measured_units else "",
        "Memory": f"{plan.memory / 2**30:.1f} GiB" if plan.memory else "",
    }


def _line(summary: RunSummary, win_rates: dict[str, str]) -> dict[str, str]:
    run = summary.run
    return {
        "Run": run.id,
        "State": run.state.value,
        "Tags": " ".join(summary.tags),
        "Profile": run.profile,
        "Dataset": summary.dataset_source,
        "Started (UTC)": f"{run.started_at:%Y-%m-%d %H:%M}",
        "Duration": "" if summary.seconds is None else format_duration(summary.seconds),
        "Win rate": win_rates.get(run.id, ""),
        "Failure": run.failure,
    }


def _describe(measurement: Measurement) -> str:
    reference = f", compared with {measurement.reference}" if measurement.reference else ""
    return f"{measurement.metric}, measured by {measurement.extractor} (version {measurement.version}){reference}"


def _scores(measurement: Measurement, summaries: Iterable[RunSummary]) -> Iterable[dict[str, str]]:
    """A row for each run that was measured so, with a column for each variant that any of them has a score of."""
    of_runs: dict[str, dict[Variant, Score]] = {}
    for summary in summaries:
        of_runs[summary.run.id] = {s.variant: s for s in summary.scores if measurement_of(s) == measurement}
    shown = {run_id: distinct_variants(scores) for run_id, scores in of_runs.items()}
    variants = [variant for variant in Variant if any(variant in of_run for of_run in shown.values())]
    for run_id, scores in of_runs.items():
        if scores:
            cells = {v.value: _cell(scores.get(v) if v in shown[run_id] else None) for v in variants}
            yield {"Run": run_id} | cells


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    bounds = "no interval" if score.interval is None else "{:.4g} to {:.4g}".format(*score.interval)
    return f"{score.value:.4g} ({bounds}, n = {score.n})"
