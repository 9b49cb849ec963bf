"""Kept comparisons: two models that were compared before are not compared again, and nothing for it is imported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_core.artifacts import Layout
from naruto_core.domain import GENERATED, Sample, Variant
from naruto_core.errors import NotRecorded
from naruto_core.report.tables import Compared
from naruto_core.settings import read_settings
from naruto_core.store.run_queries import RunQueries
from naruto_core.store.sqlite_records import open_records
from tasks.results import Key, comparison_key, features_key, read_comparisons


@dataclass(frozen=True, slots=True)
class ModelName:
    """What `[HOME//]RUN[:VARIANT]` says: where the run is recorded (None: here), which it is, and who drew."""

    home: Path | None
    run: str
    variant: Variant


def parse_model(name: str) -> ModelName:
    """The model that `name` means, the adapted one when no variant is said; NotRecorded for what says none."""
    home, elsewhere, model = name.rpartition("//")
    run, _, variant = model.partition(":")
    if variant not in ("", *GENERATED):
        raise NotRecorded(f"{name}: a model is RUN:VARIANT, with {' or '.join(GENERATED)} for VARIANT.")
    if (elsewhere and not home) or not run or "/" in run:
        raise NotRecorded(f"{name}: a run of another NARUTO_HOME is HOME//RUN, with that folder for HOME.")
    return ModelName(Path(home).expanduser() if home else None, run, Variant(variant or Variant.ADAPTED))


def model_label(records: RunQueries, model: str, run_id: str) -> str:
    """`model`, a variant of the run, with the commit of the code that made it: says in full which model it is."""
    return f"{model}, commit {records.git_commit(run_id)[:10] or 'unknown'}"


def same_pictures(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[int, int]:
    """How many pictures have the same prompt and seed, and how many of them have the same bytes."""
    left, right = ({(sample.prompt, sample.seed): sample.sha256 for sample in samples} for samples in (first, second))
    common = left.keys() & right.keys()
    return len(common), sum(left[key] == right[key] for key in common)


def kept_comparison(first: str, second: str) -> Compared | None:
    """What `compare_models` returned for these two before; None where it must compare them, or say why it cannot.

    Models of another NARUTO_HOME, and files in a bucket, are left to it.
    """
    names, settings = (parse_model(first), parse_model(second)), read_settings()
    if settings.store or any(name.home for name in names):
        return None
    layout, sides = Layout(settings.root), list[_Side]()
    with open_records(settings.database_url) as records:
        for name in names:
            side = _recorded_side(records, name)
            if side is None:
                return None
            sides.append(side)
    left, right = sides
    comparisons = read_comparisons(layout, comparison_key([(left.key, left.variant), (right.key, right.variant)]))
    if comparisons is None:
        return None
    return Compared(left.label, right.label, comparisons, *same_pictures(left.samples, right.samples))


@dataclass(frozen=True, slots=True)
class _Side:
    label: str
    variant: Variant
    samples: Sequence[Sample]
    key: Key


def _recorded_side(records: RunQueries, name: ModelName) -> _Side | None:
    """One of two models; None when it has no pictures. Raises NotRecorded for an unknown run."""
    run = records.run(name.run)
    samples, key = records.samples(run.id, name.variant), features_key(records, run)
    if not samples or key is None:
        return None
    return _Side(model_label(records, f"{run.id}:{name.variant}", run.id), name.variant, samples, key)
