"""The page Run: one run in any state, also a failed one: failure, findings, training curve, recipe, plan."""

import json
from collections.abc import Sequence
from urllib.parse import urlencode

import streamlit as st

from dashboard import charts, model_comparison
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.views.runs import show_plans
from naruto_core.domain import RunState, StepRecord, format_duration
from naruto_core.store.queries import RunSummary

_POINTS = 400  # of a curve: more points are not visible


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
    run_id = st.selectbox("Run", ids, ids.index(in_address) if in_address in by_id else 0, key="shown_run")
    st.query_params["id"] = run_id
    _summary(by_id[run_id])
    _findings(run_id)
    _training(run_id)
    show_plans([run_id])
    _recipe(run_id, list(by_id.values()))


def _summary(summary: RunSummary) -> None:
    run = summary.run
    took = f" after {format_duration(summary.seconds)}" if summary.seconds is not None else ""
    st.text(
        f"{run.id}: {run.state.value}{took}. Started {run.started_at:%Y-%m-%d %H:%M} UTC on {summary.dataset_source}."
    )
    if run.failure:
        if run.state is RunState.CANCELLED:
            st.info("It was stopped; the same command resumes it:")
        else:
            st.error("It failed:")
        st.code(run.failure, language=None, wrap_lines=True)
    notes = [f"{note.at:%Y-%m-%d}: {note.text}" for note in database().runs.notes(run.id)]
    for line in ([f"Tags: {' '.join(summary.tags)}"] if summary.tags else []) + notes:
        st.text(line)
    if runs.samples(run.id):
        st.link_button("Pictures", f"pictures-of-a-run?{urlencode({'run': run.id})}")


def _findings(run_id: str) -> None:
    findings = database().runs.findings(run_id)
    if findings:
        st.header("Findings")
        lines = [{"": "warning" if f.warning else "", "Finding": f.name, "Meaning": f.sentence} for f in findings]
        st.table(lines, hide_index=True, alt="Findings about this run")


def _training(run_id: str) -> None:
    st.header("Training")
    steps = database().runs.steps(run_id)
    if not steps:
        st.info("No training step is recorded for this run.")
        return
    not_numbers = [step.step for step in steps if step.loss != step.loss]
    lines = curve(run_id, steps)
    if lines:
        st.altair_chart(charts.line_plot(lines, "step", "loss"))
    last = next((step for step in reversed(steps) if step.loss == step.loss), None)
    st.text(
        f"{len(steps)} steps recorded" + (f"; the last loss is {last.loss:.4g} at step {last.step}." if last else ".")
    )
    if not_numbers:
        st.warning(f"The loss is not a number at {len(not_numbers)} steps; the first is step {not_numbers[0]}.")


def curve(run_id: str, steps: Sequence[StepRecord]) -> list[charts.Row]:
    """The points of a run's loss curve, thinned; losses that are not numbers are left out."""
    thinned = steps[:: max(1, len(steps) // _POINTS)]
    return [{"run": run_id, "step": step.step, "loss": step.loss} for step in thinned if step.loss == step.loss]


def _recipe(run_id: str, summaries: Sequence[RunSummary]) -> None:
    st.header("Recipe")
    recipe = database().runs.recipe_json(run_id)
    others = [summary.run for summary in summaries if summary.run.id != run_id]
    done = next((i for i, run in enumerate(others) if run.state is RunState.DONE), 0)
    if others:
        ids = [run.id for run in others]
        other = st.selectbox("Differences to", ids, done, key="other_run")
        differences = model_comparison.recipe_differences([recipe, database().runs.recipe_json(other)])
        if differences:
            lines = [{"Key": key, "This run": own, other: theirs} for key, (own, theirs) in differences.items()]
            st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")
        else:
            st.text("The recipes are equal.")
    with st.expander("The whole recipe"):
        st.code(json.dumps(json.loads(recipe), indent=2), language="json")
