"""Pictures with a caption file beside each (`a.png` and `a.txt` or `a.caption`), or without any captions.

Folders as kohya's trainer (github.com/kohya-ss/sd-scripts) reads them: the pictures of `10_sks style` are shown ten
times in an epoch, and "sks style" (kohya's class tokens) is the caption of those without a caption file. In tar
archives (WebDataset) a caption may also be in `a.json`.
"""

import codecs
import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

from naruto_core.dataset.file_trees import FileTree
from naruto_core.dataset.records import PICTURE_SUFFIXES, BrokenRecordError, Record
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable, amount

_TEXT_SUFFIXES = (".txt", ".caption")  # the first that exists is read
_JSON = ".json"
_LISTS = (".csv", ".tsv", ".json", ".jsonl", ".xlsx")
_MAX_CAPTION_BYTES = 100_000
_KOHYA = re.compile(r"([1-9]\d{0,2}|1000)_(\S.*)")
_FOLDERS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class KohyaFolder:
    """A folder that kohya's trainer would read: how often an epoch shows its pictures, and its instance words."""

    repeats: int
    words: str


def kohya_folder(name: str) -> KohyaFolder | None:
    """What the folder name says, such as `10_sks style`; None for other names."""
    match = _KOHYA.fullmatch(name)
    return KohyaFolder(int(match[1]), match[2].strip()) if match else None


def is_picture(name: str) -> bool:
    """Whether a file of that name is taken for a picture."""
    return PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES


class CaptionFiles:
    """The pictures of `tree`, and their captions.

    source: what the user called it, for the commands that notes name; top: the name of the folder that `tree` is.
    json_key: read captions from this key of JSON files too, or from `caption`, `prompt` or `text`; "": no JSON files.
    Raises DatasetUnusable when there is no picture.
    """

    def __init__(self, tree: FileTree, source: str, top: str, json_key: str = "") -> None:
        self.tree, self.json_key = tree, json_key
        pictures = [name for name in tree.names if is_picture(name)]
        self._folders = _kohya_folders(pictures, top)
        self._pictures = [name for name in pictures if not self._folders or _folder(name) in self._folders]
        if not self._pictures:
            raise DatasetUnusable(f"{tree.label} has no pictures.")
        self._stems = Counter(_stem(name) for name in self._pictures)
        self._captions = _caption_files(tree.names, self._stems, _suffixes(json_key))
        self.total = len(self._pictures)
        self.notes = [*tree.notes, *self._kohya_notes(pictures), *self._caption_notes(source)]

    def records(self) -> Iterator[Record | QuarantinedRecord]:
        """The records of all pictures, by name."""
        for row, name in enumerate(self._pictures):
            folder = self._folders.get(_folder(name))
            try:
                caption = self._caption(name, folder)
                data = self.tree.read(name)
            except BrokenRecordError as broken:
                yield QuarantinedRecord(name, row, broken.reason, broken.detail)
                continue
            yield Record(name, row, data, caption, folder.repeats if folder else 1, self._uncaptioned)

    @property
    def _uncaptioned(self) -> bool:
        return not self._captions and not self._folders

    def _caption(self, name: str, folder: KohyaFolder | None) -> str:
        stem = _stem(name)
        if file := self._captions.get(stem):
            if self._stems[stem] > 1:
                raise BrokenRecordError(
                    "shared-caption", f"{self._stems[stem]} pictures share the caption file {file}: rename them"
                )
            return self._read_caption(file)
        if folder:
            return folder.words
        if self._uncaptioned:
            return ""
        wanted = " or ".join(PurePosixPath(stem).name + suffix for suffix in _TEXT_SUFFIXES)
        raise BrokenRecordError("no-caption", f"there is no {wanted} beside it, as other pictures have one")

    def _read_caption(self, file: str) -> str:
        data = self.tree.read(file, _MAX_CAPTION_BYTES)
        try:
            text = decode_text(data)
            caption = _json_caption(text, self.json_key) if file.lower().endswith(_JSON) else text
        except ValueError as error:
            raise BrokenRecordError("caption-not-text", f"{file}: {error}") from None
        if not caption.strip():
            raise BrokenRecordError("no-caption", f"{file} is empty")
        return " ".join(line.strip() for line in caption.strip().splitlines() if line.strip())

    def _kohya_notes(self, pictures: Sequence[str]) -> Iterator[str]:
        if not self._folders:
            return
        counts = Counter(_folder(name) for name in self._pictures)
        without_file = Counter(_folder(name) for name in self._pictures if _stem(name) not in self._captions)
        for name in list(self._folders)[:_FOLDERS_SHOWN]:
            folder = self._folders[name]
            words = (
                f"; they are the caption of {without_file[name]} pictures without a caption file"
                if without_file[name]
                else ""
            )
            place = f"folder '{name}'" if name else "this folder"
            yield (
                f"{place}: {counts[name]} pictures, each {folder.repeats} times in an epoch; "
                f"instance words '{folder.words}'{words}"
            )
        if len(self._folders) > _FOLDERS_SHOWN:
            yield f"... and {len(self._folders) - _FOLDERS_SHOWN} more such folders"
        every = {folder.words for folder in self._folders.values()}
        if len(every) == 1:
            setting = shlex.quote(f"training.instance_prompt={every.pop()}")
            yield f"to put the instance words before every caption: --set {setting}"
        if outside := len(pictures) - len(self._pictures):
            yield (
                f"not read: {amount(outside, 'picture')} outside of these folders; regularisation pictures are none of "
                "them: training.prior makes class pictures"
            )

    def _caption_notes(self, source: str) -> Iterator[str]:
        captioned = sum(_stem(name) in self._captions for name in self._pictures)
        kinds = " and ".join(sorted({PurePosixPath(file).suffix.lower() for file in self._captions.values()}))
        if captioned:
            yield f"{captioned} of {self.total} pictures have a caption file ({kinds})"
        elif self._uncaptioned:
            yield "no picture has a caption: each is trained with the instance prompt alone"
            for name in (name for name in self.tree.names if "/" not in name and name.lower().endswith(_LISTS)):
                yield f"{name} is not read: a list of captions is named metadata.csv or metadata.jsonl"
        if not captioned:
            yield f"to write captions by a BLIP model: naruto recaption {shlex.quote(source)} --model FOLDER"


def decode_text(data: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark. Raises ValueError for other encodings."""
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without a mark, mostly
        raise ValueError("it is neither UTF-8 nor UTF-16 with a byte order mark; save it as UTF-8")
    return text


def _json_caption(text: str, key: str) -> str:
    """The caption in the JSON object `text`. Raises ValueError."""
    try:
        entry: object = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    fields = cast("Mapping[str, Any]", entry) if isinstance(entry, dict) else {}
    for name in dict.fromkeys((key, "caption", "prompt", "text")):
        if isinstance(value := fields.get(name), str):
            return value
    raise ValueError(f"it has no text under {key}, caption, prompt or text")


def _kohya_folders(pictures: Sequence[str], top: str) -> dict[str, KohyaFolder]:
    """The folders with kohya's names that have pictures: directly below the top or below `img`, or the top itself."""
    holding = dict.fromkeys(_folder(name) for name in pictures)
    for parent in ("", "img"):
        named = {
            folder: kohya
            for folder in holding
            if folder and _folder(folder) == parent and (kohya := kohya_folder(PurePosixPath(folder).name))
        }
        if named:
            return named
    kohya = kohya_folder(top)
    return {"": kohya} if kohya and "" in holding else {}


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _stem(name: str) -> str:
    """The name without its last suffix, in one Unicode normalization (macOS writes decomposed letters)."""
    folder, slash, file = name.rpartition("/")
    return unicodedata.normalize("NFC", f"{folder}{slash}{PurePosixPath(file).stem}")


def _suffixes(json_key: str) -> tuple[str, ...]:
    return (*_TEXT_SUFFIXES, _JSON) if json_key else _TEXT_SUFFIXES


def _caption_files(names: Sequence[str], stems: Mapping[str, int], suffixes: Sequence[str]) -> dict[str, str]:
    """The caption file of every stem that has one; of several, the first in the order of `suffixes`."""
    files: dict[str, str] = {}
    for suffix in reversed(suffixes):
        for name in names:
            if name.lower().endswith(suffix) and (stem := unicodedata.normalize("NFC", name[: -len(suffix)])) in stems:
                files[stem] = name
    return files
