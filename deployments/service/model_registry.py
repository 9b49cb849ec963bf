"""Which models there are, and what each is made of: runs, aliases of runs, and the base."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from deployments.service.errors import ApiError
from naruto_core.artifacts import Layout
from naruto_core.domain import RunState
from naruto_core.errors import NotRecorded, RecordDamaged
from naruto_core.fusion import ScaledAdapter, scaled_adapters
from naruto_core.recipe import GenerationSection, ModelSection, Recipe
from naruto_core.store.database import Ratings
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.verification import adapter_fault
from naruto_core.store.writes import Store
from naruto_core.textual_inversion import split_tokens
from naruto_core.token_limit import TokenLimit, load_token_limit

BASE = "base"
_USUAL_BATCH = 4  # see DECISIONS: what one picture pays for company that may come


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What pictures are drawn with; those of equal looks can share a batch. `name` is a run's id, or base."""

    name: str
    model: ModelSection
    section: GenerationSection
    blends: tuple[ScaledAdapter, ...] = ()
    tokens: tuple[tuple[str, str], ...] = ()
    as_trained: bool = False  # a run's own adapters at their own scales


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the list of models; `names` is the run behind an alias."""

    id: str
    made_at: datetime
    names: str = ""


class ModelRegistry:
    """Reads the record at every request, so that a promotion counts at once; what a run is made of never changes."""

    def __init__(self, store: Store, ratings: Ratings, root: Path, batch_size: int | None) -> None:
        self._store, self._ratings, self._root, self._batch_size = store, ratings, root, batch_size
        self._looks: dict[str, ModelSpec] = {}
        self._limits: dict[tuple[ModelSection, tuple[tuple[str, str], ...]], TokenLimit] = {}

    def entries(self) -> list[Entry]:
        """The champion first, then runs, the newest first, then the base."""
        runs = [summary.run for summary in self._store.runs() if summary.run.state is RunState.DONE]
        if not runs:
            return []
        champion = self._champion()
        first = [Entry(CHAMPION, run.started_at, run.id) for run in runs if run.id == champion]
        return [*first, *[Entry(run.id, run.started_at) for run in runs], Entry(BASE, runs[-1].started_at)]

    def look(self, name: str | None, more: Sequence[tuple[str, float]] = ()) -> ModelSpec:
        """The look called `name` (None: the champion, or else the newest run), with further adapters at weights."""
        usual = self._champion() or self._newest()
        look = self._run_look(usual)
        if name == BASE:
            look = ModelSpec(BASE, look.model, look.section)
        elif name not in (None, CHAMPION):
            look = self._run_look(str(name), param="model")
        elif name == CHAMPION and self._champion() is None:
            raise ApiError(404, "No run is the champion yet.", param="model", code="model_not_found")
        for other, weight in more:
            look = self._with(look, other, weight)
        return look

    def token_limit(self, look: ModelSpec) -> TokenLimit:
        """How much of a prompt the model's text encoders read."""
        key = look.model, look.tokens
        if key not in self._limits:
            self._limits[key] = load_token_limit(
                look.model, [t for _, names in look.tokens for t in split_tokens(names)]
            )
        return self._limits[key]

    def _with(self, look: ModelSpec, name: str, weight: float) -> ModelSpec:
        other = self._run_look((self._champion() or name) if name == CHAMPION else name, param="adapters")
        if other.model != look.model:
            raise ApiError(400, f"{name} was trained on another base model.", param="adapters", code="invalid_value")
        if other.tokens:
            raise ApiError(
                400, f"{name} has words of its own: ask for it as the model.", param="adapters", code="invalid_value"
            )
        worn = {blend.folder for blend in look.blends}
        if any(blend.folder in worn for blend in other.blends):
            raise ApiError(400, f"{name} stands twice.", param="adapters", code="invalid_value")
        blends = (*look.blends, *(ScaledAdapter(blend.folder, blend.scale * weight) for blend in other.blends))
        return ModelSpec(look.name, look.model, look.section, blends, look.tokens)

    def _champion(self) -> str | None:
        history = self._ratings.promotions(CHAMPION)
        return history[0].run_id if history else None

    def _newest(self) -> str:
        for summary in self._store.runs():
            if summary.run.state is RunState.DONE:
                return summary.run.id
        raise ApiError(
            404, "There is no finished run yet: make one with `naruto run`.", param="model", code="model_not_found"
        )

    def _run_look(self, run_id: str, param: str = "model") -> ModelSpec:
        if run_id in self._looks:
            return self._looks[run_id]
        try:
            run = self._store.run(run_id)
        except NotRecorded:
            run = None
        adapters = self._store.adapters(run.id) if run else []
        if run is None or run.id != run_id or run.state is not RunState.DONE or not adapters:
            raise ApiError(404, "There is no such model; see /v1/models.", param=param, code="model_not_found")
        for adapter in adapters:
            if fault := adapter_fault(Layout(self._root), adapter):
                raise RecordDamaged(f"{run_id} cannot be served: {fault}; see `naruto verify`.")
        recipe = Recipe.model_validate_json(self._store.recipe_json(run.id))
        size = self._batch_size or min(recipe.generation.batch_size, _USUAL_BATCH)
        section = recipe.generation.model_copy(update={"batch_size": size})
        blends = tuple(scaled_adapters(self._root, recipe.fusion, adapters))
        tokens = tuple(recipe.new_tokens.items())
        self._looks[run_id] = ModelSpec(run.id, recipe.model, section, blends, tokens, as_trained=True)
        return self._looks[run_id]
