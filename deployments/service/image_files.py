"""Pictures that are fetched by address: opaque names, addresses that are signed and expire, files that are swept."""

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path

from naruto_core import picture_file
from naruto_core.access_control import signing_key
from naruto_core.artifacts import write_atomically

_NAME = re.compile(rf"[0-9a-f]{{32}}{re.escape(picture_file.SUFFIX)}")


class PictureFiles:
    """Below `folder`; addresses are good for `seconds`, files live twice as long."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        self.key = signing_key(folder / "signing-key")

    def keep(self, data: bytes) -> str:
        """The opaque name that `data` is kept by."""
        name = f"{secrets.token_hex(16)}{picture_file.SUFFIX}"
        write_atomically(self._folder / "pictures" / name, data)
        return name

    def address(self, name: str) -> str:
        """Path and query that open the picture for a while."""
        until = int(time.time() + self._seconds)
        return f"/v1/pictures/{name}?expires={until}&signature={self._sign(name, until)}"

    def path(self, name: str, expires: int, signature: str) -> Path | None:
        """The file, when the address is ours, still good, and the file still there."""
        good = hmac.compare_digest(self._sign(name, expires).encode(), signature.encode("utf-8", "replace"))
        if not good or expires < time.time() or not _NAME.fullmatch(name):
            return None
        path = self._folder / "pictures" / name
        return path if path.is_file() else None

    def data(self, name: str) -> bytes | None:
        """The picture itself, for its own job; None when it has been swept."""
        path = self._folder / "pictures" / name
        return path.read_bytes() if path.is_file() else None

    def sweep(self) -> None:
        """Remove what no address opens any more."""
        for path in (self._folder / "pictures").glob(f"*{picture_file.SUFFIX}"):
            if path.stat().st_mtime < time.time() - 2 * self._seconds:
                path.unlink(missing_ok=True)

    def _sign(self, name: str, until: int) -> str:
        return hmac.new(self.key, f"{name}\0{until}".encode(), hashlib.sha256).hexdigest()
