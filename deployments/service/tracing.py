"""OpenTelemetry: what a request waited for. Nobody hears it unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

FastAPI tells each request, in the caller's trace where it sends one, and sends all spans where the environment says; it
cannot know how long the pictures of a request waited and were drawn. No prompt and no key is ever told.
"""

from collections.abc import MutableMapping
from datetime import datetime
from typing import Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import context, trace
from opentelemetry.trace import StatusCode

from naruto_core.serving import JobState, ServiceJob

_tracer = trace.get_tracer("naruto.service")  # a stand-in until somebody listens
_UNTOLD = ("/healthz", "/readyz", "/metrics", "/v1/pictures/")  # asked all the time; addresses that open pictures


def _untold(scope: MutableMapping[str, Any]) -> bool:
    return str(scope.get("path", "")).startswith(_UNTOLD)


TELEMETRY: TelemetryConfig = {
    "auto_configure": True,
    "exclude": _untold,
    "operation_spans": False,
    "metrics": False,  # Prometheus has them
    "logs": False,  # messages of exceptions may quote a request
}


def record_spans(job: ServiceJob, asked_in: context.Context) -> None:
    """The spans `wait` and `draw` of a job that has ended, inside the request that asked for it."""
    if not job.finished_at:
        return
    facts = {"naruto.model": job.model, "naruto.pictures": job.n, "naruto.steps": job.num_inference_steps,
             "naruto.width": job.width, "naruto.height": job.height, "naruto.end": str(job.state)}  # fmt: skip
    began = job.started_at or job.finished_at
    for name, start, end in (("wait", job.asked_at, began), ("draw", began, job.finished_at)):
        span = _tracer.start_span(name, asked_in, attributes=facts, start_time=_nanoseconds(start))
        if job.state is JobState.FAILED:
            span.set_status(StatusCode.ERROR, job.failure)
        span.end(_nanoseconds(end))


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1e9)
