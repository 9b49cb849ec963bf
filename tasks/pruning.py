"""Pruning: a sweep ends the training of a run at a preview whose score is low, by successive halving.

The rule holds for the runs that the sweep itself starts; `naruto run` trains the same run to its end.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import CancelledRun
from prefect.states import Cancelled

from naruto_core.errors import RunPruned, RunStopped
from naruto_core.search import is_pruned
from naruto_core.store.sweeps import RecordedSweep
from naruto_core.store.writes import Store
from naruto_core.sweep import Cell
from naruto_core.training.checkpoint_selection import PREVIEW_SCORE, preview_scores
from naruto_core.training.step import OnPreview
from naruto_core.training.weights import Weights
from tasks.context import RunContext
from tasks.run_lease import check_stop, stop_requested

PRUNED = "Pruned"  # the name of the state in Prefect
_MARK = " was pruned: "  # Prefect passes on the sentence of a cancelled run, and nothing else

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class HalvingRule:
    """The rule for one run: the previews of `earlier` runs of its sweep with the same seed, in their order."""

    sweep: str
    earlier: Sequence[Mapping[int, float]]
    reduction_factor: int


_rule: ContextVar[HalvingRule | None] = ContextVar("halving rule", default=None)


def halving_rule(sweep: RecordedSweep, cell: Cell, reduction_factor: int, store: Store) -> HalvingRule:
    """The rule for the run of `cell`: it competes with the runs of the same seed that came before."""
    before = [r.run for r in sweep.cells if r.cell.seed == cell.seed and r.cell.position < cell.position]
    earlier = [preview_scores(store.steps(run.id)) for run in before if run is not None]
    return HalvingRule(sweep.name, [scores for scores in earlier if scores], reduction_factor)


@contextmanager
def halving(rule: HalvingRule | None) -> Generator[None]:
    """In the block, runs that this process trains may be pruned by `rule`; None: by none."""
    token = _rule.set(rule)
    try:
        yield
    finally:
        _rule.reset(token)


@dataclass(slots=True)
class Halving:
    """Watches the previews of one training, which ends at the next step once they are too low; without rule never."""

    rule: HalvingRule | None
    run_id: str
    first_rung: int
    last_step: int
    scores: dict[int, float] = field(default_factory=dict[int, float])
    reason: str = ""

    def observed(self, preview: OnPreview) -> OnPreview:
        """`preview`, with its score observed."""

        def draw(steps: int, weights: Weights) -> Mapping[str, float]:
            metrics = preview(steps, weights)
            if PREVIEW_SCORE in metrics:
                self.scores[steps] = metrics[PREVIEW_SCORE]
                self.decide()
            return metrics

        return draw

    def decide(self) -> None:
        """Find out whether the run ends now. A run at its last step is done."""
        if self.rule is None or not self.scores or max(self.scores) >= self.last_step:
            return
        if is_pruned(self.rule.earlier, self.scores, self.first_rung, self.rule.reduction_factor):
            steps = max(self.scores)
            self.reason = (
                f"the sweep {self.rule.sweep} ended it after {steps} of {self.last_step} steps: its preview's "
                f"{PREVIEW_SCORE} of {self.scores[steps]:.4f} is not among the best 1 of {self.rule.reduction_factor}."
            )

    def is_stop_requested(self) -> bool:
        """Whether the training ends after this step: because it is pruned, or because somebody asked for it."""
        return bool(self.reason) or stop_requested()

    def stop(self) -> None:
        """Called at a safe point. Raises RunPruned or RunStopped."""
        check_stop()
        if self.reason:
            raise RunPruned(f"run {self.run_id}{_MARK}{self.reason}")


def begin_halving(context: RunContext, adapter: str) -> Halving:
    """Watch a training of `context`'s run; one that goes on has its previews so far.

    Raises RunPruned for a run whose process was killed after it was decided. `adapter` is the name of the style's own
    adapter: recipes with several of them cannot be pruned (see `flows.sweep`).
    """
    section, rule = context.recipe.training, _rule.get()
    first = section.previews.preview_steps if section.previews else 0
    watched = Halving(rule if not adapter else None, context.run.id, first, section.max_train_steps)
    if watched.rule is not None:
        watched.scores |= preview_scores(context.store.steps(context.run.id))
        watched.decide()
        watched.stop()
    return watched


def shown_as_cancelled(function: Callable[P, R]) -> Callable[P, R]:
    """A flow or a task that ends in Prefect as Cancelled, not as failed, when somebody stopped its run.

    Where the run is pruned, the state has the name Pruned. Whoever calls the flow gets CancelledRun then.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return function(*args, **kwargs)
        except (RunStopped, CancelledRun) as ended:  # the second one of a task in the flow
            return Cancelled(name=PRUNED if _MARK in str(ended) else None, message=str(ended))

    return call


class RunTask(Task[P, R]):
    """A task of a run: Cancelled in Prefect when somebody stopped the run; its caller gets CancelledRun then."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # pyright: ignore[reportIncompatibleMethodOverride]
        returned: R | State[R] = super().__call__(*args, **kwargs)
        # what a task returns as its state, Prefect gives to the caller as it is
        return returned.result() if isinstance(returned, State) else returned  # pyright: ignore[reportReturnType]


def run_task(task_run_name: Callable[[], str] | None = None) -> Callable[[Callable[P, R]], RunTask[P, R]]:
    """Make a function a task of a run, whose results are never cached: what it did is looked at each time."""

    def decorate(function: Callable[P, R]) -> RunTask[P, R]:
        return RunTask(shown_as_cancelled(function), cache_policy=NO_CACHE, task_run_name=task_run_name)

    return decorate


@contextmanager
def raising_stops() -> Generator[None]:
    """Inside the block, a flow whose run was stopped raises RunStopped, as its tasks do, in place of CancelledRun."""
    try:
        yield
    except CancelledRun as ended:
        raise RunStopped(str(ended)) from None


def was_pruned(ended: CancelledRun) -> bool:
    """Whether a flow ended because its run was pruned, and not because somebody cancelled it."""
    return _MARK in str(ended)
