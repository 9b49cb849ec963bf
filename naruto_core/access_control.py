"""Access rules shared by all servers: is an address local, and the key that signs links and tokens."""

import ipaddress
import os
import secrets
from contextlib import suppress
from pathlib import Path

from naruto_core.artifacts import storage_errors
from naruto_core.errors import RecordDamaged

KEY_BYTES = 32


def is_loopback(host: str) -> bool:
    """Whether a server that listens at `host` is reached from this machine only; False for "", which is any address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def signing_key(path: Path) -> bytes:
    """Read the signing key (32 random bytes) in the file `path`, which is created when it is missing.

    Where several processes create it at the same time, all use the key of the first. Raises RecordDamaged for a
    damaged file, because anybody could sign with an empty key; StorageFailed when it cannot be written.
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
            f"{path} is not the key that was written: remove it, and a new key is made; people then have to open "
            "links and pages that were signed with the old key again."
        )
    return key


def _create_key(path: Path) -> None:
    """Write a new key: the file gets its name only after its content is on the disk."""
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
