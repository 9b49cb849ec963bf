"""The playground, against a local server that speaks OpenAI's images protocol."""

import base64
import io
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest


class Service(BaseHTTPRequestHandler):
    requests: ClassVar[list[dict[str, object]]] = []

    def do_GET(self) -> None:
        self._send(200, {"object": "list", "data": [{"id": "base"}, {"id": "champion"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body | {"authorization": self.headers["Authorization"]})
        if "forbidden" in body["prompt"]:
            self._send(400, {"error": {"message": "prompt: <b>not this one</b>", "param": "prompt"}})
            return
        memory = io.BytesIO()
        Image.new("RGB", (8, 8), "orange").save(memory, "PNG")
        self._send(200, {"data": [{"b64_json": base64.b64encode(memory.getvalue()).decode()}] * body["n"]})

    def _send(self, status: int, response: dict[str, object]) -> None:
        data = json.dumps(response).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NARUTO_SERVICE", f"http://127.0.0.1:{server.server_port}")
    Service.requests.clear()
    yield Service.requests
    server.shutdown()


def page() -> AppTest:
    def run() -> None:
        from dashboard.views import playground

        playground.show()

    return AppTest.from_function(run, default_timeout=60).run()


def draw(prompt: str) -> AppTest:
    app = page()
    app.text_area[0].set_value(prompt)
    app.selectbox[0].set_value("champion")
    return app.button[0].click().run()


def test_without_a_service_it_says_how_to_configure_one(home: Path) -> None:
    assert "NARUTO_SERVICE" in page().info[0].value


def test_a_service_that_does_not_answer_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NARUTO_SERVICE", "http://127.0.0.1:9")
    app = page()
    assert not app.exception
    assert "does not answer" in app.error[0].value


def test_a_prompt_becomes_a_picture_with_the_prompt_as_its_words(home: Path, service: list[dict[str, object]]) -> None:
    app = draw("a ninja")
    assert not app.exception
    assert [image.alt for element in app.image for image in element.proto.imgs] == ["a ninja"]
    (request,) = service
    assert (request["model"], request["seed"], request["n"]) == ("champion", 7, 1)
    assert request["response_format"] == "b64_json"
    assert request["authorization"] is None


def test_the_key_of_the_service_is_sent_along(
    home: Path, service: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NARUTO_SERVICE_KEY", "nk-1")
    draw("a ninja")
    assert service[0]["authorization"] == "Bearer nk-1"


def test_a_refusal_of_the_service_is_shown_as_text(home: Path, service: list[dict[str, object]]) -> None:
    app = draw("forbidden")
    assert [text.value for text in app.text] == ["prompt: <b>not this one</b>"]
    assert draw("").error[0].value == "Enter a prompt first."
