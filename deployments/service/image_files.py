"""Pictures that clients fetch by URL: files with random names, URLs that are signed and expire."""

import hashlib
import hmac
import re
import secrets
import time
from pathlib import Path

from naruto_core.access_control import signing_key
from naruto_core.artifacts import write_atomically
from naruto_core.picture_file import MEDIA_TYPES, SentFormat

_NAME = re.compile(rf"[0-9a-f]{{32}}\.({'|'.join(MEDIA_TYPES)})")


class ImageFiles:
    """Picture files in `folder`/pictures. URLs are valid for `seconds`, files are kept twice as long."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder / "pictures", seconds
        self.key = signing_key(folder / "signing-key")

    def save(self, data: bytes, file_format: SentFormat) -> str:
        """Write a picture; returns its name, which cannot be guessed."""
        name = f"{secrets.token_hex(16)}.{file_format}"
        write_atomically(self._folder / name, data)
        return name

    def url(self, name: str) -> str:
        """Path and query of the picture's URL."""
        expires = int(time.time() + self._seconds)
        return f"/v1/pictures/{name}?expires={expires}&signature={self._sign(name, expires)}"

    def path(self, name: str, expires: int, signature: str) -> Path | None:
        """The file of a URL; None if the signature is wrong, the URL has expired, or the file was deleted."""
        valid = hmac.compare_digest(self._sign(name, expires).encode(), signature.encode("utf-8", "replace"))
        if not valid or expires < time.time() or not _NAME.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None

    def delete_expired(self) -> None:
        """Delete the files whose URLs have all expired."""
        for path in self._folder.glob("[!.]*"):
            if path.stat().st_mtime < time.time() - 2 * self._seconds:
                path.unlink(missing_ok=True)

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self.key, f"{name}\0{expires}".encode(), hashlib.sha256).hexdigest()
