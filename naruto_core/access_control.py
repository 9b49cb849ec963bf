"""What every server asks before it lets anybody in: does it listen beyond this machine, and is its key whole?"""

import ipaddress
import os
import secrets
from contextlib import suppress
from pathlib import Path

from naruto_core.artifacts import storage_errors
from naruto_core.errors import RecordDamaged

KEY_BYTES = 32


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens at `host`; False for "", which is every address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def signing_key(path: Path) -> bytes:
    """The 32 random bytes in `path`; of several processes that make them at the same time, the first wins.

    Raises RecordDamaged for a file that is not whole: with an empty key, anybody could sign.
    """
    try:
        return _whole_key(path)
    except FileNotFoundError:
        _make_key(path)
        return _whole_key(path)


def _whole_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RecordDamaged(f"the key in {path} cannot be read ({error.strerror}).") from error
    if len(key) != KEY_BYTES or not any(key):
        raise RecordDamaged(
            f"{path} is not the key that was written: remove it, and a new one is made; links and pages that were "
            "signed with the old one have to be opened again."
        )
    return key


def _make_key(path: Path) -> None:
    """A file that is written and on the disk before it has its name."""
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
