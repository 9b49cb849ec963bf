"""Trials of a search, proposed by Optuna, and the runs that successive halving ends early.

Optuna's study lives in memory and is made anew for every proposal, from the trials that the caller recorded: equal
trials give an equal proposal, in whatever process. Where a search was killed, it goes on with the same trials.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from naruto_core.sweep import SearchRange, SearchSection

if TYPE_CHECKING:  # imported where it is used: half a second
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

_TRIES = 20  # of the learning sampler, before random values look for a setting that was not tried


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A setting that was tried: its `values`, and the mean objective over its runs; None where no run has a value.

    Of a setting that was `pruned`, `previews` are the scores of its last run by step, where higher is better.
    """

    values: Mapping[str, Any]
    objective: float | None
    pruned: bool = False
    previews: Mapping[int, float] | None = None


def propose(search: SearchSection, trials: Sequence[FinishedTrial], better: int) -> dict[str, Any]:
    """The values of the next setting: one that is not among `trials`.

    `better` is 1 where more of the objective is better, -1 where less is.
    """
    tried = [dict(trial.values) for trial in trials]
    for attempt in count():  # the ranges hold more settings than there are trials, so a new one is found
        study = _study(_sampler(search, len(trials), attempt), better)
        for trial in trials:
            _add(study, search, trial, better)
        asked = study.ask({key: _distribution(of_key) for key, of_key in search.ranges.items()})
        values = {key: _value(of_key, asked.params[key]) for key, of_key in search.ranges.items()}
        if values not in tried:
            return values
    raise AssertionError  # `count` never ends


def _study(sampler: "BaseSampler | None", better: int, pruner: Any = None) -> "Study":
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if better > 0 else "minimize"
    return optuna.create_study(sampler=sampler, pruner=pruner or optuna.pruners.NopPruner(), direction=direction)


def _sampler(search: SearchSection, number: int, attempt: int) -> "BaseSampler":
    """The sampler of trial `number`; its random numbers depend on the search, the trial and the attempt alone."""
    import numpy as np
    from optuna.samplers import RandomSampler, TPESampler

    seed = int(np.random.SeedSequence([search.seed, number, attempt]).generate_state(1)[0])
    return TPESampler(seed=seed) if search.sampler == "tpe" and attempt < _TRIES else RandomSampler(seed=seed)


def _distribution(of_key: SearchRange) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if of_key.type == "choices" or of_key.low is None or of_key.high is None:
        return CategoricalDistribution(range(len(of_key.values)))  # numbers of choices: a choice may be a list
    if of_key.type == "int":
        return IntDistribution(int(of_key.low), int(of_key.high), log=of_key.log)
    return FloatDistribution(of_key.low, of_key.high, log=of_key.log)


def _value(of_key: SearchRange, sampled: Any) -> Any:
    """The value that Optuna's number stands for, as the recipe gets it."""
    return of_key.values[sampled] if of_key.type == "choices" else sampled


def _sampled(of_key: SearchRange, value: Any) -> Any:
    """Optuna's number for a value in the range."""
    return of_key.values.index(value) if of_key.type == "choices" else value


def _add(study: "Study", search: SearchSection, trial: FinishedTrial, better: int) -> None:
    """Tell the study of a trial. The recipe's own values may lie outside the ranges: then it learns nothing of them."""
    from optuna.trial import TrialState, create_trial

    if not all(trial.values[key] in of_key for key, of_key in search.ranges.items()):
        return
    state = TrialState.PRUNED if trial.pruned else TrialState.COMPLETE
    if not trial.pruned and (trial.objective is None or not math.isfinite(trial.objective)):
        state = TrialState.FAIL
    previews = {step: score * better for step, score in (trial.previews or {}).items() if math.isfinite(score)}
    study.add_trial(
        create_trial(
            state=state,
            value=trial.objective if state is TrialState.COMPLETE else None,
            params={key: _sampled(of_key, trial.values[key]) for key, of_key in search.ranges.items()},
            distributions={key: _distribution(of_key) for key, of_key in search.ranges.items()},
            intermediate_values=previews,
        )
    )


Previews = Mapping[int, float]  # the score of a run's preview by the number of steps done; higher is better


def is_pruned(earlier: Sequence[Previews], current: Previews, first_rung: int, reduction_factor: int) -> bool:
    """Whether a run with the previews `current` ends now, by asynchronous successive halving (Li et al. 2020).

    Rungs are at `first_rung` steps and at each `reduction_factor` times more. At a rung a run goes on when its score is
    among the best 1 of `reduction_factor` of all runs that reached it: `earlier` ones, in their order, and itself.
    """
    from optuna.pruners import SuccessiveHalvingPruner

    study = _study(None, 1, SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=reduction_factor))
    ended = False
    for previews in (*earlier, current):
        trial = study.ask()
        ended = any(_reports(trial, previews))
    return ended


def _reports(trial: Any, previews: Previews) -> Iterator[bool]:
    """Report one preview after the other; whether the trial is pruned at each."""
    for step in sorted(previews):
        trial.report(previews[step], step)
        yield trial.should_prune()
