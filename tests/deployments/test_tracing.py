"""Spans reach an OTLP collector over HTTP, in the client's trace."""

import gzip
import os
import signal
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.deployments.serving import free_port, two_runs, wait_until_ready
from tests.preloaded import Preloaded

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(BaseHTTPRequestHandler):
    """An OTLP receiver."""

    requests: ClassVar[list[ExportTraceServiceRequest]] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        assert self.path == "/v1/traces"
        self.requests.append(ExportTraceServiceRequest.FromString(data))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def spans() -> dict[str, Span]:
    resources = [resource for request in Collector.requests for resource in request.resource_spans]
    return {span.name: span for resource in resources for scope in resource.scope_spans for span in scope.spans}


def test_a_request_is_traced_with_its_waiting_and_drawing_and_nothing_private(
    services: Preloaded, tmp_path: Path, collector: str
) -> None:
    port = free_port()
    variables = {
        "NARUTO_SERVICE_PORT": str(port), "NARUTO_SERVICE_WATCHED_SHARE": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }  # fmt: skip
    with two_runs(tmp_path) as runs, Path(os.devnull).open("wb") as nowhere:
        environment = os.environ | variables | {"NARUTO_HOME": str(runs.home)}
        process = services.start("deployments.service", "serve", environment=environment, output=nowhere)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url)
            body = {"prompt": "a very secret word", "steps": 3}
            headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
            assert httpx2.post(f"{url}/v1/images/generations", json=body, headers=headers).status_code == 200
            deadline = time.monotonic() + 120
            while "draw" not in spans() and time.monotonic() < deadline:
                time.sleep(0.1)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait()
    by_name = spans()
    request, wait, draw = (by_name[name] for name in ("POST /v1/images/generations", "wait", "draw"))
    assert request.trace_id.hex() == draw.trace_id.hex() == TRACE
    assert wait.parent_span_id == draw.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= wait.end_time_unix_nano <= draw.end_time_unix_nano
    attributes = {attribute.key: attribute.value for attribute in draw.attributes}
    assert (attributes["naruto.steps"].int_value, attributes["naruto.model"].string_value) == (3, runs.first)
    assert "secret" not in str(Collector.requests)
    assert not [name for name in by_name if "readyz" in name]
    (resource_spans, *_) = Collector.requests[0].resource_spans
    resource = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
    assert resource["service.name"] == "naruto-service"
