"""Check the caches of a data root: each of their files has a digest of its own content, in it or in its name.

No row of the database names a cached file, so a missing one is no problem: it is made again when it is needed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from naruto_core.artifacts import Layout, sha256_bytes, sha256_file
from naruto_core.errors import NarutoError
from naruto_core.store.embedding_cache import EmbeddingCache

_PICTURE = re.compile(r"[0-9a-f]{64}\.([0-9a-f]{64})\.\w+")
_TORCH = {  # names of types in safetensors and, for digests, in torch
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


def cache_checks(layout: Layout) -> Iterator[tuple[str, Path, Callable[[Path], bool]]]:
    """(what it is, its path, the function that says whether it is intact) of every cached file."""
    for path in sorted(layout.picture_cache.glob("??/[!.]*")):
        yield "cached picture of the base model", path, _has_the_digest_of_its_name
    for path in sorted(layout.cache("").glob("examples-*/[!.]*.safetensors")):
        yield "encoded pictures", path, is_intact_checkpoint
    for path in sorted(layout.results.glob("[!.]*.json")):
        yield "kept result", path, _has_the_digest_of_its_first_line
    if layout.embeddings.exists():
        yield "kept embeddings", layout.embeddings, _has_intact_rows


def _has_the_digest_of_its_name(path: Path) -> bool:
    match = _PICTURE.fullmatch(path.name)
    return match is not None and match[1] == sha256_file(path)


def _has_the_digest_of_its_first_line(path: Path) -> bool:
    digest, _, text = path.read_bytes().partition(b"\n")
    return digest == sha256_bytes(text).encode()


def _has_intact_rows(path: Path) -> bool:
    try:
        with EmbeddingCache(path) as cache:
            return not cache.integrity_problems() and cache.is_intact()
    except NarutoError:
        return False


def is_intact_checkpoint(path: Path) -> bool:
    """Whether a file of `naruto_core.checkpoint` has the sha256 in its metadata; without torch, which takes seconds."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            start, metadata = file.tell(), header.pop("__metadata__")
            digest = hashlib.sha256(metadata["values"].encode())
            for name, tensor in sorted(header.items()):
                shape, (begin, end) = tuple(tensor["shape"]), tensor["data_offsets"]
                digest.update(f"\0{name}\0torch.{_TORCH[tensor['dtype']]}\0{shape}\0".encode())
                file.seek(start + begin)
                digest.update(file.read(end - begin))
            return digest.hexdigest() == metadata["sha256"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError):
        return False
