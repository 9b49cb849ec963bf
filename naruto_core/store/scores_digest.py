"""A digest of a run's recorded scores, in a file beside its other files: `verify` notices a change in the database."""

from collections.abc import Iterable, Sequence

from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.domain import Score


def scores_digest(scores: Iterable[Score]) -> str:
    """The sha256 over what identifies a score, its value, interval and n."""
    rows = [
        (s.metric, str(s.variant), s.extractor, s.version, s.reference, s.sample_id, s.value, s.low, s.high, s.n)
        for s in scores
    ]
    return sha256_bytes(repr(sorted(rows, key=repr)).encode())


def write_scores_digest(layout: Layout, run_id: str, scores: Sequence[Score]) -> None:
    """Write the sha256 of all `scores` of a run beside its files, unless it is there. Raises StorageFailed."""
    path, line = layout.scores_digest(run_id), f"{scores_digest(scores)}\n".encode()
    if not path.is_file() or path.read_bytes() != line:
        write_atomically(path, line)
