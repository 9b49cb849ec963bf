"""A folder of pictures that another program drew for the prompts of a suite: which picture is which prompt and seed.

File names say it (`<slug>_<seed>.png`, also with ComfyUI's counter behind: `<slug>_<seed>_00001_.png`), or a CSV file
with the columns `file`, `seed`, and `slug` or `prompt`.
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from naruto_core.artifacts import sha256_bytes
from naruto_core.dataset.records import BrokenRecordError, decode
from naruto_core.domain import Prompt, PromptSuite
from naruto_core.errors import DatasetUnusable

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_NAME = re.compile(r"(?P<slug>[a-z0-9][a-z0-9-]*)_(?P<seed>\d{1,16})(_\d{5}_?)?")
_SHOWN = 3  # of a list in an error
_SMALLEST = 1 / 4  # of the area that the recipe draws; smaller pictures measure their enlargement


@dataclass(frozen=True, slots=True)
class FoundPicture:
    """A picture of another program: its file, the prompt's slug, the seed, and the sha256 of its bytes."""

    path: Path
    slug: str
    seed: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SampleFolder:
    """Pictures for every prompt and seed of a suite; `sizes` counts them by (width, height)."""

    pictures: tuple[FoundPicture, ...]
    sizes: Mapping[tuple[int, int], int]

    @property
    def sha256(self) -> str:
        """Over prompts, seeds and contents, whatever the names of the files."""
        lines = sorted(f"{picture.slug}\0{picture.seed}\0{picture.sha256}\n" for picture in self.pictures)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_sample_folder(folder: Path, table: Path | None, suite: PromptSuite, resolution: int) -> SampleFolder:
    """The pictures of `folder` for the prompts of `suite`, by `table` (CSV) or, for None, by the names of the files.

    Raises DatasetUnusable for a picture without prompt or seed, an unknown prompt or seed, two pictures of the same,
    a missing or broken picture, and one of less than a quarter of `resolution` x `resolution` pixels.
    """
    if not folder.is_dir():
        raise DatasetUnusable(f"there is no folder {folder}.")
    named = list(_from_table(folder, table, suite) if table else _from_names(folder))
    pictures: dict[tuple[str, int], FoundPicture] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    slugs = {prompt.slug for prompt in suite.prompts}
    for path, slug, seed in named:
        _check_known(path, slug, seed, slugs, suite)
        if (slug, seed) in pictures:
            other = pictures[slug, seed].path.name
            raise DatasetUnusable(
                f"{other} and {path.name} are both of prompt {slug}, seed {seed}: remove one of them."
            )
        size = decoded(path).size
        if size[0] * size[1] < resolution**2 * _SMALLEST:
            raise DatasetUnusable(
                f"{path} has {size[0]} x {size[1]} pixels, and the recipe draws {resolution} x {resolution}: bring "
                f"larger pictures, or set --set generation.resolution={_side(size)} for all runs that you compare."
            )
        sizes[size] += 1
        pictures[slug, seed] = FoundPicture(path, slug, seed, sha256_bytes(path.read_bytes()))
    _check_complete(folder, pictures, suite)
    return SampleFolder(tuple(pictures.values()), dict(sizes))


def decoded(path: Path) -> Image.Image:
    """The picture in `path`, in RGB and upright. Raises DatasetUnusable, which names the file, when it is broken."""
    try:
        return decode(path.read_bytes()).image
    except BrokenRecordError as broken:
        raise DatasetUnusable(f"{path} cannot be used ({broken}): draw it again, or remove it.") from None
    except OSError as error:
        raise DatasetUnusable(f"cannot read {path}: {error.strerror or error}.") from None


def _from_names(folder: Path) -> Iterator[tuple[Path, str, int]]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and path.name[0] != ".")
    if not paths:
        raise DatasetUnusable(f"{folder} has no pictures ({', '.join(_SUFFIXES)}).")
    for path in paths:
        match = _NAME.fullmatch(path.stem)
        if not match:
            raise DatasetUnusable(
                f"the name of {path} does not say prompt and seed: name it <slug>_<seed>{path.suffix}, or give a CSV "
                "file with --csv."
            )
        yield path, match["slug"], int(match["seed"])


def _from_table(folder: Path, table: Path, suite: PromptSuite) -> Iterator[tuple[Path, str, int]]:
    try:
        text = table.read_bytes().decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetUnusable(f"cannot read {table} as CSV in UTF-8: {error}.") from None
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if not {"file", "seed"} <= set(head) or not {"slug", "prompt"} & set(head):
        raise DatasetUnusable(f"{table} needs the columns file, seed, and slug or prompt; it has {', '.join(head)}.")
    if len(rows) == 1:
        raise DatasetUnusable(f"{table} has no rows below its head.")
    for number, cells in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        where = f"{table}, line {number}"
        if len(cells) != len(head):
            raise DatasetUnusable(
                f"{where}: {len(cells)} cells, and the head has {len(head)}; quote cells with commas."
            )
        row = {name: cell.strip() for name, cell in zip(head, cells, strict=True)}
        if not re.fullmatch(r"\d{1,16}", row["seed"]):
            raise DatasetUnusable(f"{where}: the seed {row['seed']!r} is no whole number.")
        yield _inside(folder, row["file"], where), _slug(row, suite, where), int(row["seed"])


def _inside(folder: Path, name: str, where: str) -> Path:
    path = folder / name
    if not name or not path.is_file():
        raise DatasetUnusable(f"{where}: there is no file {path}.")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DatasetUnusable(f"{where}: {name} leads out of {folder}.")
    return path


def _slug(row: Mapping[str, str], suite: PromptSuite, where: str) -> str:
    if row.get("slug"):
        return row["slug"]
    wanted = " ".join(row.get("prompt", "").split())
    matches = [prompt.slug for prompt in suite.prompts if _text(prompt) == wanted]
    if not matches:
        raise DatasetUnusable(
            f"{where}: {wanted!r} is no prompt of suite {suite.name}: use its texts word for word, or give slugs."
        )
    return matches[0]


def _text(prompt: Prompt) -> str:
    return " ".join(prompt.text.split())


def _check_known(path: Path, slug: str, seed: int, slugs: set[str], suite: PromptSuite) -> None:
    if slug not in slugs:
        raise DatasetUnusable(
            f"{path}: suite {suite.name} has no prompt {slug}; its first are {_few(sorted(slugs))}. Draw the prompts "
            "of the suite, or name another with --suite."
        )
    if seed not in suite.seeds:
        raise DatasetUnusable(
            f"{path}: seed {seed} is not of suite {suite.name} ({', '.join(map(str, suite.seeds))}): name the file by "
            "one of these. Pictures of the same prompt and seed are compared; for a model without seeds, the seed "
            "only counts the pictures of a prompt."
        )


def _check_complete(folder: Path, pictures: Mapping[tuple[str, int], FoundPicture], suite: PromptSuite) -> None:
    wanted = [(prompt.slug, seed) for prompt in suite.prompts for seed in suite.seeds]
    missing = [f"{slug}_{seed}" for slug, seed in wanted if (slug, seed) not in pictures]
    if missing:
        raise DatasetUnusable(
            f"{folder} lacks {len(missing)} of {len(wanted)} pictures: {_few(missing)}; draw them, or ask for fewer "
            "with --set generation.prompts=N or --set generation.seeds=N (the first N)."
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _side(size: tuple[int, int]) -> int:
    """The side of a square of about that area, a multiple of 8."""
    return max(16, round((size[0] * size[1]) ** 0.5 / 8) * 8)
