"""How far a run is that is being trained now; looked at again every few seconds while the page is open."""

import json
from datetime import UTC, datetime

import streamlit as st

from dashboard.queries.opened import the_store
from dashboard.words import duration
from naruto_core.domain import Run


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
