"""What is running: a bar, the step, the time left, a sparkline of the loss and a button that stops it."""

import json
from datetime import UTC, datetime

import streamlit as st

from dashboard import charts
from dashboard.navigation import short_name
from dashboard.queries import votes
from dashboard.queries.database import database
from naruto_core.domain import Run, StepRecord, format_duration

_SHOWN = 3  # runs
_POINTS = 60  # of a sparkline


@st.fragment(run_every=3)
def show_progress(runs: list[Run]) -> None:
    """The progress of each run, newest first; of more than a few, how many more there are."""
    for run in runs[:_SHOWN]:
        _progress(run)
    if len(runs) > _SHOWN:
        st.text(f"{len(runs) - _SHOWN} more are running.")


def _progress(run: Run) -> None:
    step, total = database().runs.last_step(run.id), _steps(run.id)
    left, right = st.columns([3, 1], vertical_alignment="top")
    with left:
        if not step or not total:
            st.progress(0.0, text=f"{short_name(run.id)}: not training (before it, or generating and scoring)")
        else:
            seconds = (datetime.now(UTC) - run.started_at).total_seconds()
            time_left = f"about {format_duration(seconds / step * (total - step))} of training left"
            if database().runs.live_lease(run.id, datetime.now(UTC)) is None:
                time_left = "but no process works on it"
            text = f"{short_name(run.id)}: step {step} of {total}, {time_left if step < total else 'trained'}"
            st.progress(min(1.0, step / total), text=text)
        if losses := _losses(database().runs.steps(run.id)):
            charts.show(charts.sparkline(losses))
            st.caption(f"Loss {losses[-1]:.4f}")
    with right, st.popover("Stop"):
        st.text(f"{run.id} stops at its next safe point; the same command resumes it.")
        if st.button("Stop it", key=f"stop-{run.id}"):
            lease = database().runs.request_stop(run.id, _person(), datetime.now(UTC))
            st.text("It stops, usually in seconds." if lease else "No process works on it: it is marked as cancelled.")


def _losses(steps: list[StepRecord]) -> list[float]:
    """Means over equal parts of the steps, without losses that are not numbers."""
    losses = [step.loss for step in steps if step.loss == step.loss]
    size = max(1, len(losses) // _POINTS)
    parts = (losses[start : start + size] for start in range(0, len(losses), size))
    return [sum(part) / len(part) for part in parts]


def _steps(run_id: str) -> int:
    """The number of training steps in the recipe; 0 for an old recipe without it, and for an import."""
    training = json.loads(database().runs.recipe_json(run_id)).get("training", {})
    return int(training.get("max_train_steps", 0))


def _person() -> str:
    reviewer = votes.visitor().reviewer
    return f"{reviewer.name} on the dashboard" if reviewer else "somebody on the dashboard"
