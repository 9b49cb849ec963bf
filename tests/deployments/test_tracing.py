"""Spans reach a collector that speaks OTLP over HTTP, in the caller's trace; nothing is sent unasked."""

import gzip
import os
import subprocess
import sys
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

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(BaseHTTPRequestHandler):
    """An OTLP receiver."""

    told: ClassVar[list[ExportTraceServiceRequest]] = []

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        assert self.path == "/v1/traces"
        self.told.append(ExportTraceServiceRequest.FromString(data))
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
    return {span.name: span for told in Collector.told for of in told.resource_spans for scope in of.scope_spans
            for span in scope.spans}  # fmt: skip


def test_a_request_is_told_with_what_it_waited_for_and_nothing_private(tmp_path: Path, collector: str) -> None:
    port = free_port()
    here = {
        "NARUTO_SERVICE_PORT": str(port), "NARUTO_SERVICE_WATCHED_SHARE": "0", "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }  # fmt: skip
    with two_runs(tmp_path) as runs:
        command = [sys.executable, "-m", "deployments.service", "serve"]
        environment = os.environ | here | {"NARUTO_HOME": str(runs.home)}
        with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                url = f"http://127.0.0.1:{port}"
                wait_until_ready(url)
                body = {"prompt": "a very secret word", "steps": 3}
                headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
                assert httpx2.post(f"{url}/v1/images/generations", json=body, headers=headers).status_code == 200
                deadline = time.monotonic() + 20
                while "draw" not in spans() and time.monotonic() < deadline:
                    time.sleep(0.1)
            finally:
                process.terminate()
    found = spans()
    request, wait, draw = (found[name] for name in ("POST /v1/images/generations", "wait", "draw"))
    assert request.trace_id.hex() == draw.trace_id.hex() == TRACE
    assert wait.parent_span_id == draw.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= wait.end_time_unix_nano <= draw.end_time_unix_nano
    facts = {one.key: one.value for one in draw.attributes}
    assert (facts["naruto.steps"].int_value, facts["naruto.model"].string_value) == (3, runs.first)
    assert "secret" not in str(Collector.told)
    assert not [name for name in found if "readyz" in name]
    resource = {one.key: one.value.string_value for one in Collector.told[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "naruto-service"
