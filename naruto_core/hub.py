"""Model hub: where a model name leads, checks of downloads, the push of a folder in one commit, readable errors."""

import json
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from naruto_core import picture_file
from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable, RecordDamaged, ServiceFailed

if TYPE_CHECKING:
    from huggingface_hub import HfApi


_SHA256 = re.compile(r"[0-9a-f]{64}")


def locate(name: str, revision: str | None) -> tuple[str, str | None]:
    """The arguments of `from_pretrained` for `name`: a folder and None, or a hub id and its revision.

    Raises ModelUnusable for a folder that does not exist, and for a hub id without a revision.
    """
    if name.startswith("package:"):
        package, _, inner = name.removeprefix("package:").partition("/")
        try:
            folder = Path(str(resources.files(package))) / inner
        except ModuleNotFoundError:
            raise ModelUnusable(f"{name}: there is no Python package {package}.") from None
        if not folder.is_dir():
            raise ModelUnusable(f"{name}: the package {package} has no folder {inner}.")
        return str(folder), None
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path), None
    if name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise ModelUnusable(f"there is no model folder {name}.")
    if not revision:
        raise ModelUnusable(
            f"{name} is a hub id: set its revision (a commit hash) in the recipe, so that it cannot change."
        )
    return name, revision


def check_hub_file(path: Path) -> Path:
    """Return `path`. Raises RecordDamaged when it is a downloaded file whose content differs from its digest.

    A process reads each file once, as long as its size and time stay the same.
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
    """Check every file of the downloaded snapshot that contains `file`; downloads nothing."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(known, str):
        for path in sorted(Path(known).parent.rglob("*")):
            check_hub_file(path)


@lru_cache(maxsize=256)
def _digest(blob: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_file(blob)


_RETRYABLE = {408, 425, 429, 500, 502, 503, 504}
_SIGNED = re.compile(r"(https?://[^\s?]+)\?\S+")
_REASONS = {
    401: "it does not accept the token in HF_TOKEN (401)",
    403: "the token in HF_TOKEN may not write there (403)",
    404: "it has no such repository, or HF_TOKEN may not read it (404)",
}


@dataclass(frozen=True, slots=True)
class HubProblem:
    """Why a request failed, for people; whether a retry may help, and after how many seconds, if the hub said so."""

    reason: str
    retryable: bool = False
    retry_after: float | None = None


def explain_error(error: BaseException) -> HubProblem:
    """The problem behind `error` of the hub's client, or behind one of its causes."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, HfHubHTTPError):
            message = cause.server_message or str(cause)
            return _http_problem(cause.response.status_code, cause.response.headers, message)
        if isinstance(cause, OfflineModeIsEnabled):
            return HubProblem("HF_HUB_OFFLINE is set: unset it, or set publish.push_to_hub=false")
        if isinstance(cause, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol):
            # its own message would contain the header with the token
            return HubProblem("the request cannot be sent: HF_TOKEN or HF_ENDPOINT has characters that are not allowed")
        if isinstance(cause, httpx2.TransportError):
            return HubProblem(f"it cannot be reached ({type(cause).__name__})", retryable=True)
        if isinstance(cause, json.JSONDecodeError):
            return HubProblem("its response is not a hub's", retryable=True)
        cause = cause.__cause__
    return HubProblem(_short(str(error) or type(error).__name__))


def _http_problem(status: int, headers: Mapping[str, str], message: str) -> HubProblem:
    seconds, retryable = _retry_after(headers), status in _RETRYABLE
    # the message of a retryable error is often a proxy's HTML page
    reason = _REASONS.get(status) or f"it answered {status}{'' if retryable else f': {_short(message)}'}"
    if seconds:
        reason += f", and asks to wait {seconds:.0f} s"
    return HubProblem(reason, retryable, seconds)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `Retry-After`, which is a number or a date, or from the hub's own `RateLimit: "api";r=0;t=55`."""
    value = headers.get("retry-after", "").strip()
    if value.isdigit():
        return float(value)
    if value:
        try:
            return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
        except (ValueError, TypeError):
            return None
    spent = re.search(r"\br=0;\s*t=(\d+)", headers.get("ratelimit", ""))
    return float(spent[1]) if spent else None


def _short(text: str) -> str:
    return _SIGNED.sub(r"\1", " ".join(text.split()))[:300]


_COMMIT, _WHOLE_COMMIT = re.compile(r"[0-9a-f]{7,40}"), re.compile(r"[0-9a-f]{40}")


def download_file(name: str, revision: str, suffix: str) -> Path:
    """The file `name` (owner/repository/path, or owner/repository with one `suffix` file) of the hub, downloaded.

    Raises ModelUnusable for a `revision` that is no commit, for several files, and when the hub does not give it.
    """
    from huggingface_hub import HfApi, hf_hub_download

    if not _COMMIT.fullmatch(revision):
        raise ModelUnusable(f"{name}@{revision}: give a commit hash (7 to 40 hex digits), so that it cannot change.")
    owner, repository, *inner = name.split("/")
    repository_id, file = f"{owner}/{repository}", "/".join(inner)
    try:
        if not file:
            listed = HfApi().list_repo_files(repository_id, revision=revision)
            files = [path for path in listed if path.endswith(suffix)]
            if len(files) != 1:
                shown = ", ".join(files[:5]) or "none"
                raise ModelUnusable(
                    f"{name} has {len(files)} {suffix} files ({shown}): name one, {name}/FILE@{revision}."
                )
            file = files[0]
        return check_hub_file(Path(hf_hub_download(repository_id, file, revision=revision)))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelUnusable(f"cannot download {name}@{revision}: {explain_error(error).reason}.") from None


def pinned_folder(name: str, files: Sequence[str], kind: str) -> Path:
    """The folder `name`, or the folder to which `files` of a hub id are downloaded at its pinned commit.

    Raises ModelUnusable for a name that is neither, and for a folder without one of `files`; `kind` says in the message
    whose files they are. Raises RecordDamaged for a damaged download.
    """
    if (folder := Path(name).expanduser()).is_dir():
        if missing := [file for file in files if not (folder / file).is_file()]:
            raise ModelUnusable(f"{kind}:{name}: the folder has no {' and no '.join(missing)}.")
        return folder
    hub_id, _, commit = name.partition("@")
    if hub_id.count("/") != 1 or not _WHOLE_COMMIT.fullmatch(commit):
        raise ModelUnusable(
            f"{kind}:{name}: give a folder with {kind}'s {' and '.join(files)}, or a hub id with its commit, "
            "owner/name@<40 hex digits>."
        )
    from huggingface_hub import hf_hub_download

    paths = [Path(hf_hub_download(hub_id, file, revision=commit)) for file in files]
    return check_hub_file(paths[-1]).parent  # one commit, one folder


PUSHED = ("README.md", "*.safetensors", "*/*.safetensors", f"samples/*{picture_file.SUFFIX}")
_RETRY_DELAYS = (1.0, 4.0, 15.0)  # seconds before tries 2, 3 and 4
_MAX_DELAY = 120.0  # seconds; no retry when the hub asks for a longer wait
_TIMEOUT = 10.0  # seconds for the check of the token
T = TypeVar("T")


def push_folder(folder: Path, repository: str, private: bool, tag: str, token: str) -> str:
    """Create the model `repository` if needed, commit the files of `folder` to it, tag the commit. Returns its address.

    No file of the repository is removed, and an existing tag is kept. Raises ServiceFailed when the
    hub cannot be reached or refuses, and for a public repository when `private` is True.
    """
    from huggingface_hub import HfApi

    hub = HfApi(token=token)
    with _service_failure(
        f"pushing to {repository}", f"; nothing is lost: the files are in {folder}; run the same command again", token
    ):
        address = _with_retries(lambda: hub.create_repo(repository, private=private, exist_ok=True))
        name = address.repo_id
        if private and _with_retries(lambda: hub.model_info(name)).private is False:
            raise ServiceFailed(
                f"the repository {name} is public, but publish.private is true: make it private on the hub, or run "
                "with --set publish.private=false."
            )
        revision = _with_retries(lambda: _commit(hub, name, folder, f"run {tag}"))
        _with_retries(lambda: hub.create_tag(name, tag=tag, revision=revision, exist_ok=True))
    return str(address)


def _commit(hub: "HfApi", repository: str, folder: Path, message: str) -> str:
    """Commit new and changed files; the commit's hash, or the last one's when nothing changed."""
    from huggingface_hub import CommitOperationAdd

    paths = sorted(path for pattern in PUSHED for path in folder.glob(pattern))
    files = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
    # not upload_folder, which may make several commits
    return hub.create_commit(repository, files, commit_message=message).oid


def check_token(repository: str, token: str) -> bool:
    """Check the token at the hub. False when the hub cannot be reached now.

    Raises ServiceFailed when the hub does not accept the token, or the token cannot write to `repository`.
    """
    with _service_failure("asking the hub about HF_TOKEN", "", token):
        try:
            owner = _owner(token)
        except Exception as error:
            if explain_error(error).retryable:
                return False
            raise
    role = owner.get("auth", {}).get("accessToken", {}).get("role")
    namespace, named, _ = repository.partition("/")
    name, organisations = owner.get("name"), owner.get("orgs", [])
    known = {name, *(organisation.get("name") for organisation in organisations)}
    if role == "read":
        raise ServiceFailed("HF_TOKEN is a read token: use a write token, or set publish.push_to_hub=false.")
    # a fine-grained token may not list where it can write
    if role == "write" and named and namespace not in known:
        raise ServiceFailed(
            f"HF_TOKEN belongs to {name}, who cannot write to {repository}: set publish.hub_model_id, e.g. to "
            f"{name}/naruto-sdxl-lora."
        )
    return True


def _owner(token: str) -> dict[str, Any]:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    # not HfApi.whoami: it has no timeout
    address = f"{constants.ENDPOINT}/api/whoami-v2"
    answer = get_session().get(address, headers=build_hf_headers(token=token), timeout=_TIMEOUT)
    hf_raise_for_status(answer)
    return answer.json()


def _with_retries(step: Callable[[], T]) -> T:
    """The result of `step`; tried again after a delay when it failed for a reason that may pass."""
    for delay in _RETRY_DELAYS:
        try:
            return step()
        except Exception as error:
            problem = explain_error(error)
            seconds = delay if problem.retry_after is None else problem.retry_after
            if not problem.retryable or seconds > _MAX_DELAY:
                raise
        time.sleep(seconds)
    return step()


@contextmanager
def _service_failure(action: str, remedy: str, token: str) -> Generator[None]:
    """Turn errors of the hub's client into ServiceFailed, without the addresses and tokens of its messages."""
    import httpx2

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = explain_error(error).reason.replace(token, "***")
        raise ServiceFailed(f"{action} failed: {reason}{remedy}.") from None
