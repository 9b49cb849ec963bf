"""Change the tags and notes of runs: favourites and archived runs are tags too."""

from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from dashboard.queries import runs
from dashboard.queries.database import database
from naruto_core.errors import NarutoError
from naruto_core.store.queries import RunSummary


def change_labels(summaries: Sequence[RunSummary]) -> None:
    """Buttons and fields that change the tags of all `summaries`, and add a note to each.

    A button that takes a tag away has another key than the one that adds it: on a page that was opened earlier, a click
    on "Archive" would else restore what somebody else has archived meanwhile.
    """
    with st.container(horizontal=True):
        _toggle(summaries, runs.FAVOURITE, "Favourite", "No favourite")
        _toggle(summaries, runs.ARCHIVED, "Archive", "Restore from the archive")
    left, middle, right = st.columns([2, 4, 1], vertical_alignment="bottom")
    tag = left.text_input("Tag", key="new_tag", max_chars=40, help="Characters a-z, 0-9, '.', '_' and '-'.")
    note = middle.text_input("Note", key="new_note", max_chars=2000)
    if right.button("Add", key="add_labels") and (tag.strip() or note.strip()):
        try:
            for summary in summaries:
                if tag.strip():
                    database().runs.change_tags(summary.run.id, [tag.strip()], [])
                if note.strip():
                    database().runs.add_note(summary.run.id, note, datetime.now(UTC))
        except NarutoError as error:
            st.error("Not added:")
            st.text(str(error))
            return
        st.rerun()
    existing = sorted({tag for summary in summaries for tag in summary.tags} - {runs.FAVOURITE, runs.ARCHIVED})
    if existing:
        removed = st.pills("Remove a tag", existing, key="removed_tag")
        if removed and st.button(f"Remove {removed}", key="remove_tag"):
            for summary in summaries:
                if removed in summary.tags:
                    database().runs.change_tags(summary.run.id, [], [removed])
            st.rerun()


def _toggle(summaries: Sequence[RunSummary], tag: str, add: str, remove: str) -> None:
    without = [summary.run.id for summary in summaries if tag not in summary.tags]
    if st.button(add if without else remove, key=f"{'add' if without else 'remove'}-{tag}"):
        for run_id in without or [summary.run.id for summary in summaries]:
            database().runs.change_tags(run_id, *(([tag], []) if without else ([], [tag])))
        st.rerun()
