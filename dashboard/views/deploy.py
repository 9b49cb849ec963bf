"""The page Deploy: the champion and its history, the HTTP service, and a playground.

The champion: the checks of a run, and the form by which a named person makes it the champion.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice

import streamlit as st

from dashboard.formatting import describe_decision
from dashboard.queries import runs, votes
from dashboard.queries.database import database
from dashboard.views import playground, serving
from naruto_core.domain import Run, RunState
from naruto_core.errors import NarutoError, PromotionRefused
from naruto_core.ratings import Promotion
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.queries import RunSummary

_MAX_RUNS = 10  # the newest scored ones with an adapter, in which one that can be promoted is searched
_MAX_CAMPAIGNS = 20  # the newest, in which votes on a run are searched
_ADDRESSES = {"serving": "Service", "playground": "Playground"}  # of earlier versions
_RESTORED = "restored_run"  # in the session's state: the run of the history whose checks and form are shown next


def show() -> None:
    st.title("Deploy")
    address = (st.context.url or "").rstrip("/").rpartition("/")[2]
    parts = {"Champion": show_champion, "Service": serving.show, "Playground": playground.show}
    names = list(parts)
    part = st.segmented_control(
        "Part", names, default=_ADDRESSES.get(address, names[0]), required=True, key="part",
        label_visibility="collapsed", bind="query-params",
    )  # fmt: skip
    parts[part or names[0]]()


def show_champion() -> None:
    """The champion, the checks of a run with the form that promotes it, and the history."""
    by_id = {summary.run.id: summary.run for summary in runs.runs()}
    history = database().ratings.promotions(CHAMPION)
    _champion(history)
    if not by_id:
        st.info("There is no run yet. Type `make demo` in a terminal, then reload this page.")
        return
    in_address = st.query_params.get("run", "")
    default = in_address if in_address in by_id else _default_run(runs.runs())
    restored = st.session_state.pop(_RESTORED, None)
    if restored in by_id:
        st.session_state["promoted_run"], default = restored, next(iter(by_id))
    chosen = st.selectbox("Run", list(by_id), list(by_id).index(default) if default else None, key="promoted_run")
    if chosen is None:
        st.info("No run can be promoted yet: none is done, scored and complete. Choose a run to see what it lacks.")
    else:
        _decide(by_id[chosen])
    if history:
        st.header("History")
        lines = [
            {"Run": event.run_id, "By": event.by, "Reason": event.why, "Time (UTC)": f"{event.at:%Y-%m-%d %H:%M}"}
            for event in history
        ]
        st.dataframe(lines, hide_index=True, alt="Every promotion, newest first")
        earlier = [run_id for run_id in dict.fromkeys(event.run_id for event in history[1:]) if run_id in by_id]
        _restore([run_id for run_id in earlier if run_id != history[0].run_id])


def _restore(run_ids: list[str]) -> None:
    """Let the user choose an earlier champion; its checks and the form are shown then."""
    if run_ids:
        chosen = st.selectbox("Earlier champion", run_ids, key="earlier_champion")
        if st.button("Restore this one", help="Its checks and the form are shown: say who decides, and why."):
            st.session_state[_RESTORED] = chosen
            st.rerun()


def _decide(run: Run) -> None:
    checks = run_checks(run)
    lines = [{"Question": question, "Answer": answer} for question, answer in checks.items()]
    st.table(lines, hide_index=True, alt="Checks of this run")
    if fault := runs.promotion_fault(run.id):
        st.warning("This run cannot be promoted:")
        st.text(f"{fault}.")
    else:
        _form(run.id, checks)


def _default_run(summaries: Sequence[RunSummary]) -> str | None:
    """The newest run that can be promoted."""
    adapted = database().runs.adapted_runs()
    done = (summary for summary in summaries if summary.run.state is RunState.DONE and summary.scores)
    scored = (summary.run.id for summary in done if summary.run.id in adapted)
    return next((run_id for run_id in islice(scored, _MAX_RUNS) if not runs.promotion_fault(run_id)), None)


def _champion(history: Sequence[Promotion]) -> None:
    if not history:
        st.info("No run is the champion yet.")
        return
    st.text(f"The champion is {history[0].run_id}.")
    name = _name() or st.text_input("Who decides to roll back", key="rolled_back_by", max_chars=80)
    seen = history[0].run_id  # a button of another champion, on a page that was opened earlier, does nothing
    if st.button("Roll back to the champion before", key=f"roll-back-{seen}", help="It is recorded under your name."):
        try:
            database().ratings.roll_back(CHAMPION, name, datetime.now(UTC), runs.layout(), seen=seen)
        except PromotionRefused as error:
            st.error("Nothing was changed:")
            st.text(str(error))
            return
        st.rerun()


def run_checks(run: Run) -> dict[str, str]:
    """What a person should know before promoting `run`: answer by question."""
    findings = database().runs.findings(run.id)
    warnings = [finding.name for finding in findings if finding.warning]
    imported = next((finding.sentence for finding in findings if finding.name == "imported"), "")
    scores = any(summary.scores for summary in runs.runs() if summary.run.id == run.id)
    scored = "yes, without warnings" if not warnings else f"yes, with warnings: {', '.join(warnings)}"
    return {
        "Finished?": "yes" if run.state is RunState.DONE else f"no: {run.state.value}",
        "Scored?": scored if scores else "no",
        "Rated by people?": _people(run.id),
    } | ({"Trained here?": f"no. {imported}"} if imported else {})


def _people(run_id: str) -> str:
    for campaign in votes.campaigns()[:_MAX_CAMPAIGNS]:
        if campaign.example or not any(
            name.startswith(f"{run_id}/") for name in database().ratings.models(campaign.id)
        ):
            continue
        try:
            decisions = votes.campaign_result(campaign.id).decisions
        except NarutoError as error:
            return f"{campaign.name}: {error}"
        of_run = [
            pair
            for pair in decisions
            if f"{run_id}/" in (pair.stronger[: len(run_id) + 1], pair.weaker[: len(run_id) + 1])
        ]
        return f"{campaign.name}: " + " ".join(describe_decision(pair) for pair in of_run)
    return "no"


def _form(run_id: str, checks: dict[str, str]) -> None:
    with st.form("promotion"):
        by = st.text_input("Who decides", _name(), max_chars=80)
        why = st.text_area("Reason", max_chars=2000)
        accepted = ""
        if any(finding.warning for finding in database().runs.findings(run_id)):
            accepted = st.text_input("The run has warnings: type its id to promote it anyway", max_chars=200)
        if st.form_submit_button("Make it the champion"):
            try:
                now = datetime.now(UTC)
                database().ratings.promote(
                    CHAMPION, run_id, by, why, now, checks, runs.layout(), accept_warnings=accepted
                )
            except PromotionRefused as error:
                st.error("Nothing was changed:")
                st.text(str(error))
                return
            st.rerun()


def _name() -> str:
    reviewer = votes.visitor().reviewer
    return reviewer.name if reviewer else ""
