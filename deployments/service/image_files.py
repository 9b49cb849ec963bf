"""Pictures that clients fetch by URL: files with random names, URLs that are signed and expire."""

import hashlib
import hmac
import re
import secrets
import time
from contextlib import suppress
from pathlib import Path

from naruto_core.access_control import signing_key
from naruto_core.artifacts import remove_abandoned, write_atomically
from naruto_core.picture_file import MEDIA_TYPES, SentFormat

_NAME = re.compile(rf"[0-9a-f]{{32}}\.({'|'.join(MEDIA_TYPES)})")


class ImageFiles:
    """Picture files in `folder`/pictures, at most `most_bytes`. URLs are valid for `seconds`, files twice as long."""

    def __init__(self, folder: Path, seconds: float, most_bytes: float) -> None:
        self._folder, self._seconds, self._most_bytes = folder / "pictures", seconds, most_bytes
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

    def read(self, name: str) -> bytes | None:
        """The file of a picture; None if it was deleted."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def delete_expired(self) -> None:
        """Delete the files whose URLs have all expired, the oldest of too many, and what killed processes left."""
        remove_abandoned(self._folder)
        files: list[tuple[float, int, Path]] = []
        for path in self._folder.glob("[!.]*"):
            with suppress(FileNotFoundError):  # another process of the service deletes them too
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total, expired = 0, time.time() - 2 * self._seconds
        for written, size, path in sorted(files, reverse=True):
            total += size
            if written < expired or total > self._most_bytes:
                path.unlink(missing_ok=True)

    def _sign(self, name: str, expires: int) -> str:
        return hmac.new(self.key, f"{name}\0{expires}".encode(), hashlib.sha256).hexdigest()
