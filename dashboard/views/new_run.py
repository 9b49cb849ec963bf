"""Start a run from the page Runs: a recipe, a dataset, single values; its plan; then it is queued on Prefect's server.

The store decides whether this person may ask for a run.
"""

import json
import os
from concurrent.futures import Future
from typing import Any

import streamlit as st

from dashboard.naruto_command import in_background, run_naruto
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from naruto_core.domain import format_duration
from naruto_core.errors import NarutoError
from naruto_core.store.reviewers import RunRequest

_PLANNED, _QUEUED = "planned_run", "queued_run"  # in the session's state: a request, and the background's answer
_RECIPE, _OTHER = "mini", "the recipe's dataset"


def show() -> None:
    """The form, the plan of what was entered, and the button that queues it."""
    recorded = [summary.run.profile for summary in runs.runs()]
    sources = [summary.dataset_source for summary in runs.runs()]
    with st.form("new_run", border=False):
        left, right = st.columns(2)
        recipe = left.selectbox("Recipe", list(dict.fromkeys([*recorded, _RECIPE])), accept_new_options=True,
                                help="A recipe that was used, or the name of another one, for example t4.")  # fmt: skip
        dataset = right.selectbox("Dataset", list(dict.fromkeys([_OTHER, *sources])), accept_new_options=True,
                                  help="One that was used, or a folder, a hub id or world:STYLE.")  # fmt: skip
        settings = st.text_area("Changed values, one KEY=VALUE a line", max_chars=4000, height=100,
                                placeholder="training.rank=8")  # fmt: skip
        if st.form_submit_button("Show its plan"):
            _plan(recipe or "", "" if dataset in (None, _OTHER) else dataset, settings.splitlines())
    if _PLANNED in st.session_state:
        _planned()


def _plan(recipe: str, dataset: str, settings: list[str]) -> None:
    st.session_state.pop(_PLANNED, None)
    st.session_state.pop(_QUEUED, None)
    try:
        request = _request(recipe, dataset, settings)
    except NarutoError as error:
        st.error("No plan was made:")
        st.text(str(error))
        return
    st.session_state[_PLANNED] = request, in_background(run_naruto, "plan", *request.options, "--json")


def _request(recipe: str, dataset: str, settings: list[str]) -> RunRequest:
    reviewer = votes.visitor().reviewer
    return database().ratings.request_run(reviewer.id if reviewer else None, recipe, dataset, settings)


@st.fragment(run_every=2)
def _planned() -> None:
    request, future = st.session_state[_PLANNED]
    plan = _answer(future, "Planning: it takes some seconds …")
    if plan is None:
        return
    for sentence in plan_sentences(json.loads(plan)):
        st.text(sentence)
    st.text("In a terminal of the machine that trains:")
    st.code(request.command, language="shell", wrap_lines=True)
    if not os.environ.get("PREFECT_API_URL"):
        st.caption("To queue runs from here, start the dashboard with PREFECT_API_URL set to the address of Prefect.")
        return
    if _QUEUED in st.session_state:
        if (answer := _answer(st.session_state[_QUEUED], "Queueing …")) is not None:
            st.success(answer.strip())
    elif st.button("Queue this run", type="primary"):
        try:
            again = _request(request.recipe, request.dataset, list(request.settings))  # the role may have changed
        except NarutoError as error:
            st.error("Nothing was queued:")
            st.text(str(error))
            return
        st.session_state[_QUEUED] = in_background(run_naruto, "queue", *again.options, f"--by={again.by}")
        st.rerun()


def _answer(future: "Future[str]", waiting: str) -> str | None:
    """What a command printed; None while it works, and where it failed, which is shown."""
    if not future.done():
        st.text(waiting)
        return None
    try:
        return future.result()
    except NarutoError as error:
        st.error("It failed:")
        st.text(str(error))
        return None


def plan_sentences(plan: dict[str, Any]) -> list[str]:
    """Time, memory and disk of a plan of `naruto plan --json`."""
    phases = sorted(plan["phases"], key=lambda phase: -phase["seconds"])[:3]
    longest = ", ".join(f"{phase['phase']} {format_duration(phase['seconds'])}" for phase in phases)
    is_measured = all(phase["basis"] == "measured" for phase in phases)
    disk, memory = sum(plan["disk_bytes"].values()), plan["device_bytes"]
    basis = "measured on this machine" if is_measured else "estimated"
    time = f"It takes about {format_duration(plan['seconds'])} on {plan['device']} ({basis})."
    return [
        f"{time} The longest phases: {longest}.",
        f"It needs {disk / 2**30:.2f} GiB of disk and {memory / 2**30:.2f} GiB of the device's memory.",
        *plan["notes"],
    ]
