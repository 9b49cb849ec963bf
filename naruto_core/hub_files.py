"""Files that were downloaded from a model hub: huggingface_hub trusts its cache by name, this looks at the content.

In that cache a large file is a link to a blob whose name is the sha256 of its content. (Small files are named by a git
hash or by whatever the server calls them; these are left alone.)
"""

import re
from functools import lru_cache
from pathlib import Path

from naruto_core.artifacts import sha256_file
from naruto_core.errors import RecordDamaged

_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_hub_file(path: Path) -> Path:
    """`path` itself; RecordDamaged when it is a downloaded file whose content has changed since.

    A process reads a file once for that, as long as its size and time stay the same.
    """
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name) and blob.is_file():
        status = blob.stat()
        if _digest(blob, status.st_size, status.st_mtime_ns) != blob.name:
            raise RecordDamaged(
                f"the downloaded file {path.name} is damaged: delete {blob}, and the same command downloads it again."
            )
    return path


def check_hub_snapshot(repository: str, revision: str, file: str) -> None:
    """Check every file of a downloaded snapshot, in which there is `file`; nothing is downloaded for it."""
    from huggingface_hub import try_to_load_from_cache

    known = try_to_load_from_cache(repository, file, revision=revision)
    if isinstance(known, str):
        for path in sorted(Path(known).parent.rglob("*")):
            check_hub_file(path)


@lru_cache(maxsize=256)
def _digest(blob: Path, _size: int, _mtime_ns: int) -> str:
    return sha256_file(blob)
