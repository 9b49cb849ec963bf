"""The nouns. Frozen, standard library only; every other room speaks in these."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class Split(StrEnum):
    """What a picture of a dataset version is for."""

    TRAIN = "train"
    REFERENCE = "reference"  # held out of training: what set scores compare with


class Variant(StrEnum):
    """Which model drew a sample."""

    BASE = "base"  # the base model, untouched
    ADAPTED = "adapted"  # the base model with the adapter loaded beside its weights
    FUSED = "fused"  # the adapter merged into the weights
    REAL = "real"  # no model: real pictures outside the reference, as if a perfect one had drawn them


DRAWN = (Variant.BASE, Variant.ADAPTED, Variant.FUSED)  # those that samples are of


class RunState(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Picture:
    """One captioned picture of a dataset version.

    `sha256` is of the original bytes and names the stored file; `caption` is verbatim from the
    source; `duplicate_of` is the sha256 of an earlier picture that has the same bytes or nearly the
    same look ("" when there is none); `perceptual_hash` is 16 hex digits.
    """

    sha256: str
    suffix: str
    width: int
    height: int
    caption: str
    split: Split
    perceptual_hash: str
    duplicate_of: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One record that was left out: where it stands and why, in words."""

    source: str
    row: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A checked, content-hashed set of captioned pictures.

    `id` is derived from the pictures' bytes, captions and splits alone: the same content is the
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
    def n_kept(self) -> int:
        return self.n_train + self.n_reference


@dataclass(frozen=True, slots=True)
class Prompt:
    """One entry of a suite. `content` is the part of `text` that says what is shown, without style."""

    slug: str
    text: str
    content: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PromptSuite:
    """A versioned list of prompts and the seeds each is drawn with; never edited, only succeeded."""

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
class Adapter:
    """One file of what was trained: LoRA weights, or embeddings of new tokens.

    `path` is relative to the data root; `style` is the one it was trained for where each has its own.
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
    """One picture: run x variant x prompt x seed. `id` is opaque and names the file."""

    id: str
    run_id: str
    variant: Variant
    prompt: str  # the prompt's slug
    seed: int
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its ruler.

    A *set score* judges all samples of one variant (`sample_id` is None) and, where `reference` is
    not empty, compares them with that reference set; a *sample score* judges one picture. `low`
    and `high` bound a 95 % interval (equal to `value` for a single picture, infinite where it is unknown); `method`
    says how the interval was made. Scores with different `extractor` or `reference` are never comparable. `details` is
    what else is needed to compute it again (suite, seeds, libraries), and of a REAL set score how well the metric
    discriminates.
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
        """`low` and `high`; None where there are too few prompts or pictures to say anything."""
        return (self.low, self.high) if math.isfinite(self.low) and math.isfinite(self.high) else None


HEADLINE_METRICS = ("fid", "mmd", "vendi", "clip", "clip-content", "clip on base styles")  # where there is little room


@dataclass(frozen=True, slots=True)
class Finding:
    """Something people should know of a run before they trust its scores; `name` is e.g. "overfitting".

    `warning` is False for a risk that was looked for and not found. `figures` are what `sentence` rests on.
    """

    run_id: str
    name: str
    warning: bool
    sentence: str
    figures: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What training looked like at one optimizer step; `gauges` e.g. {"d": 0.003, "grad_norm": 0.1}."""

    step: int
    loss: float
    learning_rate: float
    gauges: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a long job is: `done` of `total` in `unit`s, seconds since its start, seconds left.

    `note` is a few words for people ("loss 0.081"). Core functions hand these to a callback and
    know nothing of who listens.
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
