"""One raw record to one checked picture, or to the reason why it is left out.

Reasons, one word each: empty, too-large, truncated, unreadable, not-an-image, zero-sized,
decompression-bomb, too-narrow, animated (all from `decoding`), no-caption, caption-not-text; sources
add missing-file, no-image, outside-folder and bad-metadata for what they cannot hand over.
"""

from naruto_core.artifacts import sha256_bytes
from naruto_core.dataset.decoding import decode
from naruto_core.dataset.duplicates import perceptual_hash
from naruto_core.dataset.records import BrokenRecordError, Record
from naruto_core.domain import Picture, Quarantined, Split


def check(record: Record) -> Picture | Quarantined:
    """The facts of the record's picture (split and duplicates still open), or why it is quarantined."""
    try:
        caption = _caption(record.caption)
        decoded = decode(record.image)
    except BrokenRecordError as broken:
        return record.quarantined(broken.reason, broken.detail)
    return Picture(
        sha256=sha256_bytes(record.image),
        suffix=decoded.suffix,
        width=decoded.image.width,
        height=decoded.image.height,
        caption=caption,
        split=Split.TRAIN,
        perceptual_hash=perceptual_hash(decoded.image),
    )


def _caption(found: object) -> str:
    if found is None:
        raise BrokenRecordError("no-caption", "the caption is missing")
    if not isinstance(found, str):
        raise BrokenRecordError("caption-not-text", f"the caption is of type {type(found).__name__}")
    if not found.strip():
        raise BrokenRecordError("no-caption", "the caption is blank")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise BrokenRecordError("caption-not-text", f"the caption is not valid Unicode: {error.reason}") from None
    return found
