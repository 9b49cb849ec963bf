"""The kinds of files that a run leaves, how one byte of each is damaged, and what mends it."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _spread(path: Path) -> list[int]:
    """A position near the beginning, in the middle and near the end."""
    size = path.stat().st_size
    return sorted({size // 20, size // 2, size - 1 - size // 20})


@dataclass(frozen=True)
class FileKind:
    """A kind of file below a data root; `verify` calls it `named`, and `remedy` is the command that mends it.

    `remedy` is one of run (the command that made the run), ingest, rescore, delete (the file) and restore (a backup).
    """

    pattern: str
    named: str
    remedy: str
    positions: Callable[[Path], list[int]] = _spread

    def files(self, home: Path) -> list[Path]:
        """The files of this kind in `home`, at least one."""
        files = sorted(home.glob(self.pattern))
        assert files, self.pattern
        return files


def flip(path: Path, at: int) -> None:
    """Change one bit of the byte at position `at`."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def _of_rows(path: Path) -> list[int]:
    """Where a dataset table has what its id is computed from; sizes, likeness and statistics come behind that."""
    size = path.stat().st_size
    return [size // 20, size // 2]


def _of_log(path: Path) -> list[int]:
    """In the schema and in the name of the file with the rows; times, versions and statistics do not matter."""
    log = path.read_bytes()
    return sorted(log.index(name) + 12 for name in (b'"schemaString":"', b'"path":"'))


def _samples_page(path: Path) -> list[int]:
    """The number of cells of the root page of the table of pictures: where the rows are."""
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'samples'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    return [(root - 1) * size + 4]


def _features(path: Path) -> list[int]:
    """Within the features of a picture."""
    with sqlite3.connect(path) as database:
        (features,) = database.execute("SELECT features FROM embeddings LIMIT 1").fetchone()
    return [path.read_bytes().index(features[: len(features) // 2]) + 3]


KINDS = (
    FileKind("runs/*/adapter/*.safetensors", "adapter", "run"),
    FileKind("runs/*/fused/unet/*.safetensors", "fused model", "run"),
    FileKind("runs/*/fused/model_index.json", "fused model", "run"),
    FileKind("runs/*/fused/tokenizer/vocab.json", "fused model", "run"),
    FileKind("runs/*/samples/*.png", "picture of", "run"),
    FileKind("runs/*/recipe.json", "recipe", "run"),
    FileKind("runs/*/contact-sheet.png", "contact sheet", "run"),
    FileKind("runs/*/scores.sha256", "scores of", "rescore"),
    FileKind("pictures/??/*", "dataset picture", "ingest"),
    FileKind("datasets/*/*.parquet", "table of dataset", "ingest", _of_rows),
    FileKind("datasets/*/_delta_log/*.json", "table of dataset", "ingest", _of_log),
    FileKind("cache/pictures/??/*.png", "cached picture of the base model", "delete"),
    FileKind("cache/examples-*/*.safetensors", "encoded pictures", "delete"),
    FileKind("cache/results/*.json", "kept result", "delete"),
    FileKind("cache/embeddings.db", "kept embeddings", "delete", _features),
    FileKind("naruto.db", "database", "restore", _samples_page),
)
