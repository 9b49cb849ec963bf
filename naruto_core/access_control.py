"""Access control that all servers share: whether a host is loopback, and keys for signatures."""

import ipaddress
import os
import secrets
from contextlib import suppress
from pathlib import Path

from naruto_core.artifacts import storage_errors
from naruto_core.errors import RecordDamaged

KEY_BYTES = 32


def is_loopback(host: str) -> bool:
    """Whether a server that listens at `host` is reachable from this machine only; False for "" (all addresses)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def signing_key(path: Path) -> bytes:
    """The 32 random bytes in `path`, created if missing; if several processes create them at once, the first wins.

    Raises RecordDamaged for a file of another size or of zeros: with an empty key, anybody could sign.
    """
    try:
        return _read_key(path)
    except FileNotFoundError:
        _create_key(path)
        return _read_key(path)


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordDamaged(f"the key in {path} cannot be read ({error.strerror}).") from error
    if len(key) != KEY_BYTES or not any(key):
        raise RecordDamaged(
            f"{path} is damaged: remove it, and a new key is created; links and pages that were "
            "signed with the old key must be opened again."
        )
    return key


def _create_key(path: Path) -> None:
    """Write and sync the key to the disk before the file gets its name."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            scratch.touch(mode=0o600)
            with scratch.open("wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                path.hardlink_to(scratch)
        finally:
            scratch.unlink(missing_ok=True)
