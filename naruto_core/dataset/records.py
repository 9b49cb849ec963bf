"""What every source of captioned pictures hands over: one raw record at a time, nothing checked yet."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from naruto_core.domain import Quarantined


class BrokenRecordError(Exception):
    """A record that cannot be used: `reason` is one hyphenated word, `detail` says more."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source: where it stands (rows count from 0), the picture's bytes, the caption as found."""

    source: str
    row: int
    image: bytes
    caption: object

    def quarantined(self, reason: str, detail: str) -> Quarantined:
        return Quarantined(self.source, self.row, reason, detail)


@dataclass(frozen=True, slots=True)
class Source:
    """An opened source: the name its versions are filed under, its number of records, the records.

    `records` may be called more than once and streams; what it cannot even hand over as a Record
    (a file that is missing, a line that is not JSON) comes out as Quarantined.
    """

    name: str
    total: int
    records: Callable[[], Iterator[Record | Quarantined]]
