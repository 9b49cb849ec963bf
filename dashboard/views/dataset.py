"""Dataset versions: what each holds, what was left out and why, what changed, and what is wrong with its captions."""

from collections import Counter
from collections.abc import Sequence
from math import ceil

import streamlit as st

from dashboard.queries import datasets
from dashboard.queries.database import the_store
from naruto_core.domain import DatasetVersion, Picture

_ON_A_PAGE = 12


def show() -> None:
    st.title("Dataset")
    known = {one.id: one for one in datasets.versions()}
    if not known:
        st.info("No dataset is recorded yet. Type `naruto ingest ./my-pictures` or `make demo` in a terminal.")
        return
    st.dataframe([_line(one) for one in known.values()], hide_index=True, alt="Every dataset version")
    chosen = known[st.selectbox("Version", list(known), key="version")]
    _quarantine(chosen)
    pictures = datasets.pictures(chosen)
    _changes([one for one in known.values() if one.id != chosen.id], pictures)
    _captions(chosen)
    _doubles(pictures)
    _browse(pictures)


def _line(one: DatasetVersion) -> dict[str, str | int]:
    return {
        "Version": one.id,
        "Source": one.source,
        "To learn from": one.n_train,
        "Held out": one.n_reference,
        "QuarantinedRecord": one.n_quarantined,
        "Near-duplicates": one.n_duplicates,
    }


def _quarantine(version: DatasetVersion) -> None:
    st.header("Left out")
    rows = the_store().quarantined(version.id)
    if not rows:
        st.text("Nothing was left out.")
        return
    counts = Counter(row.reason for row in rows)
    st.text("; ".join(f"{reason}: {n}" for reason, n in counts.most_common()))
    lines = [{"Where": row.source, "Row": row.row, "Why": row.reason, "Detail": row.detail} for row in rows]
    st.dataframe(lines, hide_index=True, alt="Records that were left out, with the reason")


def _changes(others: list[DatasetVersion], pictures: Sequence[Picture]) -> None:
    if not others:
        return
    st.header("What changed")
    known = {one.id: one for one in others}
    before = st.selectbox("Against", ["no other version", *known], key="before")
    if before not in known:
        return
    old = {one.sha256: one.caption for one in datasets.pictures(known[before])}
    new = {one.sha256: one.caption for one in pictures}
    rewritten = [sha for sha in new if sha in old and old[sha] != new[sha]]
    st.text(
        f"{len(new.keys() - old.keys())} pictures are new, {len(old.keys() - new.keys())} are gone, "
        f"{len(rewritten)} have another caption."
    )
    if rewritten:
        lines = [{"Before": old[sha], "Now": new[sha]} for sha in rewritten]
        st.dataframe(lines, hide_index=True, alt="Captions that were written anew")


def _captions(version: DatasetVersion) -> None:
    st.header("Captions")
    found = datasets.caption_findings(version)
    if not found:
        st.text("Nothing in the words of the captions looks wrong.")
    else:
        lines = [{"What": one.kind.value, "Caption": one.caption, "Why": one.detail} for one in found]
        st.dataframe(lines, hide_index=True, alt="Captions that look wrong")
    st.text(f"To hold captions against their pictures: naruto captions {version.id}")


def _doubles(pictures: Sequence[Picture]) -> None:
    by_hash = {one.sha256: one for one in pictures}
    pairs = [(one, by_hash[one.duplicate_of]) for one in pictures if one.duplicate_of in by_hash]
    if not pairs:
        return
    st.header("Near-duplicates")
    st.text(f"{len(pairs)} pictures look like an earlier one; both stay on the same side of the split.")
    for one, other in pairs[:4]:
        left, right = st.columns(2)
        for column, picture in ((left, other), (right, one)):
            with column:
                _picture(picture)


def _browse(pictures: Sequence[Picture]) -> None:
    st.header("Pictures")
    words = st.text_input("Words in the caption", key="words", max_chars=200).lower().split()
    found = [one for one in pictures if all(word in one.caption.lower() for word in words)]
    if not found:
        st.info("No caption has all of these words.")
        return
    st.text(f"{len(found)} of {len(pictures)} pictures")
    pages = ceil(len(found) / _ON_A_PAGE)
    page = st.pagination(pages, key="pictures") if pages > 1 else 1
    shown = found[(page - 1) * _ON_A_PAGE : page * _ON_A_PAGE]
    for start in range(0, len(shown), 4):
        for column, picture in zip(st.columns(4), shown[start : start + 4], strict=False):
            with column:
                _picture(picture)


def _picture(picture: Picture) -> None:
    data = datasets.thumbnail(picture)
    if data is None:
        st.warning("This picture is missing or was changed: ingest its source again.")
    else:
        st.image(data, width="stretch", alt=picture.caption)
    st.text(picture.caption[:200])
