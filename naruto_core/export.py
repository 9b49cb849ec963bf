"""Pushing a folder to a model hub: private, in one commit, tagged; what may pass is tried again, a refusal is not.

The hub's client knows by content what is there already, so pushing again goes on where it stopped.
The token is handed to that client and to nobody else; no message repeats it.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from naruto_core.errors import ServiceFailed
from naruto_core.hub_answers import understand

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
