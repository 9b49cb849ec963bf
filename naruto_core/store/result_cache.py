"""A cache of results by content: what was computed once from the same features by the same code is read again.

Each result is one JSON file, named by a digest of everything that it depends on, written atomically. It is a cache
only: a missing or damaged file means that the result is computed again. The files that were used last are kept.
"""

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from naruto_core.artifacts import sha256_bytes, write_atomically

MOST = 500  # files; a comparison has about 8 KB


class ResultCache:
    """The results in `folder`, which is created with the first one. Several processes may use it at once."""

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder, self._most = folder, most

    def read(self, key: object) -> Any | None:
        """The result that was written for `key` (any JSON value); None when there is none, or a damaged one."""
        path = self._path(key)
        try:
            digest, _, text = path.read_text(encoding="utf-8").partition("\n")
            if digest != sha256_bytes(text.encode()):
                return None
            os.utime(path)  # used: removed later than others
        except (OSError, UnicodeDecodeError):
            return None
        return json.loads(text)

    def write(self, key: object, result: object) -> None:
        """Keep `result` (any JSON value without NaN and infinity) for `key`. Raises StorageFailed."""
        text = json.dumps(result, allow_nan=False)
        write_atomically(self._path(key), f"{sha256_bytes(text.encode())}\n{text}".encode())
        self._remove_oldest()

    def _path(self, key: object) -> Path:
        return self._folder / f"{sha256_bytes(json.dumps(key, sort_keys=True).encode())}.json"

    def _remove_oldest(self) -> None:
        files: list[tuple[int, Path]] = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError):  # another process has just removed it
                files.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(files)[: -self._most]:
            path.unlink(missing_ok=True)
