"""The files of a picture source: a folder, a zip archive or tar archives, all read in place; nothing is unpacked.

Hidden files and folders are not listed, nor what file managers leave (`.ipynb_checkpoints`, `__MACOSX`). A file outside
the source is never read: neither a link that leads out of a folder, nor `..` in an archive.
"""

import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from naruto_core.dataset.records import MAX_BYTES, BrokenRecordError
from naruto_core.errors import DatasetUnusable

_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir"})  # macOS' resource forks, Synology's thumbnails
_LINK = "outside-folder"
_BLOCK = 512  # bytes of a block of a tar archive


class FileTree(Protocol):
    """Files by relative names with forward slashes.

    `label` names the source in messages; `names` are sorted; `notes` are sentences about what is not read.
    """

    label: str
    names: list[str]
    notes: list[str]

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """The bytes of a file. Raises BrokenRecordError when it is missing, outside, over `limit` bytes or damaged."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to stream. Raises DatasetUnusable when it cannot be opened."""
        ...


def is_hidden(name: str) -> bool:
    """Whether a part of the relative `name` is hidden, or was left by a file manager."""
    return any((part.startswith(".") and part != "..") or part in _SYSTEM_FOLDERS for part in PurePosixPath(name).parts)


def leads_out(name: str) -> bool:
    """Whether the relative `name` leads out of its folder."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts


class FolderTree:
    """The files of the folder `root`, subfolders included. Raises DatasetUnusable when a folder cannot be listed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.label = str(root)
        self.notes: list[str] = []
        self.names: list[str] = []
        for base, folders, files in os.walk(root, onerror=_refuse):
            inside = Path(base).relative_to(root)
            self.names += [(inside / file).as_posix() for file in files if not is_hidden(file)]
            folders[:] = [folder for folder in folders if not is_hidden(folder)]
            for folder in folders:
                if Path(base, folder).is_symlink():
                    self.notes.append(f"the folder {(inside / folder).as_posix()} is a link and is not read")
        self.names.sort()
        self._link_root = _root_of_links(root)

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """See FileTree."""
        path = self.root / name
        try:
            if not path.resolve(strict=True).is_relative_to(self._link_root):
                raise BrokenRecordError(
                    _LINK, f"{name} is a link that leads out of the folder: put the file itself there"
                )
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BrokenRecordError("missing-file", f"{name} is not a file")
            _check_size(name, status.st_size, limit)
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise BrokenRecordError("missing-file", f"there is no file {name}") from None
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise BrokenRecordError("unreadable", f"{name}: {error}") from None

    def open(self, name: str) -> BinaryIO:
        """See FileTree."""
        try:
            return (self.root / name).open("rb")
        except OSError as error:
            raise DatasetUnusable(f"cannot read {self.root / name}: {error.strerror}.") from error


def _refuse(error: OSError) -> None:
    raise DatasetUnusable(f"cannot read the folder {error.filename}: {error.strerror}.") from error


def _root_of_links(root: Path) -> Path:
    """The folder that links below `root` may lead to: itself, or the repository's folder in the hub's cache."""
    real = root.resolve()
    for parent in (real, *real.parents):
        if parent.parent.name == "snapshots" and (parent.parent.parent / "blobs").is_dir():
            return parent.parent.parent
    return real


class ZipTree:
    """The files of a zip archive. Raises DatasetUnusable when it is damaged or encrypted."""

    def __init__(self, path: Path) -> None:
        self.label = str(path)
        self.notes: list[str] = []
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DatasetUnusable(
                f"cannot read {path}: it is cut off or no zip archive ({error}); download or write it again."
            ) from error
        self._files = {_zip_name(info): info for info in self._archive.infolist() if not info.is_dir()}
        if any(info.flag_bits & 1 for info in self._files.values()):
            raise DatasetUnusable(f"{path} is encrypted: write it again without a password.")
        self.names = sorted(name for name in self._files if not is_hidden(name))

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """See FileTree."""
        if name not in self._files:
            raise BrokenRecordError("missing-file", f"there is no file {name} in the archive")
        info = self._files[name]
        if leads_out(name) or stat.S_ISLNK(info.external_attr >> 16):
            raise BrokenRecordError(_LINK, f"{name} is a link, or leads out of the archive")
        _check_size(name, info.file_size, limit)
        with _damage(name):
            return self._archive.read(info)

    def open(self, name: str) -> BinaryIO:
        """See FileTree."""
        try:
            return io.BytesIO(self.read(name))
        except BrokenRecordError as broken:
            raise DatasetUnusable(f"cannot read {name} in {self.label}: {broken.detail}.") from None


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as it was meant: macOS writes UTF-8 without saying so, some programs for Windows backslashes."""
    name = info.filename
    if not info.flag_bits & 0x800:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return PurePosixPath(name.replace("\\", "/")).as_posix()


class TarTree:
    """The files of uncompressed tar archives below `root`, in the archives' order.

    Of several archives, files are named <archive>/<file>. Only names and positions are kept in memory. Raises
    DatasetUnusable when an archive is damaged.
    """

    def __init__(self, root: Path, archives: Sequence[Path]) -> None:
        self.label = str(archives[0]) if len(archives) == 1 else str(root)
        self.notes: list[str] = []
        self._files: dict[str, tuple[Path, int, int]] = {}  # archive, position, size; position -1: not a file
        for archive in archives:
            prefix = f"{archive.relative_to(root).as_posix()}/" if len(archives) > 1 else ""
            for name, position, size in _members(archive):
                self._files[prefix + name] = archive, position, size
        self.names = [name for name in self._files if not is_hidden(name)]

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """See FileTree."""
        if name not in self._files:
            raise BrokenRecordError("missing-file", f"there is no file {name} in the archive")
        archive, position, size = self._files[name]
        if leads_out(name) or position < 0:
            raise BrokenRecordError(_LINK, f"{name} is a link, or leads out of the archive")
        _check_size(name, size, limit)
        with _damage(name), archive.open("rb") as file:
            file.seek(position)
            data = file.read(size)
        if len(data) < size:
            raise BrokenRecordError("truncated", f"{archive.name} ends within {name}")
        return data

    def open(self, name: str) -> BinaryIO:
        """See FileTree."""
        try:
            return io.BytesIO(self.read(name))
        except BrokenRecordError as broken:
            raise DatasetUnusable(f"cannot read {name} in {self.label}: {broken.detail}.") from None


def _members(archive: Path) -> Generator[tuple[str, int, int]]:
    """(name, position, size) of every member that is no folder; position -1 for links and the like."""
    damaged = f"cannot read {archive}: it is cut off, compressed or no tar archive"
    try:
        with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  (tarfile would keep 1 KB a member)
                if not member.isdir():
                    plain = member.isreg() and not member.issparse()
                    yield PurePosixPath(member.name).as_posix(), member.offset_data if plain else -1, member.size
            # tarfile takes a damaged header for the end; the real end is a block of zeros
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise DatasetUnusable(f"{damaged} (it has no end mark); download or write it again.")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DatasetUnusable(f"{damaged} ({error}); download or write it again.") from error


class SubTree:
    """The part of `tree` below the folder `prefix`, which ends with a slash."""

    def __init__(self, tree: FileTree, prefix: str) -> None:
        self._tree, self._prefix = tree, prefix
        self.label = f"{tree.label}/{prefix.rstrip('/')}"
        self.notes = tree.notes
        self.names = [name.removeprefix(prefix) for name in tree.names if name.startswith(prefix)]

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        """See FileTree."""
        return self._tree.read(self._prefix + name, limit)

    def open(self, name: str) -> BinaryIO:
        """See FileTree."""
        return self._tree.open(self._prefix + name)


def _check_size(name: str, size: int, limit: int) -> None:
    if size > limit:
        raise BrokenRecordError("too-large", f"{name} has {size:,} bytes; at most {limit:,} are read")


@contextmanager
def _damage(name: str) -> Generator[None]:
    """Inside the block, an archive's damage is that of the file `name`."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenRecordError("unreadable", f"{name}: {reason}") from None
