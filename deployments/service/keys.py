"""Authentication by API keys, which are stored as hashes in one file, and the rate limit of each key."""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from deployments.service.errors import ApiError
from naruto_core.access_control import is_loopback
from naruto_core.artifacts import atomic_file, exclusive_lock
from naruto_core.errors import RecordDamaged, ServiceFailed, ServiceKeyInvalid

if TYPE_CHECKING:
    from deployments.service.state import ServiceState

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("naruto.service")
_bearer = HTTPBearer(auto_error=False, description="A key from `naruto-service add-key NAME`.")
ANYONE = "anyone"  # the name of all clients while keys are not required


class KeysUnusable(RecordDamaged):
    """The key file is missing or damaged, so no key can be checked and every request is rejected."""


class Keys:
    """Names and the sha256 of their keys. A key has 256 random bits, so its plain hash cannot be reversed."""

    def __init__(self, path: Path) -> None:
        self._path, self._version = path, object()
        self._hashes: dict[str, str] | KeysUnusable = {}

    def names(self) -> list[str]:
        """Names that have a key; empty if there is no file. KeysUnusable for a damaged file."""
        return sorted(self._current()) if self._path.exists() else []

    def add(self, name: str) -> str:
        """Make and return a key for `name`; it cannot be read again. ServiceKeyInvalid for a bad or existing name."""
        if not _NAME.fullmatch(name) or name == ANYONE:
            raise ServiceKeyInvalid(f"{name!r} cannot be the name of a key: use letters, digits, dots and dashes.")
        token = f"nk-{secrets.token_urlsafe(32)}"
        with self._changing() as hashes:
            if name in hashes:
                raise ServiceKeyInvalid(f"{name} has a key; remove it first with `naruto-service remove-key {name}`.")
            hashes[name] = _digest(token)
        return token

    def remove(self, name: str) -> None:
        """Revoke the key of `name`; ServiceKeyInvalid if it has none."""
        with self._changing() as hashes:
            if name not in hashes:
                raise ServiceKeyInvalid(f"{name} has no key; `naruto-service keys` lists who has one.")
            del hashes[name]

    def owner(self, token: str) -> str | None:
        """The name whose key is `token`; compares with every hash, in constant time.

        Raises KeysUnusable if the file is missing or damaged: the request must then be rejected.
        """
        digest = _digest(token)
        names = [name for name, stored in self._current().items() if hmac.compare_digest(stored, digest)]
        return names[0] if names else None

    def _current(self) -> dict[str, str]:
        """The hashes; the file is read again when it has changed, and a fault is logged once."""
        version = self._file_version()
        if version != self._version:
            self._hashes, self._version = _read(self._path), version
            if isinstance(self._hashes, KeysUnusable):
                _log.error("all requests are rejected: %s", self._hashes)
            elif not self._hashes:
                _log.warning("there is no key left in %s; if keys are required, all requests are rejected", self._path)
        if isinstance(self._hashes, KeysUnusable):
            raise self._hashes
        return self._hashes

    def _file_version(self) -> tuple[int, ...]:
        with suppress(OSError):
            status = self._path.stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
        return ()

    @contextmanager
    def _changing(self) -> Generator[dict[str, str]]:
        """The hashes, locked against other processes, and written if the block ends without an error."""
        with exclusive_lock(self._path.with_name(f".{self._path.name}.lock")):
            hashes = _read(self._path) if self._path.exists() else {}
            if isinstance(hashes, KeysUnusable):
                raise hashes
            yield hashes
            with atomic_file(self._path) as scratch:
                scratch.touch(mode=0o600)
                scratch.write_text(json.dumps(hashes, indent=1))


def keys_required(keys: Keys, host: str) -> bool:
    """Whether a service that will listen at `host` requires keys; decided once, for as long as it runs.

    False only if there is no key and `host` is reached from this machine only. Raises ServiceFailed if there is no key
    and `host` is reached from elsewhere, KeysUnusable for a damaged key file.
    """
    if keys.names():
        return True
    if not is_loopback(host):
        raise ServiceFailed(
            f"without keys the service listens on this machine only, not at {host or 'every address'}: "
            "make one with `naruto-service add-key NAME`."
        )
    return False


def _read(path: Path) -> dict[str, str] | KeysUnusable:
    try:
        hashes = json.loads(path.read_bytes())
    except FileNotFoundError:
        return KeysUnusable(f"the key file {path} is missing: put it back, or run `naruto-service add-key NAME`.")
    except OSError as error:
        return KeysUnusable(f"the key file {path} cannot be read ({error.strerror}).")
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not all(
        _NAME.fullmatch(name) and isinstance(stored, str) and _DIGEST.fullmatch(stored)
        for name, stored in hashes.items()
    ):
        return KeysUnusable(f"the key file {path} is damaged: put it back, or remove it and make keys again.")
    return hashes


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Caller:
    """The client of a request; `name` is that of its key, or ANYONE."""

    name: str


def caller(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Caller:
    """FastAPI dependency: who sent the request. ApiError 401 for a wrong key, 503 if keys cannot be checked."""
    state: ServiceState = request.app.state.service
    if not state.keys_required:
        return Caller(ANYONE)
    try:
        name = state.keys.owner(credentials.credentials if credentials else "")
    except KeysUnusable:  # the reason is in the log: a client without a key must not learn the file's path
        raise ApiError(503, "Keys cannot be checked now; see the service's log.", code="keys_unusable") from None
    if name is None:
        raise ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
    return Caller(name)


def page_reader(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """FastAPI dependency of metrics and documentation: as `caller`, unless NARUTO_SERVICE_PUBLIC_PAGES is true."""
    state: ServiceState = request.app.state.service
    if not state.options.public_pages:
        caller(request, credentials)


class RateLimiter:
    """A token bucket for each key; it holds the pictures of one minute and fills continuously."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._buckets: dict[str, tuple[float, float]] = {}  # pictures left, and when

    def take(self, key: str, n: int) -> float:
        """Take `n` pictures from the bucket of `key`: 0, or the seconds to wait if it holds fewer."""
        now = time.monotonic()
        left, updated = self._buckets.get(key, (self._per_minute, now))
        left = min(self._per_minute, left + (now - updated) * self._per_minute / 60)
        granted = left >= min(n, self._per_minute)
        self._buckets[key] = (left - n if granted else left, now)
        return 0.0 if granted else max((n - left) * 60 / self._per_minute, 0.1)
