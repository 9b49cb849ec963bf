"""Metrics for Prometheus. No label holds a prompt, user or key: their number has no limit, and they are private."""

import resource
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from naruto_core.serving import Drift, DriftVerdict

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300)


class Metrics:
    """A registry for each app, so that two apps in one process do not share their counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kwargs = {"registry": self.registry}
        self.requests = Counter("naruto_requests", "HTTP requests.", ["route", "status"], **kwargs)
        self.seconds = Histogram(
            "naruto_request_duration_seconds", "Duration of a request.", ["route"], buckets=_SECONDS, **kwargs
        )
        self.waited = Histogram("naruto_queue_seconds", "Time of a picture in the queue.", buckets=_SECONDS, **kwargs)
        self.queue = Gauge("naruto_queue_depth", "Pictures in the queue.", **kwargs)
        self.batch = Histogram("naruto_batch_size", "Pictures in a step.", buckets=(1, 2, 3, 4, 6, 8, 16, 32), **kwargs)
        self.steps = Counter("naruto_steps", "Denoising steps of batches.", **kwargs)
        self.pictures = Counter("naruto_pictures", "Pictures, by the final state of their job.", ["end"], **kwargs)
        self.errors = Counter("naruto_errors", "Errors in the service, by exception class.", ["kind"], **kwargs)
        self.load_seconds = Histogram(
            "naruto_model_load_seconds",
            "Time to load a model.",
            ["what"],
            buckets=_SECONDS,
            **kwargs,
        )
        self.quality = Gauge(
            "naruto_served_quality", "Mean of served pictures in the last drift check.", ["metric"], **kwargs
        )
        self.drifted = Gauge(
            "naruto_drifted", "1 if served pictures differ from the run's own samples in the last drift check.",
            ["metric"], **kwargs,
        )  # fmt: skip
        self.device_memory = Gauge("naruto_device_memory_bytes", "GPU memory reserved.", **kwargs)
        self.memory = Gauge("naruto_memory_bytes", "Resident memory of the process.", **kwargs)
        self.memory.set_function(resident_bytes)

    def set_drifts(self, drifts: Sequence[Drift]) -> None:
        """Export the latest drift check of each metric; `drifts` is sorted from new to old."""
        for drift in reversed(drifts):
            self.quality.labels(drift.metric).set(drift.served)
            self.drifted.labels(drift.metric).set(drift.verdict is DriftVerdict.DRIFTED)


def resident_bytes() -> float:
    """Memory that this process occupies now (where the system does not tell: its peak), in bytes."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return float(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
