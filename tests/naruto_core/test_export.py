"""Pushing a folder, against a local server that speaks the hub's endpoints."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors.numpy import save_file

from naruto_core import hub as hub_client
from naruto_core.errors import ServiceFailed
from naruto_core.hub import explain_error
from tests.model_hub import TOKEN, ModelHub, Trouble

RUN = "2026-11-23-mini-3f9c"
PUSH = f"""
import sys
from pathlib import Path
from naruto_core.hub import push_folder
push_folder(Path(sys.argv[1]), "me/lora", True, "{RUN}", "{TOKEN}")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "publish"
    (folder / "samples").mkdir(parents=True)
    (folder / "ink").mkdir()
    (folder / "README.md").write_text("---\nlicense: unknown\n---\n\n# A card\n")
    for number, name in enumerate(("pytorch_lora_weights", RUN, "tokens_emb", "ink/pytorch_lora_weights")):
        save_file({"weight": np.full(4, number, dtype=np.float32)}, folder / f"{name}.safetensors")
    (folder / "samples" / "a1b2.png").write_bytes(b"a picture")
    (folder / "notes.pkl").write_bytes(b"not to be sent")
    return folder


@pytest.fixture(autouse=True)
def _at_this_hub(hub: ModelHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


Push = Callable[..., str]


@pytest.fixture
def push(folder: Path) -> Push:
    def push(token: str = TOKEN, private: bool = True) -> str:
        return hub_client.push_folder(folder, "me/lora", private, RUN, token)

    return push


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """The message of the ServiceFailed that a call raises; no secret is in it, in the output or in the log."""

    def refused(call: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(ServiceFailed) as failed:
            call(*arguments)
        trace = "".join(traceback.format_exception(failed.value))
        output = "".join(capfd.readouterr()) + caplog.text + trace
        assert [secret for secret in (TOKEN, "hf_bro", "s3cr3t") if secret in output] == []
        return str(failed.value)

    return refused


def _pushed_files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pkl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _requests(hub: ModelHub, path: str) -> int:
    return sum(path in request for request in hub.requests)


def test_a_push_is_private_one_commit_tagged_and_card_weights_and_pictures_only(
    hub: ModelHub, folder: Path, push: Push
):
    assert push() == f"{hub.address}/me/lora"
    assert hub.private is True
    assert hub.files == _pushed_files(folder)
    assert hub.commits == [sorted(_pushed_files(folder))]
    assert hub.tags == {RUN: hub.head}
    assert hub.tokens <= {f"Bearer {TOKEN}", None}  # None: signed addresses need no token


def test_pushing_again_sends_nothing_and_commits_nothing(hub: ModelHub, push: Push):
    push()
    sent, tags = list(hub.received), dict(hub.tags)
    push()
    assert (hub.received, hub.tags, len(hub.commits)) == (sent, tags, 1)


def test_a_push_killed_half_way_sends_each_file_once(hub: ModelHub, folder: Path):
    variables = os.environ | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", PUSH, str(folder)]
    hub.stall_after = 2
    process = subprocess.Popen(command, env=variables, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(hub.received) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (len(hub.received), hub.commits) == (2, [])
    hub.stall_after = None
    subprocess.run(command, env=variables, capture_output=True, timeout=90, check=True)
    large = [content for name, content in _pushed_files(folder).items() if name != "README.md"]
    assert sorted(hub.received) == sorted(hashlib.sha256(content).hexdigest() for content in large)
    assert (hub.files, len(hub.commits), hub.tags) == (_pushed_files(folder), 1, {RUN: hub.head})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/repos/create", 503), ("/validate-yaml", 502), ("/commit/main", 500), ("/tag/", 429), ("/commit/main", 504)],
)
def test_an_error_that_may_pass_is_retried(hub: ModelHub, folder: Path, push: Push, path: str, status: int):
    times = 1 if path == "/validate-yaml" else 2  # there the client hides the hub's Retry-After
    hub.troubles.append(Trouble(path, status, {"Retry-After": "0"}, times))
    push()
    assert _requests(hub, path) > times
    assert (hub.files, len(hub.commits), hub.tags) == (_pushed_files(folder), 1, {RUN: hub.head})


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: ModelHub, folder: Path, push: Push):
    hub.lose_commits = 1
    push()
    assert (hub.files, len(hub.commits), hub.tags) == (_pushed_files(folder), 1, {RUN: hub.head})


def test_the_wait_that_a_hub_asks_for_is_respected(hub: ModelHub, push: Push):
    hub.troubles.append(Trouble("/repos/create", 429, {"Retry-After": "2"}))
    began = time.monotonic()
    push()
    assert time.monotonic() - began >= 2


def test_retry_after_may_be_a_date():
    for seconds, least in ((90, 80), (-90, 0)):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        response = httpx2.Response(503, headers={"Retry-After": date}, request=httpx2.Request("GET", "http://hub"))
        delay = explain_error(HfHubHTTPError("no", response=response)).retry_after
        assert delay is not None
        assert least <= delay <= max(0, seconds)


def test_a_hub_that_asks_to_wait_for_an_hour_is_not_retried(
    hub: ModelHub, folder: Path, push: Push, refused: Callable[..., str]
):
    hub.troubles.append(Trouble("/repos/create", 429, {"RateLimit": '"api";r=0;t=3600'}))
    message = refused(push)
    assert message.startswith("pushing to me/lora failed: it answered 429")
    files = f"nothing is lost: the files are in {folder}; run the same command again."
    assert message.endswith(f"and asks to wait 3600 s; {files}")
    assert _requests(hub, "/repos/create") == 1


def test_a_hub_that_stays_down_is_tried_four_times(hub: ModelHub, push: Push, refused: Callable[..., str]):
    hub.troubles.append(Trouble("/tag/", 503, {"Retry-After": "0"}, times=99))
    assert "it answered 503" in refused(push)
    assert _requests(hub, "/tag/") == 4


@pytest.mark.parametrize(
    ("status", "words"), [(401, "accept the token"), (403, "may not write"), (404, "may not read")]
)
def test_a_permanent_error_is_not_retried(
    hub: ModelHub, push: Push, refused: Callable[..., str], status: int, words: str
):
    hub.troubles.append(Trouble("/commit/main", status, times=99))
    assert words in refused(push)
    assert _requests(hub, "/commit/") == 1


def test_an_invalid_token_is_named(push: Push, refused: Callable[..., str]):
    assert "it does not accept the token in HF_TOKEN" in refused(push, "hf_broken")


def test_a_token_with_a_line_break_is_an_error_without_the_token(push: Push, refused: Callable[..., str]):
    assert "HF_TOKEN or HF_ENDPOINT has characters that are not allowed" in refused(push, "hf_bro\nken")


def test_the_error_of_an_upload_does_not_contain_its_signed_address(
    hub: ModelHub, push: Push, refused: Callable[..., str]
):
    hub.troubles.append(Trouble("/store/", 410, times=99, body=""))
    assert "it answered 410" in refused(push)


def test_a_public_repository_is_not_pushed_to_when_the_push_should_be_private(
    hub: ModelHub, folder: Path, push: Push, refused: Callable[..., str]
):
    hub.private = False
    assert "is public, but publish.private is true" in refused(push)
    assert hub.files == {}
    push(private=False)
    assert hub.files == _pushed_files(folder)


def test_a_hub_that_cannot_be_reached_is_named(
    push: Push, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub_client, "_RETRY_DELAYS", (0.0, 0.0, 0.0))
    assert "pushing to me/lora failed: it cannot be reached (ConnectError)" in refused(push)
    assert hub_client.check_token("me/lora", TOKEN) is False


def test_the_check_of_a_token_changes_nothing(
    hub: ModelHub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    assert all(hub_client.check_token(name, TOKEN) for name in ("me/lora", "us/lora", "lora"))
    refusal = refused(hub_client.check_token, "your-name/lora", TOKEN)
    assert "belongs to me, who cannot write to your-name/lora" in refusal
    assert "does not accept the token" in refused(hub_client.check_token, "me/lora", "hf_broken")
    hub.role = "fineGrained"
    assert hub_client.check_token("another/lora", TOKEN)
    hub.role = "read"
    assert "HF_TOKEN is a read token" in refused(hub_client.check_token, "me/lora", TOKEN)
    hub.troubles.append(Trouble("/whoami", 503))
    assert hub_client.check_token("me/lora", TOKEN) is False
    assert {request.split()[0] for request in hub.requests} == {"GET"}
