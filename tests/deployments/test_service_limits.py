"""Keys, rate limits, the queue's limit, moderation, and what happens to jobs after a kill."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from PIL.Image import Image

from deployments.service.errors import ApiError
from deployments.service.keys import Keys, RateLimiter
from deployments.service.model_registry import ModelSpec
from deployments.service.options import ServiceOptions
from deployments.service.routes import _orders
from deployments.service.schemas import ImageRequest
from deployments.service.server import server_config
from deployments.service.state import service_state
from naruto_core.errors import ServiceFailed, ServiceKeyInvalid
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.settings import Settings
from tests.deployments.serving import Runs, free_port, serving, two_runs, wait_until_ready
from tests.preloaded import Preloaded, Program


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with two_runs(tmp_path_factory.mktemp("ordered")) as two:
        yield two


def test_steps_that_a_runs_sampler_does_not_have_are_refused():
    drawing = GenerationSection(suite="-", resolution=64, num_inference_steps=8, scheduler="lcm", batch_size=1)
    spec = ModelSpec("run", ModelSection(base="base"), drawing)
    options = SimpleNamespace(longest_prompt=100, most_pictures=4, most_steps=150)
    state: Any = SimpleNamespace(options=options, moderator=SimpleNamespace(prompt=lambda _text: ""))
    (order,) = _orders(ImageRequest(prompt="a cat"), spec, state)
    assert order.num_inference_steps == 8
    with pytest.raises(ApiError, match=r"steps: the model's sampler, lcm, has at most 50"):
        _orders(ImageRequest(prompt="a cat", steps=51), spec, state)


def test_keys_are_stored_as_hashes_and_can_be_removed(tmp_path: Path):
    keys = Keys(tmp_path / "keys.json")
    token = keys.add("ada")
    assert token not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert Keys(tmp_path / "keys.json").owner(token) == "ada"
    assert keys.owner(token[:-1]) is None
    with pytest.raises(ServiceKeyInvalid, match="ada has a key"):
        keys.add("ada")
    keys.remove("ada")
    assert keys.owner(token) is None


def test_a_rate_limit_is_used_up_and_recovers():
    limiter = RateLimiter(per_minute=600)
    assert limiter.take("ada", 600) == 0
    assert 0 < limiter.take("ada", 5) <= 0.5
    assert limiter.take("bob", 5) == 0
    time.sleep(0.6)
    assert limiter.take("ada", 5) == 0


def test_a_wrong_key_a_used_up_rate_limit_and_a_full_queue_are_rejected_as_openai_does(runs: Runs):
    import openai

    token = Keys(runs.home / "service" / "keys.json").add("ada")
    other = Keys(runs.home / "service" / "keys.json").add("bob")
    try:
        with serving(runs.home, pictures_per_minute=6, longest_queue=6, most_steps=40) as service:
            wrong = openai.OpenAI(base_url=f"{service.url}/v1", api_key="nk-wrong", max_retries=0)
            with pytest.raises(openai.AuthenticationError):
                wrong.images.generate(prompt="x")
            of_ada = {"Authorization": f"Bearer {token}"}
            url = f"{service.url}/v1/images/generations"
            job = httpx2.post(url, json={"prompt": "x", "steps": 2}, headers=of_ada | {"Prefer": "respond-async"})
            job_url = service.url + job.headers["Location"]
            assert httpx2.get(job_url, headers=of_ada).status_code == 200
            of_bob = {"Authorization": f"Bearer {other}"}
            unknown = service.url + "/v1/jobs/job-" + "0" * 32
            answers = [
                (answer.status_code, answer.text)
                for method, address in (("GET", ""), ("DELETE", ""), ("GET", "/events"))
                for job_of in (job_url, unknown)
                for answer in [httpx2.request(method, job_of + address, headers=of_bob)]
            ]
            assert {status for status, _ in answers} == {404}
            assert len(set(answers)) == 1  # another key's job is as one that does not exist
            assert httpx2.get(job_url, headers=of_ada).json()["status"] != "cancelled"

            def ask() -> httpx2.Response:
                body = {"prompt": "x", "steps": 40, "n": 3}
                return httpx2.post(url, json=body, headers=of_bob | {"Prefer": "respond-async"})

            accepted = [ask() for _ in range(2)]
            assert [reply.status_code for reply in accepted] == [202, 202]
            limited = ask()
            assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert int(limited.headers["Retry-After"]) >= 1
            full = httpx2.post(url, json={"prompt": "x", "n": 5}, headers=of_ada)
            assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
            for reply in accepted:  # or the service would draw them before it ends
                httpx2.delete(service.url + reply.headers["Location"], headers=of_bob)
    finally:
        Keys(runs.home / "service" / "keys.json").remove("ada")
        Keys(runs.home / "service" / "keys.json").remove("bob")


def test_a_request_that_arrives_too_slowly_is_ended_and_no_other_connection_is():
    """Over a raw socket: headers a byte at a time, a body that stops, and a second request of a connection."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while scope["type"] == "http" and (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    port = free_port()
    server = uvicorn.Server(server_config(app, request_seconds=0.4, port=port, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
        whole = head + b"123456789"
        slow = {"headers": head[:-9], "body": head + b"12", "silence": b"", "second request": whole}
        connections = {name: socket.create_connection(("127.0.0.1", port)) for name in slow}
        patient = socket.create_connection(("127.0.0.1", port))
        patient.sendall(whole)
        for name, connection in connections.items():
            connection.settimeout(10)
            connection.sendall(slow[name])
        assert b" 200 OK" in connections["second request"].recv(4096)
        connections["second request"].sendall(head[:20])
        answers = {name: _read_to_end(connection) for name, connection in connections.items()}
        assert {name for name, answer in answers.items() if b" 408 " not in answer} == set()
        assert b"did not arrive within 0.4 s" in answers["headers"]
        patient.sendall(whole)  # an idle connection is not a slow one
        patient.settimeout(10)
        received = b""
        while received.count(b" 200 OK") < 2 and (part := patient.recv(4096)):
            received += part
        assert received.count(b" 200 OK") == 2
    finally:
        server.should_exit = True
        thread.join()


def _read_to_end(connection: socket.socket) -> bytes:
    received = b""
    with connection:
        while part := connection.recv(4096):
            received += part
    return received


class SwordModerator:
    """A class that NARUTO_SERVICE_CHECKER names."""

    def prompt(self, text: str) -> str | None:
        return "no swords" if "sword" in text else None

    def picture(self, picture: Image) -> str | None:
        return "too wide" if picture.width > 64 else None


def test_a_moderator_refuses_prompts_and_pictures_with_its_reason(runs: Runs):
    with serving(runs.home, checker="tests.deployments.test_service_limits:SwordModerator") as service:
        prompt = service.ask(prompt="a sword", steps=1)
        assert (prompt.status_code, prompt.json()["error"]["code"]) == (400, "content_policy_violation")
        assert "no swords" in prompt.json()["error"]["message"]
        picture = service.ask(prompt="a cat", steps=1, size="128x64")
        assert (picture.status_code, picture.json()["error"]["code"]) == (400, "content_policy_violation")
        assert "too wide" in picture.json()["error"]["message"]
        assert service.ask(prompt="a cat", steps=1).status_code == 200


def test_a_moderator_that_cannot_be_imported_is_one_sentence(tmp_path: Path):
    with pytest.raises(ServiceFailed, match=r"NARUTO_SERVICE_CHECKER='no\.such:thing'"):
        service_state(Settings(home=tmp_path, device="cpu"), ServiceOptions(checker="no.such:thing"))


def steps(url: str) -> str:
    """The metric line of the denoising steps."""
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next(line for line in lines if line.startswith("naruto_steps_total"))


def start(services: Preloaded, home: Path, port: int) -> Program:
    variables = {
        "NARUTO_HOME": str(home),
        "NARUTO_SERVICE_PORT": str(port),
        "NARUTO_SERVICE_INSTANCE": "one",
        "NARUTO_SERVICE_WATCHED_SHARE": "0",
    }
    with Path(os.devnull).open("wb") as nowhere:
        return services.start("deployments.service", "serve", environment=os.environ | variables, output=nowhere)


def test_after_a_kill_its_jobs_are_lost_and_after_sigterm_accepted_pictures_are_drawn(services: Preloaded, runs: Runs):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = start(services, runs.home, port)
    try:
        wait_until_ready(url)
        body = {"prompt": "x", "steps": 60, "n": 2}
        job = httpx2.post(f"{url}/v1/images/generations", json=body, headers={"Prefer": "respond-async"})
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process = start(services, runs.home, port)
        wait_until_ready(url)
        lost = httpx2.get(url + job.headers["Location"]).json()
        assert lost["status"] == "lost"
        assert "again" in lost["error"]
        before = steps(url)  # those of the warm-up
        with ThreadPoolExecutor(1) as other:
            last = other.submit(httpx2.post, f"{url}/v1/images/generations", json=body, timeout=200)
            while steps(url) == before:
                assert not last.done()
                time.sleep(0.02)
            os.kill(process.pid, signal.SIGTERM)
            assert last.result().status_code == 200
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()


def test_without_keys_it_listens_on_this_machine_only(tmp_path: Path):
    variables = {"NARUTO_HOME": str(tmp_path), "NARUTO_SERVICE_HOST": "0.0.0.0"}
    command = [sys.executable, "-m", "deployments.service", "serve"]
    process = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert process.returncode != 0
    assert process.stderr.startswith("error: without keys")


def test_every_response_conforms_to_the_schema(runs: Runs):
    import schemathesis  # it takes two seconds, in every process that collects tests
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

    checks, requests = [not_a_server_error, status_code_conformance, response_schema_conformance], 0
    with serving(runs.home, most_steps=2, most_pictures=2) as service:
        schema = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
        for operation in schema.get_all_operations():

            @settings(
                max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
            )
            @given(case=operation.ok().as_strategy())
            def ask(case: Any) -> None:
                nonlocal requests
                requests += 1
                case.call_and_validate(checks=checks, timeout=30)

            ask()
    assert requests > 100
