"""The gate: what is known of a run, and one named person who says that it is the champion from now on."""

from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from dashboard.formatting import in_words
from dashboard.queries import runs, votes
from dashboard.queries.database import the_ratings, the_store
from naruto_core.artifacts import Layout
from naruto_core.domain import Run, RunState
from naruto_core.errors import NarutoError, RatingRefused
from naruto_core.ratings import Promotion
from naruto_core.settings import read_settings
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.queries import RunSummary

_ASKED = 20  # the newest campaigns are looked at


def show() -> None:
    st.title("Promote")
    by_id = {summary.run.id: summary.run for summary in runs.runs()}
    history = the_ratings().promotions(CHAMPION)
    _now(history)
    if not by_id:
        st.info("No run is recorded yet. Type `make demo` in a terminal and come back.")
        return
    usual = _usual(runs.runs())
    chosen = st.selectbox("Run", list(by_id), list(by_id).index(usual) if usual else None, key="promoted_run")
    if chosen is None:
        st.info("No run can be promoted yet: none is done, scored and whole. Choose one to see what it lacks.")
    else:
        _decide(by_id[chosen])
    if history:
        st.header("What it was before")
        lines = [
            {"Run": one.run_id, "By": one.by, "Why": one.why, "When (UTC)": f"{one.at:%Y-%m-%d %H:%M}"}
            for one in history
        ]
        st.dataframe(lines, hide_index=True, alt="Every promotion, newest first")


def _decide(run: Run) -> None:
    checks = gate(run)
    st.table(
        [{"Question": question, "Answer": answer} for question, answer in checks.items()],
        hide_index=True, alt="What is known of this run",
    )  # fmt: skip
    if fault := the_ratings().promotion_fault(run.id, _layout()):
        st.warning("This run cannot be promoted:")
        st.text(f"{fault}.")
    else:
        _form(run.id, checks)


def _usual(summaries: Sequence[RunSummary]) -> str | None:
    """The newest run that can be promoted."""
    scored = (summary.run.id for summary in summaries if summary.run.state is RunState.DONE and summary.scores)
    return next((run_id for run_id in scored if not the_ratings().promotion_fault(run_id, _layout())), None)


def _layout() -> Layout:
    return Layout(read_settings().root)


def _now(history: Sequence[Promotion]) -> None:
    if not history:
        st.info("No run is the champion yet.")
        return
    st.text(f"The champion is {history[0].run_id}.")
    name = _name() or st.text_input("Who decides to go back", key="rolled_back_by", max_chars=80)
    if st.button("Roll back to the one before", help="Recorded under your name."):
        try:
            the_ratings().roll_back(CHAMPION, name, datetime.now(UTC), _layout())
        except RatingRefused as error:
            st.error("Nothing was changed:")
            st.text(str(error))
            return
        st.rerun()


def gate(run: Run) -> dict[str, str]:
    """What a person should know before promoting `run`: question and answer."""
    warnings = [finding.name for finding in the_store().findings(run.id) if finding.warning]
    scores = any(summary.scores for summary in runs.runs() if summary.run.id == run.id)
    measured = "yes, without warnings" if not warnings else f"yes, with warnings: {', '.join(warnings)}"
    return {
        "Finished?": "yes" if run.state is RunState.DONE else f"no: {run.state.value}",
        "Scored?": measured if scores else "no",
        "People asked?": _people(run.id),
    }


def _people(run_id: str) -> str:
    for campaign in votes.campaigns()[:_ASKED]:
        if campaign.example or not any(name.startswith(f"{run_id}/") for name in the_ratings().models(campaign.id)):
            continue
        try:
            found = votes.campaign_result(campaign.id).decisions
        except NarutoError as error:
            return f"{campaign.name}: {error}"
        ours = [one for one in found if any(name.startswith(f"{run_id}/") for name in (one.stronger, one.weaker))]
        return f"{campaign.name}: " + " ".join(in_words(one) for one in ours)
    return "no"


def _form(run_id: str, checks: dict[str, str]) -> None:
    with st.form("promotion"):
        by = st.text_input("Who decides", _name(), max_chars=80)
        why = st.text_area("Why", max_chars=2000)
        accepted = ""
        if any(finding.warning for finding in the_store().findings(run_id)):
            accepted = st.text_input("It has warnings: type the run's id to promote it all the same", max_chars=200)
        if st.form_submit_button("Make it the champion"):
            try:
                now = datetime.now(UTC)
                the_ratings().promote(CHAMPION, run_id, by, why, now, checks, _layout(), accept_warnings=accepted)
            except RatingRefused as error:
                st.error("Nothing was changed:")
                st.text(str(error))
                return
            st.rerun()


def _name() -> str:
    reviewer = votes.visitor().reviewer
    return reviewer.name if reviewer else ""
