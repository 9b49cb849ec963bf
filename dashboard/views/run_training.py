"""The training of a run: smoothed curves, steps that are not numbers, previews. A part of the page Run."""

import math
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from dashboard import charts
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.queries.thumbnails import webp
from naruto_core.domain import Run, StepRecord
from naruto_core.picture_file import SUFFIX

_POINTS = 400  # of a curve: more points are not visible
_TITLES = {
    "loss": "Training loss",
    "validation_loss": "Validation loss",
    "learning_rate": "Learning rate",
    "d": "Prodigy's step size d",
    "grad_norm": "Gradient norm",
    "prior_loss": "Prior loss",
    "memory_gib": "Memory (GiB)",
    "pictures_per_second": "Pictures per second",
    "clip_score": "CLIP score of previews",
    "copying_rank": "Nearness of previews to training pictures",
}


def show(run: Run) -> None:
    """The chosen curves with a slider for smoothing, and the previews with a slider for the step."""
    steps = database().runs.steps(run.id)
    if not steps:
        st.info("No training step is recorded for this run.")
        return
    names = [name for name in _TITLES if name in ("loss", "learning_rate") or any(name in s.gauges for s in steps)]
    left, right = st.columns([4, 1], vertical_alignment="bottom")
    default = [name for name in ("loss", "validation_loss", "d") if name in names]
    chosen = left.pills("Curves", names, selection_mode="multi", default=default, format_func=_TITLES.__getitem__,
                        key="curves", bind="query-params")  # fmt: skip
    smoothing = right.slider("Smoothing", 0.0, 0.99, 0.9, 0.01, key="smoothing", help="Weight of the steps before.",
                             bind="query-params")  # fmt: skip
    columns = st.columns(min(3, len(chosen)) or 1)
    for number, name in enumerate(chosen):
        lines = curve(run.id, steps, name, smoothing)
        with columns[number % len(columns)]:
            st.text(_TITLES[name])
            if lines:
                charts.show(charts.line_plot(lines, "step", name, runs.colours(), height=240))
            else:
                st.text("No value is a number.")
    _text(steps)
    _previews(run.id)


def curve(run_id: str, steps: Sequence[StepRecord], name: str, smoothing: float = 0.0) -> list[charts.Row]:
    """The points (run, step, `name`, raw) of a curve, thinned; values that are not numbers are left out.

    The value is the exponential moving average with the weight `smoothing`, 0 to 1, of the steps before, corrected for
    its start (Kingma & Ba 2015, section 3); `raw` is the step's own.
    """
    values = [(step.step, _value(step, name)) for step in steps]
    finite = [(number, value) for number, value in values if value is not None and math.isfinite(value)]
    points: list[charts.Row] = []
    mean = weight = 0.0
    for number, value in finite:
        mean, weight = smoothing * mean + (1 - smoothing) * value, smoothing * weight + 1 - smoothing
        points.append({"run": run_id, "step": number, name: mean / weight, "raw": value})
    return points[:: max(1, len(points) // _POINTS)]


def _value(step: StepRecord, name: str) -> float | None:
    if name == "loss":
        return step.loss
    return step.learning_rate if name == "learning_rate" else step.gauges.get(name)


def _text(steps: Sequence[StepRecord]) -> None:
    last = next((step for step in reversed(steps) if math.isfinite(step.loss)), None)
    st.text(
        f"{len(steps)} steps recorded" + (f"; the last loss is {last.loss:.4g} at step {last.step}." if last else ".")
    )
    not_numbers = [step.step for step in steps if not math.isfinite(step.loss)]
    if not_numbers:
        st.warning(f"The loss is not a number at {len(not_numbers)} steps; the first is step {not_numbers[0]}.")


def _previews(run_id: str) -> None:
    """The sheet of pictures of each preview, chosen by step; where a run has several styles, one sheet for each."""
    by_step: dict[int, list[Path]] = {}
    for sheet in sorted(runs.layout().previews(run_id).glob(f"**/step-*/sheet{SUFFIX}")):
        by_step.setdefault(int(sheet.parent.name.removeprefix("step-")), []).append(sheet)
    if not by_step:
        return
    st.subheader("Previews")
    steps = sorted(by_step)
    step = steps[-1]
    if len(steps) > 1:
        step = st.select_slider("Step", steps, step, key="preview_step", bind="query-params")
    for sheet in by_step[step]:
        st.image(webp(sheet.read_bytes(), 1024), alt=f"Pictures drawn after {step} steps, beside the base's")
