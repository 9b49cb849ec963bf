"""The layout of the data root, and safe writes into it: every path is built here, every file is written through here.

A file is written beside its final name and then renamed, so that a killed process
leaves the old file or the new one. Names come from content hashes or opaque ids, never from captions.
"""

import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from safetensors import SafetensorError, safe_open

from naruto_core import picture_file
from naruto_core.errors import RecordDamaged, StorageFailed

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)
_SCRATCH = re.compile(
    r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?:(?P<pid>[0-9a-f]{6,})p[0-9a-f]{8}|[0-9a-f]{12})(?:\.old)?(?P<suffix>\.\w+)?"
)
_ABANDONED = 60  # seconds; older scratch of this host whose writer is gone was left by a killed process
_ABANDONED_ELSEWHERE = 24 * 3600  # the same for another host, whose locks are not visible here
LORA_FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers expects


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_intact(path: Path, sha256: str) -> bool:
    """Whether `path` is a file with the recorded `sha256`."""
    return path.is_file() and sha256_file(path) == sha256


def sha256_folder(folder: Path, suffix: str = ".safetensors") -> str:
    """A sha256 over the relative names and contents of all `suffix` files below `folder`; hidden files do not count."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob(f"[!.]*{suffix}") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    return digest.hexdigest()


def sha256_of_all(folder: Path) -> str:
    """As `sha256_folder`, over all files that are not hidden."""
    return sha256_folder(folder, "")


def is_intact_folder(folder: Path, sha256: str) -> bool:
    """Whether `folder` has the recorded `sha256`: over all files, or, from earlier versions, over the weights alone."""
    return folder.is_dir() and sha256 in (sha256_of_all(folder), sha256_folder(folder))


def find_non_finite(path: Path) -> str:
    """The name of the first tensor of a safetensors file with a NaN or an infinity; "" when all are finite.
    Needs no torch. Raises RecordDamaged when the file cannot be read as safetensors."""
    import numpy as np  # whoever only looks for files needs none of it

    try:
        with safe_open(path, framework="np") as file:
            names: list[str] = list(file.keys())
            return next((name for name in names if not np.isfinite(file.get_tensor(name)).all()), "")
    except (OSError, SafetensorError, TypeError) as error:
        raise RecordDamaged(f"{path} cannot be read as a safetensors file: {error}") from error


@contextmanager
def storage_errors(path: Path) -> Generator[None]:
    """Inside the block, a full disk or a write that is not allowed raises StorageFailed, which names `path`."""
    elsewhere = "use another folder (for what this program keeps: set NARUTO_HOME)"
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            **dict.fromkeys(_NOT_ALLOWED, f"this user has no write permission; change the owner, or {elsewhere}"),
            errno.EROFS: f"it is on a read-only file system; {elsewhere}",
            **dict.fromkeys((errno.ENOTDIR, errno.EEXIST), f"a file is where a folder is needed; {elsewhere}"),
            errno.EISDIR: f"a folder is where a file is needed; {elsewhere}",
            errno.ENAMETOOLONG: f"its name is too long; {elsewhere}",
            errno.ELOOP: f"its links lead in a circle; {elsewhere}",
            errno.EIO: "the disk refused to read or write; check it and run the same command again",
        }.get(_error_number(error))
        if reason is None:
            raise
        raise StorageFailed(f"cannot write {path}: {reason}.") from error


def _error_number(error: OSError | SafetensorError) -> int:
    """The errno of an error; safetensors has it only in its message ("(os error 28)")."""
    if isinstance(error, OSError):
        return error.errno or 0
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else 0


def host_id() -> str:
    """8 hex digits for this host: its name, its boot, and its process namespace, as each container has its own."""
    return _host_id(socket.gethostname())


@cache
def _host_id(name: str) -> str:
    parts = [name]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


def _scratch_token() -> str:
    """A part of a scratch name that no other writer has: this host, this process, and a random number."""
    return f"{host_id()}-{os.getpid():06x}p{secrets.token_hex(4)}"


def scratch_path(path: Path) -> Path:
    """A path beside `path` that no other writer has, on no machine; the file there is renamed to `path` when whole."""
    return path.with_name(f".{path.stem}.{_scratch_token()}{path.suffix}")


def is_abandoned(path: Path, now: float) -> bool:
    """Whether `path` is a scratch file or folder that nobody writes any more, at `now` (seconds since 1970).

    A folder of this host is abandoned when no process has its lock; a file, when the process in its name has ended.
    What another host or an earlier version left is, when nothing in it has changed for a day.
    """
    match = _SCRATCH.fullmatch(path.name)
    if match is None:
        return False
    try:
        if match["host"] == host_id() and path.is_dir():
            with _folder_lock(path) as locked:
                return locked and now - path.stat().st_mtime > _ABANDONED
        if match["host"] == host_id() and match["pid"] and not _runs(int(match["pid"], 16)):
            return now - path.lstat().st_mtime > _ABANDONED
        newest = max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except FileNotFoundError:  # its writer has just finished
        return False
    return now - newest > _ABANDONED_ELSEWHERE


def _runs(pid: int) -> bool:
    """Whether this host has a process with that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        return True
    return True


def remove_abandoned(root: Path) -> list[Path]:
    """Remove the scratch files and folders that killed processes left anywhere below `root`; their paths.

    Lists every folder, and asks about no file whose name is not hidden: 0.14 s of CPU for 1,000 runs of 104 files.
    """
    now, removed, folders = time.time(), list[Path](), [str(root)]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:  # gone meanwhile, or of another user
            for entry in entries:
                is_folder = entry.is_dir(follow_symlinks=False)
                if entry.name.startswith(".") and is_abandoned(path := Path(entry.path), now):
                    removed.append(path)
                    shutil.rmtree(path, ignore_errors=True) if is_folder else path.unlink(missing_ok=True)
                elif is_folder:
                    folders.append(entry.path)
    return sorted(removed)


@contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """A scratch path beside `path`; it is renamed to `path` when the block succeeds, else removed. StorageFailed."""
    scratch = scratch_path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Generator[Path]:
    """As `atomic_file` for a folder: it is filled under a scratch name, then replaces an older folder `path`.

    The name of a scratch folder has its host. A writer locks its scratch folder, so that the next writer on this host
    can tell a killed writer's folder from one that is in use; see `is_abandoned`.
    """
    scratch = path.with_name(f".{path.name}.{_scratch_token()}")
    with storage_errors(path):
        for left in path.parent.glob(f".{glob.escape(path.name)}.*"):
            if is_abandoned(left, time.time()):
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
    """Lock `folder` for the block; yields whether that succeeded, because no other process holds it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        yield False  # it was just renamed or removed
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = True
        except OSError:  # another process holds it, or this file system has no locks
            locked = False
        yield locked
    finally:
        os.close(handle)


def _replace_folder(scratch: Path, path: Path) -> None:
    """Rename `scratch` to `path`; an older folder is removed afterwards."""
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
            shutil.rmtree(old, ignore_errors=True)  # another process created `path` in between
        else:
            break
    shutil.rmtree(old, ignore_errors=True)


def write_atomically(path: Path, data: bytes) -> None:
    with atomic_file(path) as scratch:
        scratch.write_bytes(data)


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` a hard link to the file `source`, or a copy where the file system has no such links; atomically.

    Neither file is ever changed in place: a write replaces the name, and the other name keeps its bytes.
    """
    with atomic_file(path) as scratch:
        try:
            scratch.hardlink_to(source)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, one without links, or too many links to one file
            shutil.copyfile(source, scratch)


@contextmanager
def exclusive_lock(path: Path) -> Generator[None]:
    """Hold the lock file `path` for the block, against all other processes and threads. Raises StorageFailed.

    The kernel releases it when its holder ends, also by `kill -9`. Some network and FUSE file systems have no locks:
    there the block runs without a lock, so what it writes must be atomic, and be checked afterwards.
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
    """The paths below one data root. Building a path creates nothing."""

    root: Path
    bucket: str = ""  # the URL of NARUTO_STORE, which may have recorded files that this machine has not

    def picture(self, sha256: str, suffix: str) -> Path:
        """The original bytes of one dataset picture, stored once by content."""
        if not _DIGEST.fullmatch(sha256):
            raise ValueError(f"not a sha256: {sha256!r}")
        return self.root / "pictures" / sha256[:2] / f"{sha256}{suffix}"

    def table(self, name: str) -> Path:
        """The Delta table of one dataset source."""
        return self.root / "datasets" / name

    def cache(self, key: str) -> Path:
        """A cache folder for what can be computed again; `key` depends on everything that it is computed from."""
        return self.root / "cache" / key

    def run(self, run_id: str) -> Path:
        if not _RUN_ID.fullmatch(run_id):
            raise ValueError(f"not a run id: {run_id!r}")
        return self.root / "runs" / run_id

    def recipe(self, run_id: str) -> Path:
        return self.run(run_id) / "recipe.json"

    def scores_digest(self, run_id: str) -> Path:
        """The sha256 of the run's scores in the database, so that a change there is noticed."""
        return self.run(run_id) / "scores.sha256"

    def checkpoint(self, run_id: str, style: str = "") -> Path:
        return self.run(run_id) / f"checkpoint{'-' + style if style else ''}.safetensors"

    def adapter(self, run_id: str, style: str = "") -> Path:
        """The LoRA file, in the folder to pass to diffusers' `load_lora_weights`; with `style`, that style's."""
        folder = self.run(run_id) / "adapter"
        return (folder / style if style else folder) / LORA_FILE

    def previews(self, run_id: str, style: str = "") -> Path:
        """A folder for each preview, with the adapter's files at that step, its pictures and the sample sheet."""
        return self.run(run_id) / "previews" / style

    def fused(self, run_id: str) -> Path:
        return self.run(run_id) / "fused"

    def published(self, run_id: str) -> Path:
        """The folder that is pushed to a model hub."""
        return self.run(run_id) / "publish"

    def latents(self, run_id: str, adapter: str, variant: str) -> Path:
        """The latents that wait for a refiner: of one variant, drawn with one adapter (a digest)."""
        return self.run(run_id) / "latents" / f"{variant}-{adapter[:24]}"

    def sample(self, run_id: str, sample_id: str) -> Path:
        return self.run(run_id) / "samples" / f"{sample_id}{picture_file.SUFFIX}"

    @property
    def watched(self) -> Path:
        """Served pictures that wait for their quality to be measured; they are removed afterwards."""
        return self.root / "service" / "watched"

    @property
    def picture_cache(self) -> Path:
        """Pictures that the base model drew, for all runs."""
        return self.root / "cache" / "pictures"

    @property
    def embeddings(self) -> Path:
        """The cache of embeddings of pictures and texts, for all runs."""
        return self.root / "cache" / "embeddings.db"

    @property
    def results(self) -> Path:
        """The folder of results that were computed from embeddings, such as comparisons of two models."""
        return self.root / "cache" / "results"

    def contact_sheet(self, run_id: str) -> Path:
        return self.run(run_id) / f"contact-sheet{picture_file.SUFFIX}"

    def tensorboard(self, run_id: str) -> Path:
        """The event files of one run; `tensorboard --logdir` takes the folder above it."""
        return self.root / "tensorboard" / self.run(run_id).name

    def mlflow(self) -> Path:
        """MLflow's database and artifacts, where no MLflow server is set."""
        return self.root / "mlflow"

    def relative(self, path: Path) -> str:
        """`path` as it is recorded in the database: relative to the root, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def absolute(self, recorded: str) -> Path:
        """The absolute path of one from `relative`. Raises RecordDamaged when it leads out of the root."""
        inside = PurePosixPath(recorded)
        if inside.is_absolute() or ".." in inside.parts:
            raise RecordDamaged(
                f"the recorded path {recorded!r} leads out of {self.root}: the database was tampered with."
            )
        return self.root / inside
