"""Compare: two models over the same prompts and seeds, from kept features, each of this data root or of another one."""

from dataclasses import dataclass
from pathlib import Path

from naruto_core.domain import GENERATED, Variant
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe
from naruto_core.report.tables import Compared
from naruto_core.scoring.comparison import Side, compare
from naruto_core.store.read_only_home import has_database
from tasks.context import TaskContext, read_only_context, recorded_run, with_run
from tasks.features import run_features


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
        raise NotRecorded(f"{name}: a model is RUN:VARIANT, with {', '.join(GENERATED)} for VARIANT.")
    if (elsewhere and not home) or not run or "/" in run:
        raise NotRecorded(f"{name}: a run of another NARUTO_HOME is HOME//RUN, with that folder for HOME.")
    return ModelName(Path(home).expanduser() if home else None, run, Variant(variant or Variant.ADAPTED))


def missing_home(name: str) -> Path | None:
    """The HOME of `name` if nothing was recorded there."""
    home = parse_model(name).home
    return None if home is None or has_database(home) else home


def compare_models(context: TaskContext, first: str, second: str) -> Compared:
    """How the model `second` differs from `first`: each `[HOME//]RUN[:VARIANT]`.

    Primary metrics are those of the second's recipe. Raises NarutoError for what cannot be compared.
    """
    names = parse_model(first), parse_model(second)
    left = _read_model(context, names[0], None)
    right = _read_model(context, names[1], names[0].home)
    comparisons = compare(left.side, right.side, right.recipe.scoring)
    return Compared(left.label, right.label, comparisons, *_same_pictures(left.side, right.side))


@dataclass(frozen=True, slots=True)
class _Model:
    """A model with its recipe; `label` says in full which model it is."""

    side: Side
    recipe: Recipe
    label: str


def _read_model(context: TaskContext, name: ModelName, beside: Path | None) -> _Model:
    if name.home is None:
        return _read_model_at(context, name)
    with read_only_context(context, name.home, beside) as other:
        return _read_model_at(other, name)


def _read_model_at(context: TaskContext, name: ModelName) -> _Model:
    run = context.store.run(name.run)
    label = f"{f'{name.home}//' if name.home else ''}{run.id}:{name.variant}"
    opened = recorded_run(context, run.id)
    features = run_features(with_run(context, opened))
    if name.variant not in features.samples:
        raise NotRecorded(f"{label}: this run drew no pictures with {name.variant}.")
    commit = next((summary.git_commit for summary in context.store.runs() if summary.run.id == run.id), "")
    side = Side(label, features, name.variant)
    return _Model(side, opened.recipe, f"{label}, commit {commit[:10] or 'unknown'}")


def _same_pictures(first: Side, second: Side) -> tuple[int, int]:
    """How many pictures have the same prompt and seed, and how many of them have the same bytes."""
    left, right = (
        {(sample.prompt, sample.seed): sample.sha256 for sample in side.features.samples[side.variant]}
        for side in (first, second)
    )
    common = left.keys() & right.keys()
    return len(common), sum(left[key] == right[key] for key in common)
