"""What figures and settings say of models beside each other."""

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard import charts, pairing
from dashboard.queries.opened import the_store
from naruto_core.domain import Variant

_POINTS = 400  # of a curve: more cannot be told apart


def show_changes(names: Sequence[str], rows: Sequence[pairing.Row], rulers: Sequence[Mapping[str, str]]) -> None:
    """The first model against each other one, by the metrics of single pictures."""
    st.header("Scores")
    lines = [
        {
            "Metric": one.metric,
            names[0]: f"{one.first:.4g}",
            "against": name,
            "its value": f"{one.second:.4g}",
            "Difference (95 % interval)": _signed(one),
            "Which is": f"{one.verdict}",
            "n": f"{one.n} pictures, {one.difference.prompts} prompts",
            "Measured by": one.extractor,
        }
        for place, name in enumerate(names[1:], start=1)
        for one in pairing.changes(rows, place, rulers)
    ]
    if not lines:
        st.info("No metric was measured on both in the same way, so nothing can be said in figures.")
        return
    st.dataframe(lines, hide_index=True, alt="Differences of the metrics of single pictures")
    st.caption(
        "Paired over the same prompts and seeds, intervals over whole prompts, p adjusted by Holm. FID and the other "
        "metrics of whole sets: `naruto compare`."
    )


def _signed(one: pairing.Change) -> str:
    found = one.difference
    if found.low is None or found.high is None:
        return f"{found.value:+.4g} (no interval)"
    return f"{found.value:+.4g} ({found.low:+.4g} to {found.high:+.4g})"


def show_training(chosen: Sequence[tuple[str, Variant]]) -> None:
    """Losses of the runs over each other."""
    lines: list[charts.Row] = []
    for run_id in dict.fromkeys(run_id for run_id, _ in chosen):
        steps = the_store().steps(run_id)
        thin = steps[:: max(1, len(steps) // _POINTS)]
        lines += [{"run": run_id, "step": step.step, "loss": step.loss} for step in thin if step.loss == step.loss]
    if lines:
        with st.expander("How they were trained"):
            st.altair_chart(charts.curves(lines, "step", "loss"))


def show_recipes(chosen: Sequence[tuple[str, Variant]]) -> None:
    """Only what differs."""
    runs = list(dict.fromkeys(run_id for run_id, _ in chosen))
    with st.expander("How their recipes differ"):
        found = pairing.recipe_differences([the_store().recipe_json(run_id) for run_id in runs])
        if len(runs) < 2:
            st.text("It is one run, so there is one recipe.")
        elif not found:
            st.text("They do not differ: the same recipe.")
        else:
            lines = [{"Key": key} | dict(zip(runs, values, strict=True)) for key, values in found.items()]
            st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")
