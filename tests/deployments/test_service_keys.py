"""Authentication: decided when the service starts; with a missing or damaged key file every request is rejected."""

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from deployments.service.__main__ import app as command
from deployments.service.app import create_app
from deployments.service.image_files import ImageFiles
from deployments.service.keys import Keys, KeysUnusable
from deployments.service.options import ServiceOptions, read_options
from naruto_core.access_control import is_loopback, signing_key
from naruto_core.errors import RecipeInvalid, RecordDamaged, ServiceFailed
from naruto_core.settings import Settings
from tests.deployments.serving import free_port
from tests.preloaded import Preloaded

DAMAGES = {
    "gone": None,
    "no bytes": b"",
    "null": b"null",
    "list": b"[]",
    "no keys": b"{}",
    "cut": b'{"ada": "0123',
    "number": b'{"ada": 5}',
    "no digest": b'{"ada": "x"}',
    "no Unicode": b"\xff\xfe",
    "nested": b"[" * 100_000,
}


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, new_database: Path) -> None:
    """Every service opens a database: a copy, because to make one takes 0.08 s."""
    shutil.copyfile(new_database, tmp_path / "naruto.db")


def service(home: Path, host: str = "0.0.0.0", *, public_pages: bool = False) -> TestClient:
    """The app as it answers, without starting to draw."""
    options = ServiceOptions(host=host, watched_share=0.0, public_pages=public_pages)
    return TestClient(create_app(Settings(home=home, device="cpu"), options), raise_server_exceptions=False)


def worst_status(client: TestClient, token: str = "") -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    statuses = {client.get(path, headers=headers).status_code for path in ("/v1/models", "/v1/models/base")}
    statuses.add(client.post("/v1/images/generations", json={"prompt": "x"}, headers=headers).status_code)
    statuses.add(client.get("/v1/jobs/job-1", headers=headers).status_code)
    return max(statuses - {404, 200}, default=200)


def damage(path: Path, content: bytes | None) -> None:
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("kind", DAMAGES)
def test_with_a_missing_empty_or_damaged_key_file_every_request_is_rejected_and_the_log_says_why(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "service" / "keys.json"
    token = Keys(path).add("ada")
    content = path.read_bytes()
    client = service(tmp_path)
    assert (worst_status(client), worst_status(client, token)) == (401, 200)
    damage(path, DAMAGES[kind])
    with caplog.at_level(logging.WARNING, "naruto.service"):
        status = 401 if kind == "no keys" else 503
        assert (worst_status(client), worst_status(client, token), worst_status(client, "nk-other")) == (status,) * 3
    reasons = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert len(reasons) == 1  # once, not at every request
    assert str(tmp_path) not in client.get("/v1/models").text
    path.write_bytes(content)
    assert (worst_status(client), worst_status(client, token)) == (401, 200)


def test_metrics_and_documentation_need_a_key_where_requests_do_unless_they_are_made_public(tmp_path: Path):
    def statuses(client: TestClient, token: str = "") -> list[int]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        pages = ("/metrics", "/docs", "/openapi.json")
        return [client.get(page, headers=headers).status_code for page in pages]

    assert statuses(service(tmp_path, "127.0.0.1")) == [200] * 3
    token = Keys(tmp_path / "service" / "keys.json").add("prometheus")
    client = service(tmp_path)
    assert (statuses(client), statuses(client, token)) == ([401] * 3, [200] * 3)
    assert client.get("/healthz").status_code == 200, "probes have no key"
    public = service(tmp_path, public_pages=True)
    assert statuses(public) == [200] * 3
    assert worst_status(public) == 401


def test_after_the_last_key_was_removed_every_request_is_rejected_at_any_address(tmp_path: Path):
    for host in ("0.0.0.0", "127.0.0.1"):
        token = Keys(tmp_path / "service" / "keys.json").add("ada")
        client = service(tmp_path, host)
        Keys(tmp_path / "service" / "keys.json").remove("ada")
        assert (worst_status(client), worst_status(client, token)) == (401, 401)


def test_a_local_service_that_was_started_without_keys_requires_none_until_it_is_restarted(tmp_path: Path):
    client = service(tmp_path, "127.0.0.1")
    assert worst_status(client) == 200
    Keys(tmp_path / "service" / "keys.json").add("ada")
    assert worst_status(client) == 200
    assert worst_status(service(tmp_path, "127.0.0.1")) == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "", "example.org"])
@pytest.mark.parametrize("kind", ["gone", "no keys", "null", "no bytes"])
def test_at_another_address_it_does_not_start_without_a_key(tmp_path: Path, host: str, kind: str):
    Keys(tmp_path / "service" / "keys.json").add("ada")
    damage(tmp_path / "service" / "keys.json", DAMAGES[kind])
    with pytest.raises(KeysUnusable if kind in ("null", "no bytes") else ServiceFailed):
        service(tmp_path, host)


def test_a_local_service_does_not_start_with_a_damaged_key_file(tmp_path: Path):
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "keys.json").write_bytes(b"null")
    with pytest.raises(KeysUnusable, match="put it back, or remove it and make keys again"):
        service(tmp_path, "127.0.0.1")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_only_loopback_addresses_are_local(host: str, local: bool):
    assert is_loopback(host) == local


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("127.0.0.1", "starts without keys, for everybody on this machine"), ("0.0.0.0", "one at 0.0.0.0 does not start")],
)
def test_the_list_of_keys_says_what_it_means_that_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, sentence: str
):
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.setenv("NARUTO_SERVICE_HOST", host)
    run = CliRunner().invoke
    assert sentence in run(command, ["keys"]).output
    assert run(command, ["add-key", "ada"]).stdout.startswith("nk-")
    assert run(command, ["keys"]).output == "ada\n"
    assert "That was the last key" in run(command, ["remove-key", "ada"]).stderr
    assert sentence in run(command, ["keys"]).output
    (tmp_path / "service" / "keys.json").write_bytes(b"null")
    assert isinstance(run(command, ["keys"]).exception, KeysUnusable)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "abc", "NARUTO_SERVICE_PORT: Input should be a valid integer"),
        ("PUBLIC_URL", "pictures.example", "NARUTO_SERVICE_PUBLIC_URL: .*write it like https://pictures.example.org"),
        ("PUBLIC_URL", "https://a b", "NARUTO_SERVICE_PUBLIC_URL: .*write it like"),
        ("PUBLIC_URL", "https://a/?b", "NARUTO_SERVICE_PUBLIC_URL: .*write it like"),
    ],
)
def test_a_wrong_setting_of_the_service_is_one_sentence(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(f"NARUTO_SERVICE_{name}", value)
    with pytest.raises(RecipeInvalid, match=sentence):
        read_options()


def test_keys_that_are_made_at_the_same_time_are_all_stored(tmp_path: Path):
    path = tmp_path / "keys.json"
    workers = [threading.Thread(target=lambda n=n: Keys(path).add(f"k{n}")) for n in range(24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Keys(path).names()) == 24
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"x" * 31])
def test_a_damaged_signing_key_signs_no_url(tmp_path: Path, content: bytes):
    (tmp_path / "signing-key").write_bytes(content)
    with pytest.raises(RecordDamaged, match=r"signing-key is not the key that was written: remove it"):
        ImageFiles(tmp_path, 60, 1e9)
    (tmp_path / "signing-key").unlink()
    files = ImageFiles(tmp_path, 60, 1e9)
    name = files.save(b"x", "png")
    expires, _, signature = files.url(name).partition("expires=")[2].partition("&signature=")
    assert files.path(name, int(expires), signature)
    assert (tmp_path / "signing-key").stat().st_mode & 0o077 == 0
    assert signing_key(tmp_path / "signing-key") == files.key


@pytest.fixture
def running(services: Preloaded, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address, key) of `naruto-service` at every address of this machine."""
    token, port = Keys(tmp_path / "service" / "keys.json").add("ada"), free_port()
    variables = {
        "NARUTO_HOME": str(tmp_path), "NARUTO_SERVICE_HOST": "0.0.0.0", "NARUTO_SERVICE_PORT": str(port),
        "NARUTO_SERVICE_WATCHED_SHARE": "0",
    }  # fmt: skip
    with Path(os.devnull).open("wb") as nowhere:
        process = services.start("deployments.service", "serve", environment=os.environ | variables, output=nowhere)
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/healthz")
            break
        except httpx2.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}", token
    process.kill()


def test_the_command_rejects_every_request_after_the_last_key_was_removed(running: tuple[str, str], tmp_path: Path):
    url, token = running
    authorization = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(f"{url}/v1/models").status_code == 401
    assert httpx2.get(f"{url}/v1/models", headers=authorization).status_code == 200
    Keys(tmp_path / "service" / "keys.json").remove("ada")
    assert {httpx2.get(f"{url}/v1/models", headers=headers).status_code for headers in ({}, authorization)} == {401}
