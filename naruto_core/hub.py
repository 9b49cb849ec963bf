"""A model hub: downloaded files are checked by content, a folder is pushed in one commit, errors become sentences."""

import json
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from naruto_core.artifacts import sha256_file
from naruto_core.errors import RecordDamaged, ServiceFailed

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_hub_file(path: Path) -> Path:
    """`path` itself; RecordDamaged when it is a downloaded file whose content has changed since.

    A process reads a file once for that, as long as its size and time stay the same.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.is_file():
        status = blob.stat()
        if _digest(blob, status.st_size, status.st_mtime_ns) != blob.name:
            raise RecordDamaged(
                f"the downloaded file {path.name} is damaged: delete {blob}, and the same command downloads it again."
            )
    return path


def check_hub_snapshot(repository: str, revision: str, file: str) -> None:
    """Check every file of a downloaded snapshot, in which there is `file`; nothing is downloaded for it."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(known, str):
        for path in sorted(Path(known).parent.rglob("*")):
            check_hub_file(path)


@lru_cache(maxsize=256)
def _digest(blob: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_file(blob)


_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SIGNED = re.compile(r"(https?://[^\s?]+)\?\S+")
_REFUSED = {
    401: "it does not accept the token in HF_TOKEN (401)",
    403: "the token in HF_TOKEN may not write there (403)",
    404: "it knows no such repository, or HF_TOKEN may not see it (404)",
}


@dataclass(frozen=True, slots=True)
class HubAnswer:
    """Why something failed, in words; `pause` is for how many seconds the hub asks to be left alone."""

    why: str
    may_pass: bool = False
    pause: float | None = None


def understand(error: BaseException) -> HubAnswer:
    """What `error`, raised by the hub's client, or the cause behind it, says."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            told = cause.server_message or str(cause)
            return _answered(cause.response.status_code, cause.response.headers, told)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubAnswer("HF_HUB_OFFLINE is set: unset it, or set publish.push_to_hub=false")
        if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            # its own words would repeat the header with the token
            return HubAnswer("the request cannot be sent: HF_TOKEN or HF_ENDPOINT holds what cannot stand there")
        if isinstance(cause, httpx2.TransportError):
            return HubAnswer(f"it cannot be reached ({type(cause).__name__})", may_pass=True)
        if isinstance(cause, json.JSONDecodeError):
            return HubAnswer("it did not answer as a hub does", may_pass=True)
        cause = cause.__cause__
    return HubAnswer(_one_line(str(error) or type(error).__name__))


def _answered(status: int, headers: Mapping[str, str], told: str) -> HubAnswer:
    pause, passing = _asked_pause(headers), status in _PASSING
    # what passes is often told by a server in between, in HTML
    why = _REFUSED.get(status) or (f"it answered {status}" if passing else f"it answered {status}: {_one_line(told)}")
    if pause:
        why += f", and asks for {pause:.0f} s of rest"
    return HubAnswer(why, passing, pause)


def _asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After`, which is a number or a date, or from the hub's own `RateLimit: "api";r=0;t=55`."""
    told = headers.get("retry-after", "").strip()
    if told.isdigit():
        return float(told)
    if told:
        try:
            return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    spent = re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None


def _one_line(text: str) -> str:
    return _SIGNED.sub(r"\1", " ".join(text.split()))[:300]


PUSHED = ("README.md", "*.safetensors", "*/*.safetensors", "samples/*.png")
_WAITS = (1.0, 4.0, 15.0)  # seconds before the second, third and fourth try
_LONGEST_WAIT = 120.0  # seconds; a hub that asks for more is left alone
_TIMEOUT = 10.0  # seconds to hear whether a token is good
T = TypeVar("T")


def push_folder(folder: Path, repository: str, private: bool, tag: str, token: str) -> str:
    """Make the model `repository` if there is none, commit the files of `folder` to it, tag that state; its address.

    Nothing in the repository is removed, and a tag that is there stays. Raises ServiceFailed when the
    hub cannot be reached or refuses, and for a public repository when `private` is asked for.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with _one_sentence(
        f"pushing to {repository}", f"; everything is safe in {folder}, and the same command goes on", token
    ):
        address = _patiently(lambda: hub.create_repo(repository, private=private, exist_ok=True))
        name = address.repo_id
        if private and _patiently(lambda: hub.model_info(name)).private is False:
            raise ServiceFailed(
                f"the repository {name} is public, but publish.private is true: make it private on the hub, or run "
                "with --set publish.private=false."
            )
        revision = _patiently(lambda: _commit(hub, name, folder, f"run {tag}"))
        _patiently(lambda: hub.create_tag(name, tag=tag, revision=revision, exist_ok=True))
    return str(address)


def _commit(hub: "HfApi", repository: str, folder: Path, message: str) -> str:
    """One commit of what is new or changed; its hash, or that of the last one when nothing is."""
    from huggingface_hub import CommitOperationAdd

    paths = sorted(path for pattern in PUSHED for path in folder.glob(pattern))
    files = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
    # not upload_folder, which may make several commits
    return hub.create_commit(repository, files, commit_message=message).oid


def check_token(repository: str, token: str) -> bool:
    """Ask the hub whose token that is; False when it cannot be asked now.

    Raises ServiceFailed when the hub does not accept the token, or it cannot write to `repository`.
    """
    with _one_sentence("asking the hub about HF_TOKEN", "", token):
        try:
            owner = _owner(token)
        except Exception as error:
            if understand(error).may_pass:
                return False
            raise
    role = owner.get("auth", {}).get("accessToken", {}).get("role")
    namespace, named, _ = repository.partition("/")
    name, organisations = owner.get("name"), owner.get("orgs", [])
    known = {name, *(organisation.get("name") for organisation in organisations)}
    if role == "read":
        raise ServiceFailed("HF_TOKEN may only read: give one that may write, or set publish.push_to_hub=false.")
    # a fine-grained token need not tell where it may write
    if role == "write" and named and namespace not in known:
        raise ServiceFailed(
            f"HF_TOKEN belongs to {name}, who cannot write to {repository}: set publish.hub_model_id, e.g. to "
            f"{name}/naruto-sdxl-lora."
        )
    return True


def _owner(token: str) -> dict[str, Any]:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # not HfApi.whoami, which would wait for ever for a network that swallows everything
    address = f"{constants.ENDPOINT}/api/whoami-v2"
    answer = get_session().get(address, headers=build_hf_headers(token=token), timeout=_TIMEOUT)
    hf_raise_for_status(answer)
    return answer.json()


def _patiently(step: Callable[[], T]) -> T:
    """The result of `step`, tried again after a pause when it failed for a reason that may pass."""
    for wait in _WAITS:
        try:
            return step()
        except Exception as error:
            answer = understand(error)
            pause = wait if answer.pause is None else answer.pause
            if not answer.may_pass or pause > _LONGEST_WAIT:
                raise
        time.sleep(pause)
    return step()


@contextmanager
def _one_sentence(what: str, remedy: str, token: str) -> Generator[None]:
    """Turn what the hub's client raises into a ServiceFailed; its own messages hold addresses, and once the token."""
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        why = understand(error).why.replace(token, "***")
        raise ServiceFailed(f"{what} failed: {why}{remedy}.") from None
