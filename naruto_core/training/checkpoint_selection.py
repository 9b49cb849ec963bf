"""The best step of a training, chosen by what was measured at its previews and validations, with the reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from naruto_core.domain import StepRecord

PREVIEW_SCORE = "clip_score"  # the gauge of a scored preview; higher is better


@dataclass(frozen=True, slots=True)
class BestStep:
    """The number of steps done at the best point, and the reason as a text for people."""

    steps: int
    reason: str


def best_steps(records: Sequence[StepRecord], adapters: Sequence[str], max_train_steps: int) -> dict[str, BestStep]:
    """The best step of each of `adapters` by name; `records` has their steps one adapter after the other.

    Steps are compared within one adapter only: adapters of different styles are measured on different pictures.
    """
    best: dict[str, BestStep] = {}
    for number, name in enumerate(adapters):
        first = number * max_train_steps
        own = [replace(r, step=r.step - first) for r in records if first <= r.step < first + max_train_steps]
        if step := best_step(own):
            best[name] = step
    return best


def best_step(records: Sequence[StepRecord]) -> BestStep | None:
    """The step with the lowest validation loss, or else the highest CLIP score; None if neither was measured twice.

    A validation loss has little noise (same pictures, noises and timesteps at every step). A CLIP score of a few
    pictures has much noise, and is used only where there is no validation loss.
    """
    for gauge, sign, label in (("validation_loss", 1, "validation loss"), (PREVIEW_SCORE, -1, "CLIP score")):
        measured = [(record.gauges[gauge], record.step + 1) for record in records if gauge in record.gauges]
        measured = [pair for pair in measured if not math.isnan(pair[0])]
        if len(measured) < 2:
            continue
        value, steps = min(measured, key=lambda pair: (sign * pair[0], pair[1]))
        last = measured[-1][0]
        rank = f"{'lowest' if sign > 0 else 'highest'} of {len(measured)}"
        return BestStep(steps, f"step {steps}, {label} {value:.4f}, the {rank} (last: {last:.4f})")
    return None


def preview_scores(records: Sequence[StepRecord]) -> dict[int, float]:
    """The scores of the previews of one adapter's training, by the number of steps done."""
    return {record.step + 1: record.gauges[PREVIEW_SCORE] for record in records if PREVIEW_SCORE in record.gauges}
