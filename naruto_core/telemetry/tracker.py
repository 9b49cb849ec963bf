"""What every tracker can do, and what it is told of a step."""

from typing import Literal, Protocol

from naruto_core.domain import StepRecord

Outcome = Literal["FINISHED", "FAILED", "KILLED"]  # MLflow's words


class Tracker(Protocol):
    """Whoever keeps curves. Called from one thread, in this order; may raise anything."""

    def open(self) -> None:
        """Make or find the place of this run."""
        ...

    def write(self, at: float, records: list[StepRecord]) -> None:
        """Keep `records`, told `at` (seconds since 1970), so that a kill right after loses none of them."""
        ...

    def close(self, outcome: Outcome) -> None:
        """Training is over."""
        ...


def numbers(record: StepRecord) -> dict[str, float]:
    """`train/loss`, `train/learning_rate` and every gauge: trackers show what has one prefix together."""
    told = {"loss": record.loss, "learning_rate": record.learning_rate, **record.gauges}
    return {f"train/{name}": value for name, value in told.items()}
