"""Compare: two models over the same prompts and seeds, from kept features, each of this data root or of another one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from naruto_core.artifacts import Layout
from naruto_core.domain import Sample, Variant
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ScoringSection
from naruto_core.report.tables import Compared
from naruto_core.scoring.comparison import Comparison, Side, compare
from naruto_core.scoring.feature_set import RunFeatures
from naruto_core.store.read_only_home import has_database
from tasks.context import RunContext, TaskContext, read_only_context, recorded_run, with_run
from tasks.features import run_features
from tasks.kept_comparison import ModelName, model_label, parse_model, same_pictures
from tasks.results import Key, comparison_key, features_key, keep_comparisons, read_comparisons


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
    comparisons = compare_sides(context.layout, left.side, right.side, right.recipe.scoring)
    return Compared(left.label, right.label, comparisons, *same_pictures(left.side.samples, right.side.samples))


@dataclass(frozen=True, slots=True)
class ModelSide:
    """One of two models that are compared: a variant of a run. `features` reads the features of the run."""

    name: str
    variant: Variant
    samples: Sequence[Sample]
    key: Key | None
    features: Callable[[], RunFeatures]


def side_of(context: RunContext, name: str, variant: Variant, features: RunFeatures | None = None) -> ModelSide:
    """The model that drew `variant` in the run of `context`, which must stay open until its features were read."""
    samples = context.store.samples(context.run.id, variant)

    def read() -> RunFeatures:
        return run_features(context) if features is None else features

    return ModelSide(name, variant, samples, features_key(context.store, context.run), read)


def compare_sides(layout: Layout, first: ModelSide, second: ModelSide, section: ScoringSection) -> list[Comparison]:
    """Every metric of both models. A comparison of the same features by the same code is read, not computed again.

    Raises NarutoError for what cannot be compared.
    """
    key = comparison_key([(side.key, side.variant) for side in (first, second)])
    comparisons = read_comparisons(layout, key)
    if comparisons is None:
        left, right = (Side(side.name, side.features(), side.variant) for side in (first, second))
        comparisons = compare(left, right, section)
        keep_comparisons(layout, key, comparisons)
    return comparisons


@dataclass(frozen=True, slots=True)
class _Model:
    """A model with its recipe; `label` says in full which model it is."""

    side: ModelSide
    recipe: Recipe
    label: str


def _read_model(context: TaskContext, name: ModelName, beside: Path | None) -> _Model:
    if name.home is None:
        return _read_model_at(context, name)
    with read_only_context(context, name.home, beside) as other:
        model = _read_model_at(other, name)
        features = model.side.features()  # now: the copy of that home is removed with this block
        return replace(model, side=replace(model.side, features=lambda: features))


def _read_model_at(context: TaskContext, name: ModelName) -> _Model:
    run = context.store.run(name.run)
    label = f"{f'{name.home}//' if name.home else ''}{run.id}:{name.variant}"
    opened = recorded_run(context, run.id)
    side = side_of(with_run(context, opened), label, name.variant)
    if not side.samples:
        drawn = ", ".join(sorted({sample.variant for sample in context.store.samples(run.id)})) or "nothing yet"
        raise NotRecorded(f"{label}: this run drew no pictures with {name.variant}; it drew with: {drawn}.")
    return _Model(side, opened.recipe, model_label(context.store, label, run.id))
