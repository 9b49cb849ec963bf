"""What a campaign of single pictures says: mean grades of each model, and how often each defect was seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from naruto_core.judging.conduct import Share, share
from naruto_core.ratings import Defect, Grades, Rating


@dataclass(frozen=True, slots=True)
class Graded:
    """A model's mean of one question, 1 to 5, with a 95 % interval over prompts (Student's t)."""

    model: str
    question: str
    mean: float
    low: float
    high: float
    ratings: int
    prompts: int


def mean_grades(ratings: Sequence[Rating]) -> list[Graded]:
    """Of every model and question; a prompt counts as much as another."""
    models = sorted({rating.contenders[0] for rating in ratings})
    return [_graded(model, question, ratings) for model in models for question in ("adherence", "style")]


def defects(ratings: Sequence[Rating]) -> dict[str, dict[Defect, Share]]:
    """For every model, in which share of its ratings each defect was flagged."""
    found: dict[str, dict[Defect, Share]] = {}
    for model in sorted({rating.contenders[0] for rating in ratings}):
        flags = [r.answer.defects for r in ratings if r.contenders[0] == model and isinstance(r.answer, Grades)]
        found[model] = {defect: share(sum(defect in seen for seen in flags), len(flags)) for defect in Defect}
    return found


def _graded(model: str, question: str, ratings: Sequence[Rating]) -> Graded:
    by_prompt: dict[str, list[int]] = {}
    for rating in ratings:
        if rating.contenders[0] == model and isinstance(rating.answer, Grades):
            by_prompt.setdefault(rating.prompt, []).append(getattr(rating.answer, question))
    means = np.array([np.mean(found) for found in by_prompt.values()])
    mean, reach = float(means.mean()), math.inf
    if len(means) > 1:
        reach = float(stats.t.ppf(0.975, len(means) - 1) * means.std(ddof=1) / math.sqrt(len(means)))
    n = sum(map(len, by_prompt.values()))
    return Graded(model, question, mean, max(1.0, mean - reach), min(5.0, mean + reach), n, len(means))
