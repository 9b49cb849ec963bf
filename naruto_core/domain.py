"""The domain model: frozen dataclasses that every package uses. Standard library only."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Split(StrEnum):
    """The purpose of a picture of a dataset version."""

    TRAIN = "train"
    REFERENCE = "reference"  # held out of training: the reference set of set scores


class Variant(StrEnum):
    """The model that drew a sample."""

    BASE = "base"  # the base model, untouched
    ADAPTED = "adapted"  # the base model with the adapter loaded beside its weights
    FUSED = "fused"  # the adapter merged into the weights
    REAL = "real"  # real pictures outside the reference, as a perfect model would draw them


def distinct_variants(variants: Collection[Variant]) -> list[Variant]:
    """`variants` in their usual order, without the fused model where the adapted one is there.

    Both are the same model, but for rounding; the run's check of the fused model says so, or warns.
    """
    both = Variant.ADAPTED in variants
    return [variant for variant in Variant if variant in variants and not (both and variant is Variant.FUSED)]


GENERATED = (Variant.BASE, Variant.ADAPTED, Variant.FUSED)  # the variants that have samples


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"  # somebody stopped it; the same command resumes it
    PRUNED = "pruned"  # a sweep ended its training early, because its previews scored low
    DELETED = "deleted"  # only its name and its recipe are left


@dataclass(frozen=True, slots=True)
class Picture:
    """One captioned picture of a dataset version.

    `sha256` is of the original bytes and names the stored file; `caption` is unchanged from the
    source, "" where the source has no captions; `duplicate_of` is the sha256 of an earlier picture with equal
    bytes or nearly the same content ("" for none); `perceptual_hash` is 16 hex digits; an epoch of training
    shows the picture `repeats` times.
    """

    sha256: str
    suffix: str
    width: int
    height: int
    caption: str
    split: Split
    perceptual_hash: str
    duplicate_of: str = ""
    repeats: int = 1


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """A source record that was left out: its source and row (from 0), the reason as one word, and details."""

    source: str
    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A checked, content-hashed set of captioned pictures.

    `id` is derived from the pictures' bytes, captions and splits only: the same content is the
    same version whatever its order or source. `delta_version` is the version of the Delta table
    `table` (relative to the data root) that holds its rows.
    """

    id: str
    source: str
    table: str
    delta_version: int
    n_train: int
    n_reference: int
    n_quarantined: int
    n_duplicates: int

    @property
    def n_pictures(self) -> int:
        """The number of pictures, training and reference."""
        return self.n_train + self.n_reference


@dataclass(frozen=True, slots=True)
class Prompt:
    """One entry of a suite. `content` is the part of `text` that describes what is shown, without style."""

    slug: str
    text: str
    content: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptSuite:
    """A versioned list of prompts, and the seeds that each is drawn with. Never edited: a change is a new version."""

    name: str
    fingerprint: str
    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One execution of a recipe on a dataset version, e.g. `2026-11-23-mini-3f9c`."""

    id: str
    profile: str
    fingerprint: str
    dataset_id: str
    state: RunState
    started_at: datetime
    finished_at: datetime | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class RunLease:
    """The work of one process on a run, from `began_at` to `released_at` (None: it goes on).

    `owner` identifies the process, `host` and `process` name it for people; it computes with `threads` CPU threads
    and the vector instructions `cpu` ("" in leases of earlier versions).
    `waited_seconds` it waited for its device. `stop_requested_by` is who asked it to stop, "" for nobody.
    """

    id: int
    run_id: str
    owner: str
    host: str
    process: int
    threads: int
    cpu: str
    began_at: datetime
    heartbeat_at: datetime
    released_at: datetime | None
    waited_seconds: float
    stop_requested_by: str

    def seconds(self, end: datetime) -> float:
        """The seconds of work until `end`, without waiting."""
        until = min(self.released_at or self.heartbeat_at, end)
        return max((until - self.began_at).total_seconds() - self.waited_seconds, 0.0)


@dataclass(frozen=True, slots=True)
class RunNote:
    """What somebody wrote on a run."""

    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Adapter:
    """One file of a trained adapter: LoRA weights, or embeddings of new tokens.

    `path` is relative to the data root; `style` is the adapter's style where each style has its own, else "". Of an
    imported adapter, `rank` is the largest, and `steps` 0: unknown.
    """

    run_id: str
    path: str
    sha256: str
    rank: int
    steps: int
    style: str = ""


@dataclass(frozen=True, slots=True)
class FusedModel:
    """Base and adapter in one set of weights: the folder `path`, and a sha256 over its weight files."""

    run_id: str
    path: str
    sha256: str
    scale: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One generated picture: run x variant x prompt x seed. `id` is opaque and names the file."""

    id: str
    run_id: str
    variant: Variant
    prompt: str  # the prompt's slug
    seed: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Score:
    """The value of a metric with its measurement: extractor, n, and version.

    A *set score* measures all samples of one variant (`sample_id` is None) and, where `reference` is
    not empty, compares them with that reference set; a *sample score* measures one picture. `low`
    and `high` bound a 95 % interval (equal to `value` for a single picture, infinite where it is unknown); `method`
    is how the interval was computed. Scores with different `extractor` or `reference` are not comparable. `details` has
    what else is needed to compute the score again (suite, seeds, libraries), and for a set score of REAL how well the
    metric discriminates.
    """

    run_id: str
    metric: str
    variant: Variant
    value: float
    low: float
    high: float
    n: int
    extractor: str
    version: str
    reference: str = ""
    method: str = ""
    sample_id: str | None = None
    details: dict[str, str | float] = field(default_factory=dict[str, str | float])

    @property
    def interval(self) -> tuple[float, float] | None:
        """`low` and `high`; None where there are too few prompts or pictures for an interval."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None


@dataclass(frozen=True, slots=True, order=True)
class Measurement:
    """How a score was measured; only scores of the same measurement are comparable."""

    metric: str
    extractor: str
    version: str
    reference: str


def measurement_of(score: Score) -> Measurement:
    """The measurement of a score."""
    return Measurement(score.metric, score.extractor, score.version, score.reference)


NOT_MEASURED = "not measured"  # the name of the finding that says which metrics have no value, and why


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem that may make a run's scores misleading; `name` is e.g. "overfitting".

    `warning` is False for a risk that was checked and did not occur. `figures` are the numbers behind `sentence`.
    """

    run_id: str
    name: str
    warning: bool
    sentence: str
    figures: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The numbers of one optimizer step (from 0); `gauges` are further metrics, e.g. {"d": 0.003, "grad_norm": 0.1}."""

    step: int
    loss: float
    learning_rate: float
    gauges: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """One phase of a run, as planned: `units` of the kind `unit` on `device`, with `flops` each, in `seconds` in all.

    `basis` says where the seconds come from: "measured here", "published" or "estimated"; `memory` is the need on the
    device in bytes, 0 where it is not known.
    """

    phase: str
    units: int
    unit: str
    flops: float
    seconds: float
    basis: str
    device: str
    precision: str
    memory: int = 0


@dataclass(frozen=True, slots=True)
class PhaseRecord:
    """A phase of a run: the plan, and what it took so far; `measured_units` is 0 until it was carried out.

    `processes` is the largest number of processes that worked on it at once: workers of a cluster, or of a training.
    """

    planned: PlannedPhase
    measured_units: int = 0
    measured_seconds: float = 0.0
    processes: int = 1


@dataclass(frozen=True, slots=True)
class PhaseSpeed:
    """What a unit of a phase took on a device: the phase's seconds over its units, loading of models included."""

    phase: str
    device: str
    precision: str
    flops: float
    units: int
    seconds: float

    @property
    def seconds_per_unit(self) -> float:
        """Seconds of one unit."""
        return self.seconds / self.units


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a long task: `done` of `total` in `unit`s, seconds since its start, estimated seconds left.

    `note` is a short text for people ("loss 0.081"). Core functions pass these to a callback and
    do not depend on who shows them.
    """

    stage: str
    done: int
    total: int
    unit: str
    seconds: float
    seconds_left: float | None
    note: str = ""


def format_duration(seconds: float) -> str:
    """Seconds for people: "48 s", "4 min 05 s", "2 h 10 min"; never negative."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
