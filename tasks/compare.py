"""Compare: two models over the same prompts and seeds, from kept features, each of this data root or of another one."""

from dataclasses import dataclass
from pathlib import Path

from naruto_core.domain import DRAWN, Variant
from naruto_core.errors import NotRecorded
from naruto_core.recipe import Recipe
from naruto_core.report.tables import Compared
from naruto_core.scoring.comparison import Side, compare
from naruto_core.scoring.feature_set import RunFeatures
from naruto_core.store.read_only_home import has_database
from tasks.context import TaskContext, place_elsewhere
from tasks.features import gather


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
    if variant not in ("", *DRAWN):
        raise NotRecorded(f"{name}: a model is RUN:VARIANT, with {', '.join(DRAWN)} for VARIANT.")
    if (elsewhere and not home) or not run or "/" in run:
        raise NotRecorded(f"{name}: a run of another NARUTO_HOME is HOME//RUN, with that folder for HOME.")
    return ModelName(Path(home).expanduser() if home else None, run, Variant(variant or Variant.ADAPTED))


def missing_home(name: str) -> Path | None:
    """The HOME of `name` if nothing was recorded there."""
    home = parse_model(name).home
    return None if home is None or has_database(home) else home


def recorded_run(place: TaskContext, name: str) -> tuple[RunFeatures, Recipe]:
    """What a run that was drawn and scored is judged by; NotRecorded for one that was not."""
    run, suite = place.store.run(name), place.store.prompts(name)
    dataset = place.store.find_dataset(run.dataset_id)
    if suite is None or dataset is None or not place.store.samples(run.id):
        raise NotRecorded(f"run {run.id} has no samples yet; finish it with  naruto run --recipe {run.profile}")
    recipe = Recipe.model_validate_json(place.store.recipe_json(run.id))
    return gather(place, run, recipe, suite, dataset), recipe


def compare_models(place: TaskContext, first: str, second: str) -> Compared:
    """How the model `second` differs from `first`: each `[HOME//]RUN[:VARIANT]`.

    Primary metrics are those of the second's recipe. Raises NarutoError for what cannot be compared.
    """
    asked = parse_model(first), parse_model(second)
    one = _opened(place, asked[0], None)
    other = _opened(place, asked[1], asked[0].home)
    found = compare(one.side, other.side, other.recipe.scoring)
    return Compared(one.told, other.told, found, *_same_pictures(one.side, other.side))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model with its recipe; `told` is which one it is, in full."""

    side: Side
    recipe: Recipe
    told: str


def _opened(place: TaskContext, asked: ModelName, beside: Path | None) -> _Opened:
    if asked.home is None:
        return _opened_at(place, asked)
    with place_elsewhere(place, asked.home, beside) as there:
        return _opened_at(there, asked)


def _opened_at(place: TaskContext, asked: ModelName) -> _Opened:
    run = place.store.run(asked.run)
    name = f"{f'{asked.home}//' if asked.home else ''}{run.id}:{asked.variant}"
    features, recipe = recorded_run(place, run.id)
    if asked.variant not in features.samples:
        raise NotRecorded(f"{name}: this run drew no pictures with {asked.variant}.")
    commit = next((one.git_commit for one in place.store.runs() if one.run.id == run.id), "")
    return _Opened(Side(name, features, asked.variant), recipe, f"{name}, commit {commit[:10] or 'unknown'}")


def _same_pictures(first: Side, second: Side) -> tuple[int, int]:
    """How many pictures are of the same prompt and seed, and how many of them are the same bytes."""
    one, other = (
        {(sample.prompt, sample.seed): sample.sha256 for sample in side.features.samples[side.variant]}
        for side in (first, second)
    )
    common = one.keys() & other.keys()
    return len(common), sum(one[key] == other[key] for key in common)
