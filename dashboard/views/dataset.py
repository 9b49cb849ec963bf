"""The page Dataset: versions, quarantined records, changes between versions, findings about captions, duplicates."""

from collections import Counter
from collections.abc import Sequence
from math import ceil

import streamlit as st

from dashboard.queries import datasets
from dashboard.queries.database import database
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import NarutoError

_PER_PAGE = 12


def show() -> None:
    st.title("Dataset")
    versions = {version.id: version for version in datasets.versions()}
    if not versions:
        st.info("There is no dataset yet. Type `naruto ingest ./my-pictures` or `make demo` in a terminal.")
        return
    st.dataframe([_line(version) for version in versions.values()], hide_index=True, alt="Every dataset version")
    version = versions[st.selectbox("Version", list(versions), key="version", bind="query-params")]
    _quarantine(version)
    try:
        pictures = datasets.pictures(version)
        _changes([other for other in versions.values() if other.id != version.id], pictures)
    except NarutoError as error:  # a table is gone or damaged, or the bucket is away
        st.error("The pictures of this version cannot be read:")
        st.text(str(error))
        return
    _captions(version)
    _duplicates(pictures)
    _browse(pictures)


def _line(version: DatasetVersion) -> dict[str, str | int]:
    return {
        "Version": version.id,
        "Source": version.source,
        "Training": version.n_train,
        "Held out": version.n_reference,
        "Quarantined": version.n_quarantined,
        "Near-duplicates": version.n_duplicates,
    }


def _quarantine(version: DatasetVersion) -> None:
    st.header("Quarantined")
    rows = database().runs.quarantined(version.id)
    if not rows:
        st.text("No record was left out.")
        return
    counts = Counter(row.reason for row in rows)
    st.text("; ".join(f"{reason}: {n}" for reason, n in counts.most_common()))
    lines = [{"Source": row.source, "Row": row.row, "Reason": row.reason, "Detail": row.detail} for row in rows]
    st.dataframe(lines, hide_index=True, alt="Records that were left out, with the reason")


def _changes(versions: list[DatasetVersion], pictures: Sequence[Picture]) -> None:
    if not versions:
        return
    st.header("Changes")
    by_id = {version.id: version for version in versions}
    before = st.selectbox("Compared with", ["no other version", *by_id], key="before", bind="query-params")
    if before not in by_id:
        return
    old = {picture.sha256: picture.caption for picture in datasets.pictures(by_id[before])}
    new = {picture.sha256: picture.caption for picture in pictures}
    rewritten = [digest for digest in new if digest in old and old[digest] != new[digest]]
    st.text(
        f"{len(new.keys() - old.keys())} pictures are new, {len(old.keys() - new.keys())} were removed, "
        f"{len(rewritten)} have another caption."
    )
    if rewritten:
        lines = [{"Before": old[digest], "Now": new[digest]} for digest in rewritten]
        st.dataframe(lines, hide_index=True, alt="Captions that changed")


def _captions(version: DatasetVersion) -> None:
    st.header("Captions")
    findings = datasets.caption_findings(version)
    if not findings:
        st.text("No problem was found in the text of the captions.")
    else:
        lines = [{"Problem": item.kind.value, "Caption": item.caption, "Detail": item.detail} for item in findings]
        st.dataframe(lines, hide_index=True, alt="Captions with a problem")
    st.text(f"To compare captions with their pictures: naruto captions {version.id}")


def _duplicates(pictures: Sequence[Picture]) -> None:
    by_hash = {picture.sha256: picture for picture in pictures}
    pairs = [(by_hash[later.duplicate_of], later) for later in pictures if later.duplicate_of in by_hash]
    if not pairs:
        return
    st.header("Near-duplicates")
    st.text(f"{len(pairs)} pictures look like an earlier picture; both stay on the same side of the split.")
    for pair in pairs[:4]:
        for column, picture in zip(st.columns(2), pair, strict=True):
            with column:
                _picture(picture)


def _browse(pictures: Sequence[Picture]) -> None:
    st.header("Pictures")
    typed = st.text_input("Words in the caption", key="words", max_chars=200, bind="query-params")
    words = typed.lower().split()
    matches = [picture for picture in pictures if all(word in picture.caption.lower() for word in words)]
    if not matches:
        st.info("No caption has all of these words.")
        return
    st.text(f"{len(matches)} of {len(pictures)} pictures")
    pages = ceil(len(matches) / _PER_PAGE)
    page = st.pagination(pages, key="pictures") if pages > 1 else 1
    on_page = matches[(page - 1) * _PER_PAGE : page * _PER_PAGE]
    for start in range(0, len(on_page), 4):
        for column, picture in zip(st.columns(4), on_page[start : start + 4], strict=False):
            with column:
                _picture(picture)


def _picture(picture: Picture) -> None:
    data = datasets.thumbnail(picture)
    if data is None:
        st.warning("This picture is missing or was changed: ingest its source again.")
    else:
        st.image(data, width="stretch", alt=picture.caption)
    st.text(picture.caption[:200])
