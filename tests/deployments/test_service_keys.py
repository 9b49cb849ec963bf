"""Whom the service lets in: decided when it starts, and nobody when its keys are gone or damaged."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from deployments.service.__main__ import app as command
from deployments.service.app import create_app
from deployments.service.image_files import PictureFiles
from deployments.service.keys import Keys, KeysUnusable
from deployments.service.options import ServiceOptions
from naruto_core.access_control import is_loopback, signing_key
from naruto_core.errors import RecordDamaged, ServiceFailed
from naruto_core.settings import Settings
from tests.deployments.serving import free_port

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


def service(home: Path, host: str = "0.0.0.0") -> TestClient:
    """The app as it answers, without starting to draw."""
    options = ServiceOptions(host=host, watched_share=0.0)
    return TestClient(create_app(Settings(home=home, device="cpu"), options), raise_server_exceptions=False)


def asked(client: TestClient, token: str = "") -> int:
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
def test_beyond_this_machine_keys_that_are_gone_empty_or_damaged_let_nobody_in_and_the_log_says_why(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "service" / "keys.json"
    token = Keys(path).add("ada")
    whole = path.read_bytes()
    client = service(tmp_path)
    assert (asked(client), asked(client, token)) == (401, 200)
    damage(path, DAMAGES[kind])
    with caplog.at_level(logging.WARNING, "naruto.service"):
        refused = 401 if kind == "no keys" else 503
        assert (asked(client), asked(client, token), asked(client, "nk-other")) == (refused,) * 3
    reasons = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    assert len(reasons) == 1  # once, not at every request
    assert str(tmp_path) not in client.get("/v1/models").text
    path.write_bytes(whole)
    assert (asked(client), asked(client, token)) == (401, 200)


def test_after_the_last_key_was_removed_nobody_is_let_in_wherever_it_listens(tmp_path: Path):
    for host in ("0.0.0.0", "127.0.0.1"):
        token = Keys(tmp_path / "service" / "keys.json").add("ada")
        client = service(tmp_path, host)
        Keys(tmp_path / "service" / "keys.json").remove("ada")
        assert (asked(client), asked(client, token)) == (401, 401)


def test_on_this_machine_without_keys_it_is_open_for_as_long_as_it_runs(tmp_path: Path):
    client = service(tmp_path, "127.0.0.1")
    assert asked(client) == 200
    Keys(tmp_path / "service" / "keys.json").add("ada")
    assert asked(client) == 200
    assert asked(service(tmp_path, "127.0.0.1")) == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "", "example.org"])
@pytest.mark.parametrize("kind", ["gone", "no keys", "null", "no bytes"])
def test_beyond_this_machine_it_does_not_start_without_a_key(tmp_path: Path, host: str, kind: str):
    Keys(tmp_path / "service" / "keys.json").add("ada")
    damage(tmp_path / "service" / "keys.json", DAMAGES[kind])
    with pytest.raises(KeysUnusable if kind in ("null", "no bytes") else ServiceFailed):
        service(tmp_path, host)


def test_a_damaged_list_of_keys_stops_the_start_on_this_machine_too(tmp_path: Path):
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
def test_only_loopback_addresses_are_this_machine(host: str, local: bool):
    assert is_loopback(host) == local


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("127.0.0.1", "starts open to everybody on this machine"), ("0.0.0.0", "one at 0.0.0.0 does not start")],
)
def test_the_list_of_keys_says_what_having_none_means(
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


def test_keys_that_are_made_and_removed_at_the_same_moment_are_all_kept(tmp_path: Path):
    path = tmp_path / "keys.json"
    workers = [threading.Thread(target=lambda n=n: Keys(path).add(f"k{n}")) for n in range(24)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(Keys(path).names()) == 24
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 32, b"x" * 31])
def test_a_damaged_signing_key_signs_no_address(tmp_path: Path, content: bytes):
    (tmp_path / "signing-key").write_bytes(content)
    with pytest.raises(RecordDamaged, match=r"signing-key is damaged: remove it"):
        PictureFiles(tmp_path, 60)
    (tmp_path / "signing-key").unlink()
    files = PictureFiles(tmp_path, 60)
    name = files.keep(b"x")
    expires, _, signature = files.address(name).partition("expires=")[2].partition("&signature=")
    assert files.path(name, int(expires), signature)
    assert (tmp_path / "signing-key").stat().st_mode & 0o077 == 0
    assert signing_key(tmp_path / "signing-key") == files.key


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(address, key) of `naruto-service` at every address of this machine."""
    token, port = Keys(tmp_path / "service" / "keys.json").add("ada"), free_port()
    here = {
        "NARUTO_HOME": str(tmp_path), "NARUTO_SERVICE_HOST": "0.0.0.0", "NARUTO_SERVICE_PORT": str(port),
        "NARUTO_SERVICE_WATCHED_SHARE": "0",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.service", "serve"], env=os.environ | here, stderr=subprocess.PIPE
    )
    assert process.stderr
    while b"startup complete" not in (line := process.stderr.readline()):
        assert line, "it ended"
    yield f"http://127.0.0.1:{port}", token
    process.kill()
    process.communicate()


def test_the_command_itself_lets_nobody_in_after_the_last_key_was_removed(running: tuple[str, str], tmp_path: Path):
    url, token = running
    mine = {"Authorization": f"Bearer {token}"}
    assert httpx2.get(f"{url}/v1/models").status_code == 401
    assert httpx2.get(f"{url}/v1/models", headers=mine).status_code == 200
    Keys(tmp_path / "service" / "keys.json").remove("ada")
    assert {httpx2.get(f"{url}/v1/models", headers=given).status_code for given in ({}, mine)} == {401}
