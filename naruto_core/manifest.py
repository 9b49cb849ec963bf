"""Digests of the files in one folder, kept beside them: a file is trusted by its content, not by its name."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from naruto_core.artifacts import exclusive_lock, sha256_file, write_atomically

MANIFEST = "manifest.json"


class Manifest:
    """The manifest of `folder`. Several processes may add to it at once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / MANIFEST

    def unproven(self, names: Iterable[str]) -> list[str]:
        """Those of `names` whose file is missing, is not what was written, or was never added."""
        known = self._read()
        return [name for name in names if known.get(name, "") != self._sha256(name)]

    def add(self, names: Sequence[str]) -> None:
        """The files `names`, just written, are as they should be."""
        with exclusive_lock(self._folder / f".{MANIFEST}.lock"):
            digests = self._read() | {name: sha256_file(self._folder / name) for name in names}
            write_atomically(self._path, json.dumps(digests, indent=0, sort_keys=True).encode())

    def _sha256(self, name: str) -> str | None:
        path = self._folder / name
        return sha256_file(path) if path.is_file() else None

    def _read(self) -> dict[str, str]:
        """Nothing when the manifest is missing or damaged: then every file is made again."""
        try:
            known = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}
