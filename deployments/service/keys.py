"""API keys, kept as hashes in one file, and what each may have drawn in a minute."""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from naruto_core.access_control import is_loopback
from naruto_core.artifacts import atomic_file, exclusive_lock
from naruto_core.errors import RecordDamaged, ServiceFailed, ServiceKeyInvalid

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("naruto.service")
ANYONE = "anyone"  # who asks while there are no keys


class KeysUnusable(RecordDamaged):
    """The file of keys is gone or damaged: nobody can be let in."""


class Keys:
    """Names and sha256 of keys. A key has 256 random bits, so that a plain hash of it cannot be guessed back."""

    def __init__(self, path: Path) -> None:
        self._path, self._version = path, object()
        self._hashes: dict[str, str] | KeysUnusable = {}

    def names(self) -> list[str]:
        """Who has a key; nobody where there is no file. KeysUnusable for a damaged one."""
        return sorted(self._current()) if self._path.exists() else []

    def add(self, name: str) -> str:
        """A new key for `name`, shown this once."""
        if not _NAME.fullmatch(name) or name == ANYONE:
            raise ServiceKeyInvalid(f"{name!r} is no name for a key: letters, digits, dots and dashes.")
        token = f"nk-{secrets.token_urlsafe(32)}"
        with self._changing() as hashes:
            if name in hashes:
                raise ServiceKeyInvalid(f"{name} has a key; remove it first.")
            hashes[name] = _digest(token)
        return token

    def remove(self, name: str) -> None:
        """The key of `name` is good for nothing from now on."""
        with self._changing() as hashes:
            if name not in hashes:
                raise ServiceKeyInvalid(f"there is no key of {name}.")
            del hashes[name]

    def who(self, token: str) -> str | None:
        """Whose key `token` is; every hash is compared, in constant time, whichever it is.

        Raises KeysUnusable when the file is gone or damaged: that is no reason to let anybody in.
        """
        digest = _digest(token)
        matching = [name for name, known in self._current().items() if hmac.compare_digest(known, digest)]
        return matching[0] if matching else None

    def _current(self) -> dict[str, str]:
        """The file is read again when it has changed; what is wrong with it is logged once."""
        version = self._stat()
        if version != self._version:
            self._hashes, self._version = _read(self._path), version
            if isinstance(self._hashes, KeysUnusable):
                _log.error("nobody is let in: %s", self._hashes)
            elif not self._hashes:
                _log.warning("no key is left in %s; where a key is needed, nobody is let in", self._path)
        if isinstance(self._hashes, KeysUnusable):
            raise self._hashes
        return self._hashes

    def _stat(self) -> tuple[int, ...]:
        with suppress(OSError):
            status = self._path.stat()
            return status.st_mtime_ns, status.st_size, status.st_ino
        return ()

    @contextmanager
    def _changing(self) -> Generator[dict[str, str]]:
        """The hashes, to be changed by this process alone, and written when the block ends well."""
        with exclusive_lock(self._path.with_name(f".{self._path.name}.lock")):
            hashes = _read(self._path) if self._path.exists() else {}
            if isinstance(hashes, KeysUnusable):
                raise hashes
            yield hashes
            with atomic_file(self._path) as scratch:
                scratch.touch(mode=0o600)
                scratch.write_text(json.dumps(hashes, indent=1))


def keys_needed(keys: Keys, host: str) -> bool:
    """Whether a service that is about to listen at `host` asks for keys; decided once, for as long as it runs.

    Only where it is reached from this machine alone, and nobody has a key, is it open. Raises ServiceFailed beyond this
    machine without a key, KeysUnusable for a damaged file of keys.
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
        return KeysUnusable(f"the file of keys, {path}, is gone; put it back, or `naruto-service add-key NAME`.")
    except OSError as error:
        return KeysUnusable(f"the file of keys, {path}, cannot be read ({error.strerror}).")
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, dict) or not all(
        _NAME.fullmatch(name) and isinstance(known, str) and _DIGEST.fullmatch(known) for name, known in hashes.items()
    ):
        return KeysUnusable(
            f"{path} is not the list of keys that was written; put it back, or remove it and make keys again."
        )
    return hashes


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class RateLimiter:
    """A token bucket for each key: a minute's worth at once, then as fast as it fills."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute, self._left = per_minute, dict[str, tuple[float, float]]()

    def take(self, key: str, n: int) -> float:
        """0 when `n` are granted; or else the seconds after which they would be."""
        now = time.monotonic()
        left, then = self._left.get(key, (self._per_minute, now))
        left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
        granted = left >= min(n, self._per_minute)
        self._left[key] = (left - n if granted else left, now)
        return 0.0 if granted else max((n - left) * 60 / self._per_minute, 0.1)
