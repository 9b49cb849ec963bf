"""The only builder of paths, and the only place where files are put into the data root.

Every file is written beside its final name and renamed into place, so that a killed process
leaves the old file or the new one. Names come from content hashes or opaque ids, never from captions.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors import SafetensorError, safe_open

from naruto_core.errors import RecordDamaged, StorageFailed

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED = 60  # seconds after which a scratch folder that nobody holds was left by a killed process
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name diffusers looks for


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_folder(folder: Path, suffix: str = ".safetensors") -> str:
    """One digest over the relative names and contents of all `suffix` files below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob(f"*{suffix}")):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def find_non_finite(path: Path) -> str:
    """The name of a tensor in a safetensors file that holds a NaN or an infinity; "" when there is none.

    Needs no torch. Raises RecordDamaged when the file cannot be read as safetensors.
    """
    try:
        with safe_open(path, framework="np") as file:
            names: list[str] = list(file.keys())
            return next((name for name in names if not np.isfinite(file.get_tensor(name)).all()), "")
    except (OSError, SafetensorError, TypeError) as error:
        raise RecordDamaged(f"{path} cannot be read as a safetensors file: {error}") from error


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Turn a full disk or a refused write into one sentence that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EACCES: "it may not be written by this user; change its owner or set NARUTO_HOME elsewhere",
            errno.EPERM: "it may not be written by this user; change its owner or set NARUTO_HOME elsewhere",
            errno.EROFS: "it lies on a read-only file system; set NARUTO_HOME elsewhere",
            errno.ENOTDIR: "a file stands where a folder is needed; set NARUTO_HOME elsewhere",
            errno.EEXIST: "a file stands where a folder is needed; set NARUTO_HOME elsewhere",
        }.get(_error_number(error))
        if why is None:
            raise
        raise StorageFailed(f"cannot write {path}: {why}.") from error


def _error_number(error: OSError | SafetensorError) -> int:
    """The system's number of an error; safetensors writes it into its message only ("(os error 28)")."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """A scratch path beside `path`; when the block ends well it becomes `path`, else it is removed."""
    # one process may write the same file from two threads, as a server does
    scratch = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """The same for a folder: filled under a scratch name, then renamed over any older one.

    A writer locks its scratch folder, so that the next one can tell what a killed writer left from what a living one
    is writing at this moment.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    with storage_errors(path):
        for left in path.parent.glob(f".{path.name}.*"):
            with _folder_lock(left) as ours:
                if (
                    ours and time.time() - left.stat().st_mtime > _ABANDONED
                ):  # else its writer may not have locked it yet
                    shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir(parents=True)
        with _folder_lock(scratch):
            try:
                yield scratch
                _replace_folder(scratch, path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _folder_lock(folder: Path) -> Generator[bool]:
    """Lock `folder` for the length of the block; whether nobody else holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False  # it has just been renamed or removed
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = True
        except OSError:  # another process holds it, or this file system has no locks and nobody can know
            ours = False
        yield ours
    finally:
        os.close(handle)


def _replace_folder(scratch: Path, path: Path) -> None:
    """Rename `scratch` to `path`; what was there is removed only afterwards."""
    old = scratch.with_name(f"{scratch.name}.old")
    for _ in range(10):
        with suppress(FileNotFoundError):
            path.rename(old)
        try:
            scratch.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(FileNotFoundError):
                    old.rename(path)
                raise
            shutil.rmtree(old, ignore_errors=True)  # another process put its folder there in between
        else:
            break
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    with atomic_file(path) as scratch:
        scratch.write_bytes(data)


@contextmanager
def exclusive_lock(path: Path) -> Generator[None]:
    """Hold the lock file `path` for the length of the block, against all other processes and threads.

    The kernel frees it however its holder ends, `kill -9` included. Some network and FUSE file systems have no locks:
    there the block runs without one, so what it writes must be atomic and be checked afterwards all the same.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with suppress(OSError):  # ENOLCK, ENOSYS, EOPNOTSUPP: this file system has no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies below one data root. Building a path creates nothing."""

    root: Path

    def picture(self, sha256: str, suffix: str) -> Path:
        """The original bytes of one dataset picture, stored once by content."""
        if not _DIGEST.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self.root / "pictures" / sha256[:2] / f"{sha256}{suffix}"

    def table(self, name: str) -> Path:
        """The Delta table of one dataset source."""
        return self.root / "datasets" / name

    def cache(self, key: str) -> Path:
        """Things that can be computed again, named by what they were computed from."""
        return self.root / "cache" / key

    def run(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"not a run id: {run_id!r}")
        return self.root / "runs" / run_id

    def recipe(self, run_id: str) -> Path:
        return self.run(run_id) / "recipe.json"

    def checkpoint(self, run_id: str, style: str = "") -> Path:
        return self.run(run_id) / f"checkpoint{'-' + style if style else ''}.safetensors"

    def adapter(self, run_id: str, style: str = "") -> Path:
        """The name diffusers looks for when `load_lora_weights` is given the folder."""
        folder = self.run(run_id) / "adapter"
        return (folder / style if style else folder) / LORA_FILE

    def previews(self, run_id: str, style: str = "") -> Path:
        """A folder for each preview, with the adapter's files at that step, its pictures and the sample sheet."""
        return self.run(run_id) / "previews" / style

    def fused(self, run_id: str) -> Path:
        return self.run(run_id) / "fused"

    def published(self, run_id: str) -> Path:
        """What is, or would be, pushed to a model hub."""
        return self.run(run_id) / "publish"

    def sample(self, run_id: str, sample_id: str) -> Path:
        return self.run(run_id) / "samples" / f"{sample_id}.png"

    @property
    def watched(self) -> Path:
        """Pictures that the HTTP service gave out and that wait to be measured; removed when they were."""
        return self.root / "service" / "watched"

    @property
    def embeddings(self) -> Path:
        """What networks said of pictures and texts, for all runs; can be computed again."""
        return self.root / "cache" / "embeddings.db"

    def contact_sheet(self, run_id: str) -> Path:
        return self.run(run_id) / "contact-sheet.png"

    def tensorboard(self, run_id: str) -> Path:
        """The event files of one run; the folder above is what `tensorboard --logdir` wants."""
        return self.root / "tensorboard" / self.run(run_id).name

    def mlflow(self) -> Path:
        """MLflow's database and artifacts, when it writes on this machine."""
        return self.root / "mlflow"

    def relative(self, path: Path) -> str:
        """`path` as the store keeps it: relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, recorded: str) -> Path:
        """The file behind a path that `relative` made; RecordDamaged when it leads out of the root."""
        inside = PurePosixPath(recorded)
        if inside.is_absolute() or ".." in inside.parts:
            raise RecordDamaged(
                f"the recorded path {recorded!r} leads out of {self.root}: the database was tampered with."
            )
        return self.root / inside


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
