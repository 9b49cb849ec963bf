"""API keys, kept as hashes in one file, and what each may have drawn in a minute."""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from naruto_core.artifacts import atomic_file, exclusive_lock
from naruto_core.errors import RatingRefused, RecordDamaged

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
ANYONE = "anyone"  # who asks while there are no keys


class Keys:
    """Names and sha256 of keys. A key has 256 random bits, so that a plain hash of it cannot be guessed back."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_at, self._hashes = path, -1, dict[str, str]()

    def names(self) -> list[str]:
        """Who has a key. The file is read again when it has changed."""
        changed = self._path.stat().st_mtime_ns if self._path.exists() else 0
        if changed != self._read_at:
            try:
                self._hashes = json.loads(self._path.read_bytes()) if changed else {}
            except ValueError:
                raise RecordDamaged(f"{self._path} is not the list of keys that was written; put it back.") from None
            self._read_at = changed
        return sorted(self._hashes)

    def add(self, name: str) -> str:
        """A new key for `name`, shown this once."""
        if not _NAME.fullmatch(name) or name == ANYONE:
            raise RatingRefused(f"{name!r} is no name for a key: letters, digits, dots and dashes.")
        token = f"nk-{secrets.token_urlsafe(32)}"
        with self._changing():
            if name in self.names():
                raise RatingRefused(f"{name} has a key; remove it first.")
            self._write(self._hashes | {name: _digest(token)})
        return token

    def remove(self, name: str) -> None:
        """The key of `name` is good for nothing from now on."""
        with self._changing():
            if name not in self.names():
                raise RatingRefused(f"there is no key of {name}.")
            self._write({other: digest for other, digest in self._hashes.items() if other != name})

    @contextmanager
    def _changing(self) -> Generator[None]:
        """Nobody else adds or removes a key between the reading of the file and its writing."""
        with exclusive_lock(self._path.with_name(f".{self._path.name}.lock")):
            self._read_at = -1
            yield

    def who(self, token: str) -> str | None:
        """Whose key `token` is; every hash is compared, in constant time, whichever it is."""
        self.names()
        digest = _digest(token)
        found = [name for name, known in self._hashes.items() if hmac.compare_digest(known, digest)]
        return found[0] if found else None

    def _write(self, hashes: dict[str, str]) -> None:
        with atomic_file(self._path) as scratch:
            scratch.touch(0o600)
            scratch.write_bytes(json.dumps(hashes, indent=1).encode())
        self._read_at = -1


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Allowance:
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
