"""Which step of a training was the best, going by what was measured on the way, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from naruto_core.domain import StepRecord


@dataclass(frozen=True, slots=True)
class Best:
    """`steps` done at the best point, and the reason in words."""

    steps: int
    reason: str


def best_of_heads(records: Sequence[StepRecord], heads: Sequence[str], max_train_steps: int) -> dict[str, Best]:
    """The best step of every adapter whose steps stand in `records`, one adapter's after the other's, by its name.

    Each is compared with itself only: adapters of different styles are measured on different pictures.
    """
    found: dict[str, Best] = {}
    for number, head in enumerate(heads):
        first = number * max_train_steps
        own = [replace(r, step=r.step - first) for r in records if first <= r.step < first + max_train_steps]
        if best := best_step(own):
            found[head] = best
    return found


def best_step(records: Sequence[StepRecord]) -> Best | None:
    """The point with the lowest validation loss, or else the highest CLIP score; None when neither was measured twice.

    A validation loss has little noise from point to point (same pictures, noises and timesteps); a CLIP score of a
    few pictures has much, and is only asked where there is no other.
    """
    for gauge, sign, words in (("validation_loss", 1, "validation loss"), ("clip_score", -1, "CLIP score")):
        measured = [(record.gauges[gauge], record.step + 1) for record in records if gauge in record.gauges]
        measured = [pair for pair in measured if pair[0] == pair[0]]  # not a number: not a measurement
        if len(measured) < 2:
            continue
        value, steps = min(measured, key=lambda pair: (sign * pair[0], pair[1]))
        last = measured[-1][0]
        rank = f"{'lowest' if sign > 0 else 'highest'} of {len(measured)}"
        return Best(steps, f"step {steps}, {words} {value:.4f}, the {rank} (last: {last:.4f})")
    return None
