"""From checked pictures to the rows of a version: their order, doubles flagged, a reference held out.

Nothing here depends on the order in which pictures arrived, so that one content is one version.
"""

import heapq
from dataclasses import replace
from itertools import groupby

from naruto_core.artifacts import sha256_bytes
from naruto_core.dataset.duplicates import find_doubles
from naruto_core.domain import Picture, Split
from naruto_core.errors import DatasetUnusable


def arrange(pictures: list[Picture], hold_out: int) -> list[Picture]:
    """The rows of a version: sorted, records with the same bytes and caption once, doubles flagged,
    `hold_out` of them the reference.

    Held out are the pictures with the smallest sha256 of "<their sha256>reference". Those that have
    a double stay in training, so that the reference shows nothing that was trained on. Raises
    DatasetUnusable when `hold_out` leaves nothing to train on.
    """
    rows = [next(same) for _, same in groupby(sorted(pictures, key=_content), key=_content)]
    doubles = find_doubles([row.perceptual_hash for row in rows])
    alone = [i for i in range(len(rows)) if not doubles.any[i]]
    if hold_out >= len(rows):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, but only {len(rows)} pictures were kept: hold out fewer or bring more."
        )
    if hold_out > len(alone):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, but only {len(alone)} of {len(rows)} pictures have no duplicate: "
            "hold out fewer."
        )

    def lot(i: int) -> str:
        return sha256_bytes(f"{rows[i].sha256}reference".encode())

    reference = set(heapq.nsmallest(hold_out, alone, key=lot))
    for i, first in enumerate(doubles.earliest.tolist()):
        if first >= 0:
            rows[i] = replace(rows[i], duplicate_of=rows[first].sha256)
        elif i in reference:
            rows[i] = replace(rows[i], split=Split.REFERENCE)
    return rows


def _content(picture: Picture) -> tuple[str, str]:
    return picture.sha256, picture.caption
