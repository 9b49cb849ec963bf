"""A run, a sample and a score for the tests of the store."""

from datetime import UTC, datetime

from naruto_core.domain import Run, Sample, Score, Variant
from naruto_core.store.writes import Store

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def open_run(store: Store, dataset_id: str, fingerprint: str = "f" * 64, now: datetime = NOON) -> Run:
    return store.open_run(
        profile="mini",
        recipe_json='{"profile": "mini"}',
        fingerprint=fingerprint,
        dataset_id=dataset_id,
        git_commit="abc123",
        now=now,
    )


def sample(run_id: str, number: int, variant: Variant = Variant.BASE, sha256: str = "0" * 64) -> Sample:
    name = f"{variant}-{number}"
    return Sample(f"{run_id}-{name}", run_id, variant, "kage", number, f"runs/{run_id}/samples/{name}.png", sha256)


def score(run_id: str, value: float, *, sample_id: str | None = None, extractor: str = "judge") -> Score:
    reference = "" if sample_id else "d:reference"
    metric = "clip" if sample_id else "fid"
    return Score(
        run_id,
        metric,
        Variant.BASE,
        value,
        value - 1,
        value + 1,
        40,
        extractor,
        "1.9",
        reference,
        "bootstrap",
        sample_id,
    )
