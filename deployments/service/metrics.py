"""What is counted for Prometheus. No prompt, user or key is a label: those would be without number, and private."""

import resource
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from naruto_core.serving import Drift, Steadiness

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """One registry for each app, so that two in one process do not add up."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        mine = {"registry": self.registry}
        self.requests = Counter("naruto_requests", "Requests answered.", ["route", "status"], **mine)
        self.seconds = Histogram(
            "naruto_request_duration_seconds", "From the first byte in to the last out.", ["route"], buckets=_SECONDS,
            **mine,
        )  # fmt: skip
        self.waited = Histogram(
            "naruto_queue_seconds", "What a picture waited for its place.", buckets=_SECONDS, **mine
        )
        self.queue = Gauge("naruto_queue_depth", "Pictures that wait.", **mine)
        self.batch = Histogram("naruto_batch_size", "Pictures in a step.", buckets=(1, 2, 3, 4, 6, 8, 16, 32), **mine)
        self.steps = Counter("naruto_steps", "Denoising steps of batches.", **mine)
        self.pictures = Counter("naruto_pictures", "Pictures, by what became of them.", ["end"], **mine)
        self.errors = Counter("naruto_errors", "Failures inside the service, by class.", ["kind"], **mine)
        self.load_seconds = Histogram("naruto_model_load_seconds", "", ["what"], buckets=_SECONDS, **mine)
        self.quality = Gauge(
            "naruto_served_quality", "Mean of served pictures, as it was last compared.", ["metric"], **mine
        )
        self.drifted = Gauge(
            "naruto_drifted", "1 where served pictures score otherwise than the run's own samples.", ["metric"], **mine
        )
        self.device_memory = Gauge("naruto_device_memory_bytes", "In use on the GPU.", **mine)
        self.memory = Gauge("naruto_memory_bytes", "Resident memory of the process.", **mine)
        self.memory.set_function(resident_bytes)

    def tell_drifts(self, drifts: Sequence[Drift]) -> None:
        """What was said last of each metric, of whichever run was compared last."""
        for drift in reversed(drifts):
            self.quality.labels(drift.metric).set(drift.served)
            self.drifted.labels(drift.metric).set(drift.verdict is Steadiness.DRIFTED)


def resident_bytes() -> float:
    """What this process holds in memory now."""
    known = Path("/proc/self/statm")
    if known.exists():
        return float(known.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
