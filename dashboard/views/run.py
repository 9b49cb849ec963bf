"""The page Run: one run in any state: what came of it, its training, pictures, scores, recipe and files."""

import json
from collections.abc import Sequence

import streamlit as st

from dashboard.live_progress import show_progress
from dashboard.navigation import link
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from dashboard.views import pictures, run_files, run_training
from dashboard.views.overview import HEADLINE_LEGEND, headline_line
from naruto_core.domain import Finding, Run, RunState, Score, format_duration
from naruto_core.errors import amount
from naruto_core.report.leaderboard import HeadlineRow, headline_rows
from naruto_core.report.recipe_changes import recipe_differences
from naruto_core.report.score_table import short_number
from naruto_core.store.queries import RunSummary

_TILES = 5


def show() -> None:
    st.title("Run")
    by_id = {summary.run.id: summary for summary in runs.runs()}
    if not by_id:
        st.info("There is no run yet. Type `make demo` in a terminal, then reload this page.")
        return
    in_address = st.query_params.get("id", "")
    if in_address and in_address not in by_id:
        st.warning("The run in the address is not recorded here; the newest run is shown.")
    ids = list(by_id)
    run_id = st.selectbox("Run", ids, ids.index(in_address) if in_address in by_id else 0, key="shown_run",
                          label_visibility="collapsed")  # fmt: skip
    st.query_params["id"] = run_id
    summary, findings = by_id[run_id], database().runs.findings(run_id)
    headline = headline_rows(summary.scores)
    _summary(summary, headline, findings)
    _tiles(summary, headline)
    _failure(summary.run)
    names = ("Training", "Images", "Scores and risks", "Recipe", "Files and log")
    training, images, scores, recipe, files = st.tabs(names, on_change="rerun", key="part", bind="query-params")
    if training.open:
        with training:
            run_training.show(summary.run)
    if images.open:
        with images:
            pictures.show_run(run_id)
    if scores.open:
        with scores:
            _scores(summary, headline, findings)
    if recipe.open:
        with recipe:
            _recipe(run_id, list(by_id.values()))
    if files.open:
        with files:
            run_files.show(summary)


def _summary(summary: RunSummary, headline: Sequence[HeadlineRow], findings: Sequence[Finding]) -> None:
    """One sentence, and what can be done with the run."""
    st.text(summary_sentence(summary, headline, findings))
    with st.container(horizontal=True, vertical_alignment="center"):
        if summary.run.state is RunState.DONE:
            link("deploy", "Promote", run=summary.run.id)
        link("dataset", "Dataset", version=summary.run.dataset_id)
        if summary.tags:
            st.text(f"Tags: {' '.join(summary.tags)}")
    if summary.run.state is RunState.RUNNING:
        show_progress([summary.run])


def summary_sentence(summary: RunSummary, headline: Sequence[HeadlineRow], findings: Sequence[Finding]) -> str:
    """State, time, dataset, what the headline metrics say against the base, and how many warnings there are."""
    run = summary.run
    took = f" after {format_duration(summary.seconds)}" if summary.seconds is not None else ""
    text = (
        f"{run.id}: {run.state.value}{took}. Started {run.started_at:%Y-%m-%d %H:%M} UTC on {summary.dataset_source}."
    )
    words: dict[str, list[str]] = {}
    for row in headline:
        if row.word:
            words.setdefault(row.word, []).append(row.title)
    if words:
        text += (
            " Against the base: " + "; ".join(f"{word} in {', '.join(names)}" for word, names in words.items()) + "."
        )
    warnings = [finding.name for finding in findings if finding.warning]
    if warnings:
        return f"{text} Warnings: {', '.join(warnings)}."
    return f"{text} No warnings." if findings else text


def _tiles(summary: RunSummary, headline: Sequence[HeadlineRow]) -> None:
    """The headline metrics and the win rate, each with its difference to the base."""
    rate = votes.win_rate_over_base(summary.run.id)
    rows = [row for row in headline if row.trained][: _TILES - bool(rate)]
    if not rows and not rate:
        return
    columns = st.columns(len(rows) + bool(rate))
    for column, row in zip(columns, rows, strict=False):
        change = row.change[0] if row.change else None
        told_apart = row.better and row.word in ("better", "worse")
        column.metric(
            row.title, short_number(row.trained.value, row.metric) if row.trained else "–",
            None if change is None else short_number(change, row.metric),
            delta_color="off" if not told_apart else "inverse" if row.better < 0 else "normal",
            help=_interval(row), border=True,
        )  # fmt: skip
    if rate:
        interval = f"{rate.low:.1%} to {rate.high:.1%}, n = {amount(rate.votes, 'vote')}"
        columns[-1].metric("Win rate over the base", f"{rate.value:.0%}", border=True, help=interval)


def _interval(row: HeadlineRow) -> str:
    if not row.change or row.change[1] is None or row.change[2] is None:
        return "There is no interval of the difference to the base."
    low, high = (short_number(end, row.metric) for end in (row.change[1], row.change[2]))
    return f"Difference to the base: {low} to {high} (95 %), {row.word}."


def _failure(run: Run) -> None:
    if not run.failure:
        return
    if run.state is RunState.CANCELLED:
        st.info("It was stopped; the same command resumes it:")
    elif run.state is RunState.PRUNED:
        st.info("It was pruned; `naruto run` with its recipe trains it to its end:")
    else:
        st.error("It failed:")
    st.code(run.failure, language=None, wrap_lines=True)


def _scores(summary: RunSummary, headline: Sequence[HeadlineRow], findings: Sequence[Finding]) -> None:
    if findings:
        st.subheader("Risks")
        lines = [{"": "warning" if f.warning else "ok", "Finding": f.name, "Meaning": f.sentence} for f in findings]
        st.table(lines, hide_index=True, alt="Findings about this run")
    if headline:
        st.subheader("Headline metrics")
        st.table([headline_line(row) for row in headline], hide_index=True, alt="Headline metrics of this run")
        st.caption(HEADLINE_LEGEND)
    st.subheader("All scores")
    if not summary.scores:
        st.info("There are no scores yet. A run is scored at its end; `naruto runs` shows its progress.")
        return
    number = st.column_config.NumberColumn(format="%.4g")
    st.dataframe(
        [_score_line(score) for score in summary.scores], hide_index=True, placeholder="",
        alt="Every set score of this run",
        column_config={"Value": number, "Low": number, "High": number},
    )  # fmt: skip


def _score_line(score: Score) -> dict[str, object]:
    low, high = score.interval or (None, None)
    return {
        "Metric": score.metric, "Model": score.variant.value, "Value": score.value, "Low": low, "High": high,
        "n": score.n, "Measured by": score.extractor, "Version": score.version, "Reference": score.reference,
    }  # fmt: skip


def _recipe(run_id: str, summaries: Sequence[RunSummary]) -> None:
    recipe = database().runs.recipe_json(run_id)
    others = [summary.run for summary in summaries if summary.run.id != run_id]
    done = next((i for i, run in enumerate(others) if run.state is RunState.DONE), 0)
    if others:
        ids = [run.id for run in others]
        other = st.selectbox("Differences to", ids, done, key="other_run", bind="query-params")
        differences = recipe_differences([recipe, database().runs.recipe_json(other)])
        if differences:
            lines = [{"Key": key, "This run": own, other: theirs} for key, (own, theirs) in differences.items()]
            st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")
        else:
            st.text("The recipes are equal.")
    with st.expander("The whole recipe"):
        st.code(json.dumps(json.loads(recipe), indent=2), language="json")
