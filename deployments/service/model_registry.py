"""The models that clients can name: finished runs, the alias `champion`, and `base`, the base model without adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from deployments.service.errors import ApiError
from naruto_core.artifacts import Layout
from naruto_core.domain import Run, RunState
from naruto_core.errors import NotRecorded, RecordDamaged
from naruto_core.fusion import ScaledAdapter, scaled_adapters
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.store.database import Ratings
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.verification import adapter_fault
from naruto_core.store.writes import Store
from naruto_core.textual_inversion import split_tokens
from naruto_core.token_limit import TokenLimit, load_token_limit

BASE = "base"
_BATCH_SIZE = 4  # at most, unless a setting says otherwise: a full batch is the longest that a picture waits for


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A base model with adapters and generation settings; pictures of equal specs can share a batch.

    `name` is a run's id, or base. `as_trained`: a run's own adapters at their own scales, and no others.
    """

    name: str
    model: ModelSection
    section: GenerationSection
    blends: tuple[ScaledAdapter, ...] = ()
    tokens: tuple[tuple[str, str], ...] = ()
    as_trained: bool = False


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One entry of the list of models; `run_id` is the run behind an alias, else empty."""

    id: str
    created_at: datetime
    run_id: str = ""


class ModelRegistry:
    """Finds models in the database, at every request, so that a promotion takes effect at once.

    The spec of a run never changes, so it is built and checked once; whether the run is still there, at every request.
    """

    def __init__(self, store: Store, ratings: Ratings, layout: Layout, batch_size: int | None) -> None:
        self._store, self._ratings, self._layout, self._batch_size = store, ratings, layout, batch_size
        self._specs: dict[str, ModelSpec] = {}
        self._token_limits: dict[tuple[ModelSection, tuple[tuple[str, str], ...], int], TokenLimit] = {}

    def entries(self) -> list[ModelEntry]:
        """The champion, the finished runs (newest first), and the base model."""
        runs = self._finished_runs()
        if not runs:
            return []
        champion = self._champion()
        alias = [ModelEntry(CHAMPION, run.started_at, run.id) for run in runs if run.id == champion]
        return [*alias, *[ModelEntry(run.id, run.started_at) for run in runs], ModelEntry(BASE, runs[-1].started_at)]

    def spec(self, name: str | None, adapters: Sequence[tuple[str, float]] = ()) -> ModelSpec:
        """The model called `name` (None: the champion, or the newest run), with further adapters (name, weight).

        Raises ApiError 404 for an unknown model, 400 for adapters that do not fit, RecordDamaged for a damaged file.
        """
        spec = self._named_spec(name)
        for adapter, weight in adapters:
            spec = self._with_adapter(spec, adapter, weight)
        return spec

    def _named_spec(self, name: str | None) -> ModelSpec:
        if name not in (None, CHAMPION, BASE):
            return self._run_spec(str(name))  # whatever is wrong with the champion
        champion = self._champion()
        spec = self._run_spec(champion or self._newest_run())
        if name == CHAMPION and champion is None:
            raise ApiError(404, "No run is the champion yet.", param="model", code="model_not_found")
        return ModelSpec(BASE, spec.model, spec.section) if name == BASE else spec

    def token_limit(self, spec: ModelSpec) -> TokenLimit:
        """How much of a prompt the model's text encoders read."""
        key = spec.model, spec.tokens, spec.section.max_token_length
        if key not in self._token_limits:
            tokens = [token for _, names in spec.tokens for token in split_tokens(names)]
            self._token_limits[key] = load_token_limit(spec.model, tokens, spec.section.max_token_length)
        return self._token_limits[key]

    def _with_adapter(self, spec: ModelSpec, name: str, weight: float) -> ModelSpec:
        other = self._run_spec((self._champion() or name) if name == CHAMPION else name, param="adapters")
        if other.model != spec.model:
            raise ApiError(400, f"{name} was trained on another base model.", param="adapters", code="invalid_value")
        if other.tokens:
            message = f"{name} has trained tokens, so it cannot be a further adapter: name it as the model."
            raise ApiError(400, message, param="adapters", code="invalid_value")
        folders = {blend.folder for blend in spec.blends}
        if any(blend.folder in folders for blend in other.blends):
            raise ApiError(400, f"{name} is named twice.", param="adapters", code="invalid_value")
        blends = (*spec.blends, *(ScaledAdapter(blend.folder, blend.scale * weight) for blend in other.blends))
        return ModelSpec(spec.name, spec.model, spec.section, blends, spec.tokens)

    def _champion(self) -> str | None:
        history = self._ratings.promotions(CHAMPION)
        return history[0].run_id if history else None

    def _finished_runs(self) -> list[Run]:
        """The runs that are done and have an adapter, newest first; imported pictures have none."""
        adapted = self._store.adapted_runs()
        return [s.run for s in self._store.runs() if s.run.state is RunState.DONE and s.run.id in adapted]

    def _newest_run(self) -> str:
        if runs := self._finished_runs():
            return runs[0].id
        raise ApiError(
            404, "There is no finished run yet: make one with `naruto run`.", param="model", code="model_not_found"
        )

    def _run_spec(self, run_id: str, param: str = "model") -> ModelSpec:
        try:
            run = self._store.run(run_id)
        except NotRecorded:
            run = None
        if run is not None and run.id == run_id and run.state is RunState.DONE and run_id in self._specs:
            return self._specs[run_id]
        self._specs.pop(run_id, None)  # it was deleted: if it is made again, its files are checked again
        adapters = self._store.adapters(run.id) if run else []
        if run is None or run.id != run_id or run.state is not RunState.DONE or not adapters:
            self._newest_run()  # says it where there is no run at all
            raise ApiError(404, "There is no such model; see /v1/models.", param=param, code="model_not_found")
        for adapter in adapters:
            if fault := adapter_fault(self._layout, adapter):
                raise RecordDamaged(f"{run_id} cannot be served: {fault}; see `naruto verify`.")
        recipe = Recipe.model_validate_json(self._store.recipe_json(run.id))
        if recipe.generation.refiner:
            message = f"{run_id} draws with a refiner, and this service loads none: see generation.refiner."
            raise ApiError(400, message, param=param, code="model_not_supported")
        batch_size = self._batch_size or min(recipe.generation.batch_size, _BATCH_SIZE)
        section = recipe.generation.model_copy(update={"batch_size": batch_size})
        blends = tuple(scaled_adapters(self._layout.root, recipe.fusion, adapters))
        tokens = tuple(recipe.new_tokens.items())
        self._specs[run_id] = ModelSpec(run.id, recipe.model, section, blends, tokens, as_trained=True)
        return self._specs[run_id]
