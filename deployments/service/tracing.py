"""OpenTelemetry traces: how long a request waited and was drawn. Exported only if OTEL_EXPORTER_OTLP_ENDPOINT is set.

FastAPI records a span for each request, in the client's trace if it sends one, and exports all spans as the OTEL_*
variables say. The spans `wait` and `draw` of a job are recorded here. No span has a prompt or a key.
"""

from collections.abc import MutableMapping
from datetime import datetime
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import context, trace
from opentelemetry.trace import StatusCode

from naruto_core.serving import JobState, ServiceJob

_tracer = trace.get_tracer("naruto.service")  # does nothing until FastAPI has configured an exporter
_UNTRACED = ("/healthz", "/readyz", "/metrics", "/v1/pictures/")  # polled all the time; URLs that open pictures


def _untraced(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(_UNTRACED)


TELEMETRY: TelemetryConfig = {
    "auto_configure": True,
    "exclude": _untraced,
    "operation_spans": False,
    "metrics": False,  # Prometheus has them
    "logs": False,  # exceptions may quote a request
}


def record_spans(job: ServiceJob, parent: context.Context) -> None:
    """Record the spans `wait` and `draw` of a job that has ended, in the trace of its request."""
    if not job.finished_at:
        return
    attributes = {"naruto.model": job.model, "naruto.pictures": job.n, "naruto.steps": job.num_inference_steps,
                  "naruto.width": job.width, "naruto.height": job.height, "naruto.end": str(job.state)}  # fmt: skip
    started_at = job.started_at or job.finished_at
    for name, start, end in (("wait", job.asked_at, started_at), ("draw", started_at, job.finished_at)):
        span = _tracer.start_span(name, parent, attributes=attributes, start_time=_nanoseconds(start))
        if job.state is JobState.FAILED:
            span.set_status(StatusCode.ERROR, job.failure)
        span.end(_nanoseconds(end))


def _nanoseconds(time: datetime) -> int:
    """Since 1970."""
    return int(time.timestamp() * 1e9)
