"""The artifact store: recorded files of all machines in one bucket, by content.

Every machine works in its own NARUTO_HOME. What the database has recorded is copied to the bucket, and from there to a
machine that needs it and has it not. The database is the index: it has the sha256 of every file, which is the name of
the object. Two machines that store the same name store the same bytes, so that no lock is needed; what was fetched is
compared with its name before it is used.
"""

import errno
import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from naruto_core.artifacts import (
    Layout,
    atomic_file,
    atomic_folder,
    is_intact,
    is_intact_folder,
    sha256_file,
)
from naruto_core.errors import GO_ON, RecordDamaged, ServiceFailed

_TRANSFERS = 16  # at a time
PATIENCE = 60.0  # seconds that a bucket may be away
SHORT_PATIENCE = 5.0  # of a page or a request, for which somebody waits
_PAUSE = 2.0
_PROBE = "probe"  # an object that `check` writes

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file at `path` on this machine, whose content has the digest `sha256`."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class ArtifactStore:
    """The bucket and prefix at `url`, e.g. s3://bucket/prefix. Every method raises ServiceFailed when it is away."""

    url: str
    patience: float = PATIENCE

    def check(self) -> None:
        """Write and read a small object: the bucket exists, and this machine has the rights."""
        self._put_bytes(_PROBE, b"naruto")
        self._call(lambda: self._files.cat_file(self._key(_PROBE)))

    def publish(self, files: Iterable[StoredFile]) -> int:
        """Copy those of `files` that the bucket has not; how many these were. A file that is not intact is left out."""

        def copy(file: StoredFile) -> bool:
            key = self._key(_object(file.sha256))
            if self._exists(key) or not is_intact(file.path, file.sha256):
                return False
            self._call(lambda: self._files.put_file(str(file.path), key))
            return True

        return sum(self._in_threads(copy, files))

    def fetch(self, files: Iterable[StoredFile]) -> int:
        """Write those of `files` that this machine has not; how many these were. One that nobody published is left out.

        Raises RecordDamaged where an object has other bytes than its name says.
        """

        def copy(file: StoredFile) -> bool:
            key = self._key(_object(file.sha256))
            if file.path.exists() or not self._exists(key):
                return False
            with atomic_file(file.path) as scratch:
                self._call(lambda: self._files.get_file(key, str(scratch)))
                if sha256_file(scratch) != file.sha256:
                    raise RecordDamaged(f"{self.url}/{_object(file.sha256)} is damaged: delete it from the bucket.")
            return True

        return sum(self._in_threads(copy, files))

    def publish_folder(self, folder: Path, sha256: str) -> bool:
        """Copy the files of `folder`, whose digest is `sha256`, unless the bucket has it; the list of files is last."""
        name = _folder(sha256)
        if self.has_object(name) or not is_intact_folder(folder, sha256):
            return False
        paths = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
        digests = {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}
        self.publish(StoredFile(folder / path, digest) for path, digest in digests.items())
        self._put_bytes(name, json.dumps(digests).encode())
        return True

    def fetch_folder(self, folder: Path, sha256: str) -> bool:
        """Write the folder with the digest `sha256`, unless this machine has it; False where nobody published it."""
        data = None if folder.is_dir() else self.read(_folder(sha256))
        if data is None:
            return False
        digests: dict[str, str] = json.loads(data)
        with atomic_folder(folder) as scratch:
            self.fetch(StoredFile(scratch / name, digest) for name, digest in digests.items() if ".." not in name)
            if not is_intact_folder(scratch, sha256):
                raise RecordDamaged(f"{self.url}/{_folder(sha256)} is damaged: delete it from the bucket.")
        return True

    def has(self, sha256: str) -> bool:
        """Whether the bucket has a file or a folder of this digest."""
        return self.has_object(_object(sha256)) or self.has_object(_folder(sha256))

    def has_object(self, name: str) -> bool:
        """Whether the bucket has the object `name`."""
        return self._exists(self._key(name))

    def write(self, name: str, data: bytes) -> None:
        """Store `data` as `name`, unless there is such an object: whoever comes first."""
        if not self.has_object(name):
            self._put_bytes(name, data)

    def read(self, name: str) -> bytes | None:
        """The object `name`; None where there is none."""
        key = self._key(name)
        return self._call(lambda: self._files.cat_file(key)) if self.has_object(name) else None

    @cached_property
    def _files(self) -> Any:
        """The file system of the bucket (fsspec)."""
        try:
            from s3fs import S3FileSystem
        except ImportError:
            raise ServiceFailed(
                "NARUTO_STORE needs packages that are not installed: uv sync --extra cluster."
            ) from None
        limits = {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}
        return S3FileSystem(config_kwargs=limits, use_listings_cache=False)

    def _key(self, name: str) -> str:
        return f"{self.url.removeprefix('s3://').rstrip('/')}/{name}"

    def _exists(self, key: str) -> bool:
        def ask() -> bool:
            try:
                self._files.info(key)
            except FileNotFoundError as error:
                self._check_bucket(error)
                return False
            return True

        return self._call(ask)

    def _put_bytes(self, name: str, data: bytes) -> None:
        self._call(lambda: self._files.pipe_file(self._key(name), data))

    def _check_bucket(self, error: FileNotFoundError) -> None:
        """Raise ServiceFailed if it is the bucket that does not exist, not an object."""
        if "NoSuchBucket" in repr(error.__cause__):
            bucket = self._key("").partition("/")[0]
            raise ServiceFailed(f"NARUTO_STORE is {self.url}, but there is no bucket {bucket}: create it; {GO_ON}")

    def _call(self, action: Callable[[], Result]) -> Result:
        """`action()`, again while the bucket does not answer, at most for `patience` seconds."""
        from botocore.exceptions import BotoCoreError, NoCredentialsError

        deadline = time.monotonic() + self.patience
        while True:
            try:
                return action()
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise
            except (PermissionError, NoCredentialsError) as error:
                raise ServiceFailed(
                    f"no access to {self.url}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the rights "
                    f"to read and write there; {GO_ON}"
                ) from error
            except (BotoCoreError, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    raise  # of this machine's disk
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"{self.url} did not answer for {self.patience:.0f} s: {error}; {GO_ON}"
                    ) from error
                time.sleep(_PAUSE)

    def _in_threads(self, copy: Callable[[StoredFile], bool], files: Iterable[StoredFile]) -> list[bool]:
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            return list(threads.map(copy, files))


def fetch_file(layout: Layout, recorded: str, sha256: str) -> None:
    """Write the recorded file or folder at the path `recorded`, if this machine has it not and the bucket has it.

    For people and programs that wait: raises ServiceFailed after a few seconds in which the bucket does not answer, and
    RecordDamaged for an object with other bytes than its name says.
    """
    path = layout.absolute(recorded)
    if layout.bucket and not path.exists():
        bucket = ArtifactStore(layout.bucket, SHORT_PATIENCE)
        if not bucket.fetch([StoredFile(path, sha256)]):
            bucket.fetch_folder(path, sha256)


def rows_name(dataset_id: str) -> str:
    """The name of the object with the rows of a dataset version."""
    return f"datasets/{dataset_id}.parquet"


def _folder(sha256: str) -> str:
    """The name of the list of a folder's files."""
    return f"folders/{sha256}.json"


def _object(sha256: str) -> str:
    """The name of a file's object."""
    return f"objects/{sha256[:2]}/{sha256}"
