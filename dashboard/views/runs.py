"""Every run with its state, live progress and scores: one table for each measurement, as only its numbers compare."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from urllib.parse import urlencode

import streamlit as st

from dashboard.formatting import duration
from dashboard.queries import runs, votes
from dashboard.queries.database import the_store
from dashboard.queries.thumbnails import thumbnail
from naruto_core.domain import Run, RunState, Score, Variant
from naruto_core.ratings import Mode
from naruto_core.store.queries import Measurement, RunSummary, measurement_of


@st.fragment(run_every=3)
def show_progress(runs: list[Run]) -> None:
    """A bar for each run, with the time that is left at the pace so far."""
    for run in runs:
        step, total = the_store().last_step(run.id), _steps(run.id)
        if not step or not total:
            st.progress(0.0, text=f"{run.id}: not training yet, or drawing and scoring")
            continue
        spent = (datetime.now(UTC) - run.started_at).total_seconds()
        left = f"about {duration(spent / step * (total - step))} left of training" if step < total else "trained"
        st.progress(min(1.0, step / total), text=f"{run.id}: step {step} of {total}, {left}")


def _steps(run_id: str) -> int:
    """As the recipe says; a recipe of another time may not."""
    training = json.loads(the_store().recipe_json(run_id)).get("training", {})
    return int(training.get("max_train_steps", 0))


_SHOWN = 3  # runs with pictures, running runs, campaigns looked at
_APART = 3  # samples from one picture of a strip to the next


def show() -> None:
    st.title("Runs")
    summaries = runs.runs()
    if not summaries:
        st.info("No run is recorded yet. Type `make demo` in a terminal and come back: it takes a few minutes.")
        st.text(f"Looked in {runs.home()}; NARUTO_HOME says where else to look.")
        return
    running = [one.run for one in summaries if one.run.state is RunState.RUNNING]
    if running:
        show_progress(running[:_SHOWN])
    summaries = _found(summaries)
    if not summaries:
        st.info("No run matches. Clear the words or the states above.")
        return
    human = _human()
    chosen = st.dataframe(
        [_line(summary, human) for summary in summaries], hide_index=True, alt="Every run, newest first",
        on_select="rerun", selection_mode="multi-row", key="chosen_runs",
    )  # fmt: skip
    rows = [row for row in chosen.selection.rows if row < len(summaries)]
    _strips([summaries[row] for row in rows] or summaries[:_SHOWN], bool(rows))
    st.header("Scores")
    rulers = sorted({measurement_of(score) for summary in summaries for score in summary.scores})
    if not rulers:
        st.info("Nothing is scored yet. A run is scored at its end; `naruto runs` shows how far it is.")
    for one in rulers:
        st.text(_described(one))
        st.table(list(_scores(one, summaries)), hide_index=True, alt=_described(one))


def _found(summaries: list[RunSummary]) -> list[RunSummary]:
    left, right = st.columns([2, 1])
    words = left.text_input("Words in the id, profile, dataset or failure", key="words", max_chars=200).lower().split()
    states = right.multiselect("State", [state.value for state in RunState], key="states")
    return [
        one
        for one in summaries
        if (not states or one.run.state.value in states) and all(word in _searched(one) for word in words)
    ]


def _searched(one: RunSummary) -> str:
    return f"{one.run.id} {one.run.profile} {one.dataset_source} {one.run.failure}".lower()


def _human() -> dict[str, str]:
    """What people said of a run's fused model in the newest campaigns, as a share of votes won."""
    found: dict[str, str] = {}
    asked = [one for one in votes.campaigns() if one.mode is Mode.PAIR and not one.example]
    for campaign in asked[:_SHOWN]:
        for rate in votes.win_rates_of(campaign.id):
            run_id, _, variant = rate.model.partition("/")
            if variant == Variant.FUSED:
                said = f"won {rate.value:.0%} ({rate.low:.0%} to {rate.high:.0%}, n = {rate.votes})"
                found.setdefault(run_id, said)
    return found


def _strips(summaries: list[RunSummary], chosen: bool) -> None:
    """A few pictures of each run; and where to, when two to four are chosen."""
    if chosen and 2 <= len(summaries) <= 4:
        query = urlencode([("model", f"{one.run.id}/{Variant.FUSED.value}") for one in summaries])
        st.link_button("Compare these", f"compare?{query}")
    elif chosen:
        st.text("Choose two to four runs to compare them.")
    for summary in summaries[:_SHOWN]:
        samples = runs.samples_of(summary.run.id, Variant.FUSED)[: 6 * _APART : _APART]
        shown = [(path, sample) for sample in samples if (path := thumbnail(sample.sha256, "256"))]
        if shown:
            st.text(summary.run.id)
            suite = runs.prompts(summary.run.id)
            texts = {prompt.slug: prompt.text for prompt in suite.prompts} if suite else {}
            for column, (path, sample) in zip(st.columns(6), shown, strict=False):
                column.image(path.read_bytes(), width="stretch", alt=texts.get(sample.prompt, sample.prompt))


def _line(summary: RunSummary, human: dict[str, str]) -> dict[str, str]:
    run = summary.run
    return {
        "Run": run.id,
        "State": run.state.value,
        "Profile": run.profile,
        "Dataset": summary.dataset_source,
        "Started (UTC)": f"{run.started_at:%Y-%m-%d %H:%M}",
        "Took": "" if summary.seconds is None else duration(summary.seconds),
        "People": human.get(run.id, ""),
        "What went wrong": run.failure,
    }


def _described(one: Measurement) -> str:
    against = f", against {one.reference}" if one.reference else ""
    return f"{one.metric}, measured by {one.extractor} (version {one.version}){against}"


def _scores(one: Measurement, summaries: Iterable[RunSummary]) -> Iterable[dict[str, str]]:
    for summary in summaries:
        found = {score.variant: score for score in summary.scores if measurement_of(score) == one}
        if found:
            cells = {variant.value: _cell(found.get(variant)) for variant in Variant}
            yield {"Run": summary.run.id} | cells


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    bounds = "no interval" if score.interval is None else "{:.4g} to {:.4g}".format(*score.interval)
    return f"{score.value:.4g} ({bounds}, n = {score.n})"
