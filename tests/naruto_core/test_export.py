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
    """The sentence with which a call is refused; no secret is in it, nor in anything else that was said."""

    def refused(call: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(ServiceFailed) as failed:
            call(*arguments)
        told = "".join(traceback.format_exception(failed.value))
        said = "".join(capfd.readouterr()) + caplog.text + told
        assert [secret for secret in (TOKEN, "hf_bro", "s3cr3t") if secret in said] == []
        return str(failed.value)

    return refused


def _wanted(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pkl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _asked(hub: ModelHub, path: str) -> int:
    return sum(path in request for request in hub.requests)


def test_a_push_is_private_one_commit_tagged_and_card_weights_and_pictures_only(
    hub: ModelHub, folder: Path, push: Push
):
    assert push() == f"{hub.address}/me/lora"
    assert hub.private is True
    assert hub.files == _wanted(folder)
    assert hub.commits == [sorted(_wanted(folder))]
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
    deadline = time.monotonic() + 60
    while len(hub.received) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (len(hub.received), hub.commits) == (2, [])
    hub.stall_after = None
    subprocess.run(command, env=variables, capture_output=True, timeout=90, check=True)
    large = [content for name, content in _wanted(folder).items() if name != "README.md"]
    assert sorted(hub.received) == sorted(hashlib.sha256(content).hexdigest() for content in large)
    assert (hub.files, len(hub.commits), hub.tags) == (_wanted(folder), 1, {RUN: hub.head})


@pytest.mark.parametrize(
    ("path", "status"),
    [("/repos/create", 503), ("/validate-yaml", 502), ("/commit/main", 500), ("/tag/", 429), ("/commit/main", 504)],
)
def test_what_may_pass_is_tried_again(hub: ModelHub, folder: Path, push: Push, path: str, status: int):
    times = 1 if path == "/validate-yaml" else 2  # there the client hides how long the hub wants to rest
    hub.troubles.append(Trouble(path, status, {"Retry-After": "0"}, times))
    push()
    assert _asked(hub, path) > times
    assert (hub.files, len(hub.commits), hub.tags) == (_wanted(folder), 1, {RUN: hub.head})


def test_a_commit_whose_answer_was_lost_is_not_made_twice(hub: ModelHub, folder: Path, push: Push):
    hub.lose_commits = 1
    push()
    assert (hub.files, len(hub.commits), hub.tags) == (_wanted(folder), 1, {RUN: hub.head})


def test_the_pause_a_hub_asks_for_is_kept(hub: ModelHub, push: Push):
    hub.troubles.append(Trouble("/repos/create", 429, {"Retry-After": "2"}))
    began = time.monotonic()
    push()
    assert time.monotonic() - began >= 2


def test_a_pause_may_be_given_as_a_date():
    for seconds, least in ((90, 80), (-90, 0)):
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
        response = httpx2.Response(503, headers={"Retry-After": date}, request=httpx2.Request("GET", "http://hub"))
        pause = explain_error(HfHubHTTPError("no", response=response)).retry_after
        assert pause is not None
        assert least <= pause <= max(0, seconds)


def test_a_hub_that_asks_for_an_hour_is_left_alone_with_a_sentence(
    hub: ModelHub, folder: Path, push: Push, refused: Callable[..., str]
):
    hub.troubles.append(Trouble("/repos/create", 429, {"RateLimit": '"api";r=0;t=3600'}))
    said = refused(push)
    assert said.startswith("pushing to me/lora failed: it answered 429")
    assert said.endswith(f"and asks for 3600 s of rest; everything is safe in {folder}, and the same command goes on.")
    assert _asked(hub, "/repos/create") == 1


def test_a_hub_that_stays_down_is_one_sentence_after_four_tries(hub: ModelHub, push: Push, refused: Callable[..., str]):
    hub.troubles.append(Trouble("/tag/", 503, {"Retry-After": "0"}, times=99))
    assert "it answered 503" in refused(push)
    assert _asked(hub, "/tag/") == 4


@pytest.mark.parametrize(("status", "words"), [(401, "accept the token"), (403, "may not write"), (404, "may not see")])
def test_a_refusal_is_one_sentence_at_the_first_try(
    hub: ModelHub, push: Push, refused: Callable[..., str], status: int, words: str
):
    hub.troubles.append(Trouble("/commit/main", status, times=99))
    assert words in refused(push)
    assert _asked(hub, "/commit/") == 1


def test_a_refused_token_is_one_sentence(push: Push, refused: Callable[..., str]):
    assert "it does not accept the token in HF_TOKEN" in refused(push, "hf_broken")


def test_a_token_that_no_request_can_carry_is_one_sentence(push: Push, refused: Callable[..., str]):
    assert "HF_TOKEN or HF_ENDPOINT holds what cannot stand there" in refused(push, "hf_bro\nken")


def test_a_refused_upload_does_not_tell_the_signed_address(hub: ModelHub, push: Push, refused: Callable[..., str]):
    hub.troubles.append(Trouble("/store/", 410, times=99, body=""))
    assert "it answered 410" in refused(push)


def test_a_public_repository_is_not_pushed_to_when_the_push_should_be_private(
    hub: ModelHub, folder: Path, push: Push, refused: Callable[..., str]
):
    hub.private = False
    assert "is public, but publish.private is true" in refused(push)
    assert hub.files == {}
    push(private=False)
    assert hub.files == _wanted(folder)


def test_a_hub_that_cannot_be_reached_is_one_sentence(
    push: Push, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub_client, "_WAITS", (0.0, 0.0, 0.0))
    assert "pushing to me/lora failed: it cannot be reached (ConnectError)" in refused(push)
    assert hub_client.check_token("me/lora", TOKEN) is False


def test_whose_a_token_is_and_what_it_may_is_asked_without_changing_anything(
    hub: ModelHub, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    assert all(hub_client.check_token(name, TOKEN) for name in ("me/lora", "us/lora", "lora"))
    refusal = refused(hub_client.check_token, "your-name/lora", TOKEN)
    assert "belongs to me, who cannot write to your-name/lora" in refusal
    assert "does not accept the token" in refused(hub_client.check_token, "me/lora", "hf_broken")
    hub.role = "fineGrained"
    assert hub_client.check_token("another/lora", TOKEN)
    hub.role = "read"
    assert "HF_TOKEN may only read" in refused(hub_client.check_token, "me/lora", TOKEN)
    hub.troubles.append(Trouble("/whoami", 503))
    assert hub_client.check_token("me/lora", TOKEN) is False
    assert {request.split()[0] for request in hub.requests} == {"GET"}
