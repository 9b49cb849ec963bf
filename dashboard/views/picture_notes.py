"""What reviewers wrote about pictures, and where they marked defects. A part of the page Campaigns."""

from collections import Counter

import streamlit as st

from dashboard import charts
from dashboard.navigation import short_name
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from naruto_core.ratings import Campaign, RecordedNote

_PICTURES = 6  # the most marked ones


def show(campaign: Campaign) -> None:
    """Defects by model, where they lie, the most marked pictures, and all notes."""
    notes = database().ratings.picture_notes(campaign.id)
    if not notes:
        st.info("Nobody has written a note or marked a defect yet.")
        return
    marked = [note for note in notes if note.x is not None and note.y is not None]
    if marked:
        _defects(marked)
    names = {reviewer.id: reviewer.name for reviewer in database().ratings.reviewers()}
    st.subheader("Notes")
    lines = [
        {
            "Note": note.text,
            "Defect": note.defect.value if note.defect else "",
            "Model": short_name(note.contender),
            "Prompt": note.prompt,
            "Reviewer": names.get(note.reviewer_id, "?"),
            "Time (UTC)": f"{note.at:%Y-%m-%d %H:%M}",
        }
        for note in notes
    ]
    st.dataframe(lines, hide_index=True, alt="Notes of reviewers, newest first")


def _defects(marked: list[RecordedNote]) -> None:
    st.subheader("Marked defects")
    left, right = st.columns(2)
    counts = Counter((short_name(note.contender), note.defect.value if note.defect else "other") for note in marked)
    left.dataframe(
        [{"Model": model, "Defect": defect, "Marks": n} for (model, defect), n in counts.most_common()],
        hide_index=True, alt="Marks by model and defect",
    )  # fmt: skip
    points: list[charts.Row] = [
        {"x": note.x, "y": note.y, "name": note.defect.value if note.defect else "other"} for note in marked
    ]
    charts.show(charts.heat_map(points), right, width="content")
    digests = database().runs.digests([note.sample for note in marked])
    by_sample = Counter(note.sample for note in marked)
    columns = st.columns(_PICTURES)
    for column, (sample, n) in zip(columns, by_sample.most_common(_PICTURES), strict=False):
        if path := thumbnail(digests.get(sample, ""), "256") if sample in digests else None:
            text = next(note.prompt for note in marked if note.sample == sample)
            column.image(path.read_bytes(), alt=text, width="stretch")
            column.text(f"{n} marks")
