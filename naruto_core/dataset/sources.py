"""Dataset sources: opens what `dataset.source` of a recipe names.

`world:<style>?count=N&seed=S` is the miniature's drawn world; a file or folder is read by its format; `org/name`
is downloaded from the hub at a pinned revision. docs/guides/datasets.md lists the formats.
"""

import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from random import Random
from urllib.parse import parse_qsl, urlsplit

from naruto_core.artifacts import storage_errors
from naruto_core.dataset.file_trees import FileTree, FolderTree, SubTree, TarTree, ZipTree
from naruto_core.dataset.imagefolder import METADATA, METADATA_FILES, URLS, ImageFolder, find_metadata
from naruto_core.dataset.records import Record, Source
from naruto_core.dataset.sidecars import CaptionFiles, is_picture
from naruto_core.dataset.tabular import Table, choose_shards, has_column, saved_shards
from naruto_core.errors import DatasetUnusable, amount
from naruto_core.hub import check_hub_file
from naruto_core.mini.pretraining.drawing import draw
from naruto_core.mini.pretraining.world import STYLES, describe, sample_scene
from naruto_core.recipe_sections import DatasetSection

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_WORLD = "world:"
_TRAIN = "train/"
_FILES = (".parquet", ".arrow", ".jsonl", ".csv", ".zip", ".tar")
_MAX_DRAWINGS = 1_000_000
_KEPT_DRAWINGS = 1_000  # of this process, about 20 KB each
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SPLITS = frozenset({"train", "test", "validation", "valid", "val", "dev"})


def open_source(section: DatasetSection) -> Source:
    """The source of `section`, its columns checked. Raises DatasetUnusable when it cannot be opened."""
    text = section.source
    if text.startswith(_WORLD):
        return _world(text)
    try:
        path = Path(text).expanduser()
        if path.exists():
            return _local(path.absolute(), text, section)
    except (OSError, RuntimeError) as error:
        raise DatasetUnusable(f"cannot read dataset {text}: {error}; check the path and its permissions.") from error
    if text.startswith((os.sep, ".", "~")) or path.suffix in _FILES:
        raise DatasetUnusable(f"there is no dataset at {path.absolute()}: check the path.")
    if _HUB_ID.fullmatch(text):
        return _hub(section)
    raise DatasetUnusable(
        f"'{text}' is no dataset: use a folder, or a parquet, zip or tar file that exists, a hub id such as org/name, "
        "or world:naruto?count=360&seed=7."
    )


def _local(path: Path, name: str, section: DatasetSection) -> Source:
    if path.is_file():
        return _file(path, name, section)
    notes: list[str] = []
    if (path / "dataset_dict.json").exists():
        path, notes = _train_of_dict(path)
    if (path / "state.json").exists():
        return replace(_table(path, saved_shards(path), name, section), notes=notes)
    tree = FolderTree(path)
    if metadata := _imagefolder(tree, name, section):
        return metadata
    tables, archives = (
        [path / file for file in tree.names if file.lower().endswith(suffix)] for suffix in (".parquet", ".tar")
    )
    if archives:
        choice = choose_shards(path, archives)
        source = _pictures(TarTree(path, choice.shards), path.name, name, section.caption_column)
        return replace(source, notes=[*choice.notes, *source.notes, *_beside(tree, "tar")])
    pictures = any(is_picture(file) for file in tree.names)
    if tables and (not pictures or has_column(tables[0], section.image_column)):
        choice = choose_shards(path, tables)
        notes = [*choice.notes, *_beside(tree, "parquet")]
        return replace(_table(path, choice.shards, name, section), notes=notes)
    if not pictures:
        raise DatasetUnusable(
            f"{path} has no pictures, no parquet files, no tar files and no state.json: use a folder with one of them, "
            "or a zip file."
        )
    return _pictures(tree, path.name, name)


def _beside(tree: FileTree, kind: str) -> list[str]:
    """A sentence about the pictures of a folder whose files of `kind` are read; none where it has no others."""
    pictures = [file for file in tree.names if is_picture(file)]
    if not pictures:
        return []
    left = f"not read: {amount(len(pictures), 'picture')} outside of the {kind} files (first {pictures[0]})"
    return [f"{left}; to read such pictures, move the {kind} files away"]


def _file(path: Path, name: str, section: DatasetSection) -> Source:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _table(path.parent, [path], name, section)
    if suffix == ".zip":
        return _archive(ZipTree(path), name, section, "")
    if suffix == ".tar":
        return _archive(TarTree(path.parent, [path]), name, section, section.caption_column)
    if path.name.lower().endswith(_COMPRESSED_TAR):
        raise DatasetUnusable(
            f"{path} is compressed, and pictures are read from where they lie in it: decompress it to a .tar file."
        )
    if suffix in (".csv", ".tsv", ".jsonl", ".json"):
        raise DatasetUnusable(
            f"{path} is a list: use the folder of its pictures, with the list in it as metadata.csv or metadata.jsonl. "
            f"Of a list of addresses, {URLS}"
        )
    raise DatasetUnusable(f"{path} is not a .parquet, .zip or .tar file: use one, or a folder.")


def _archive(tree: FileTree, name: str, section: DatasetSection, json_key: str) -> Source:
    """An archive; if everything in it is in one folder, that folder."""
    top = ""
    while len(tops := {file.partition("/")[0] for file in tree.names}) == 1 and all("/" in f for f in tree.names):
        (top,) = tops
        tree = SubTree(tree, f"{top}/")
    return _imagefolder(tree, name, section) or _pictures(tree, top, name, json_key)


def _imagefolder(tree: FileTree, name: str, section: DatasetSection) -> Source | None:
    """The imagefolder in `tree` or in its folder `train`; None when neither has metadata."""
    for part in (tree, SubTree(tree, _TRAIN)):
        if metadata := find_metadata(part):
            folder = ImageFolder(part, metadata, section.image_column, section.caption_column)
            outside = _outside_train(tree) if part is not tree else []
            return Source(name, folder.total, folder.records, [*folder.notes, *outside])
    return None


def _pictures(tree: FileTree, top: str, name: str, json_key: str = "") -> Source:
    """Pictures with or without caption files; of several splits the training split."""
    if nested := next((file for file in tree.names if file.rpartition("/")[2] in METADATA_FILES and "/" in file), ""):
        raise DatasetUnusable(
            f"{nested} is in a subfolder of {tree.label}: use that subfolder as the source, or merge the lists into "
            f"one {METADATA} at the top."
        )
    splits = {file.partition("/")[0] if "/" in file else "" for file in tree.names if is_picture(file)}
    several = "train" in splits and len(splits) > 1 and splits <= _SPLITS
    pictures = CaptionFiles(SubTree(tree, _TRAIN) if several else tree, name, top, json_key)
    return Source(name, pictures.total, pictures.records, [*pictures.notes, *(_outside_train(tree) if several else [])])


def _outside_train(tree: FileTree) -> list[str]:
    """What is not read when the training split of `tree` is: one sentence, or none."""
    outside = [file for file in tree.names if is_picture(file) and not file.startswith(_TRAIN)]
    if not outside:
        return []
    folders = ", ".join(sorted({file.rpartition("/")[0].partition("/")[0] or "its top folder" for file in outside}))
    return [f"the folder train is the training split; {len(outside)} pictures outside of it are not read ({folders})"]


def _table(root: Path, shards: list[Path], name: str, section: DatasetSection) -> Source:
    table = Table(root, shards, section.image_column, section.caption_column)
    return Source(name, table.total, table.records)


def _train_of_dict(folder: Path) -> tuple[Path, list[str]]:
    """The training split of a saved DatasetDict, and a sentence about the others."""
    if not (folder / "train" / "state.json").exists():
        raise DatasetUnusable(f"{folder} has several splits, none named train: use the folder of one split.")
    others = sorted(state.parent.name for state in folder.glob("*/state.json") if state.parent.name != "train")
    return folder / "train", [f"the split train is read, not {', '.join(others)}"] if others else []


def _hub(section: DatasetSection) -> Source:
    if section.revision is None or not _COMMIT.fullmatch(section.revision):
        hint = "" if section.revision is None else f" ('{section.revision}' may move)"
        raise DatasetUnusable(
            f"dataset {section.source} needs a pinned revision{hint}: set dataset.revision to a commit hash "
            f"(7 to 40 hex digits) of https://huggingface.co/datasets/{section.source}."
        )
    revision = _full_commit(section.source, section.revision)
    return _local(_fetch(section.source, revision), f"{section.source}@{revision}", section)


def _full_commit(repository: str, revision: str) -> str:
    """The 40 digits of a short commit hash: the hub's downloads need all of them. Raises DatasetUnusable."""
    if len(revision) == 40:
        return revision
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        commits = HfApi().list_repo_commits(repository, repo_type="dataset")
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetUnusable(
            f"cannot ask the hub which commit of dataset {repository} {revision} is: {reason}; check the network, or "
            "write all 40 digits, or the folder of a download."
        ) from error
    matches = [commit.commit_id for commit in commits if commit.commit_id.startswith(revision)]
    if len(matches) != 1:
        raise DatasetUnusable(
            f"dataset {repository} has {len(matches)} commits that begin with {revision}: write all 40 digits."
        )
    return matches[0]


def _fetch(repository: str, revision: str) -> Path:
    import httpx2
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        with storage_errors(Path(constants.HF_HUB_CACHE)):
            folder = Path(
                snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns="*.parquet")
            )
    except LocalEntryNotFoundError as error:
        raise DatasetUnusable(
            f"cannot reach the hub for dataset {repository}, and it is not in the cache: check the network, "
            "or download it on another machine and use its folder."
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DatasetUnusable(f"cannot fetch dataset {repository} at {revision[:12]} from the hub: {reason}") from error
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        raise DatasetUnusable(
            f"dataset {repository} has no parquet files at {revision[:12]}: set dataset.revision to the commit of its "
            "branch refs/convert/parquet, which the hub makes by itself, or download its pictures and use their folder."
        )
    for path in files:
        check_hub_file(path)
    return folder


def _world(text: str) -> Source:
    parts = urlsplit(text)
    try:
        options = {key: int(value) for key, value in parse_qsl(parts.query, strict_parsing=bool(parts.query))}
    except ValueError:
        raise _not_a_world(text) from None
    count, seed = options.pop("count", 360), options.pop("seed", 0)
    if options or parts.path not in STYLES or not 1 <= count <= _MAX_DRAWINGS:
        raise _not_a_world(text)
    return Source(text, count, lambda: _drawings(text, parts.path, count, seed))


def _not_a_world(text: str) -> DatasetUnusable:
    return DatasetUnusable(
        f"'{text}' is no drawn world: write {_WORLD}<style>?count=N&seed=S with N from 1 to {_MAX_DRAWINGS:,} "
        f"and a style of {', '.join(STYLES)}."
    )


def _drawings(name: str, style: str, count: int, seed: int) -> Iterator[Record]:
    for row in range(count):
        yield Record(name, row, *_drawing(style, seed, row))


@lru_cache(maxsize=_KEPT_DRAWINGS)
def _drawing(style: str, seed: int, row: int) -> tuple[bytes, str]:
    """A PNG file and its caption; kept, because every run of a sweep reads its dataset again."""
    rng = Random(f"{seed}/{row}")
    scene = sample_scene(rng, style)
    caption = describe(scene, rng)
    png = io.BytesIO()
    draw(scene, rng).save(png, "PNG")
    return png.getvalue(), caption
