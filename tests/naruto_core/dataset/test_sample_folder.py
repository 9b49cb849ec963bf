"""Pictures of another program: file names or a table say prompt and seed; whatever does not fit is named."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from naruto_core.dataset.sample_folder import read_sample_folder
from naruto_core.domain import Prompt, PromptSuite
from naruto_core.errors import DatasetUnusable
from tasks.import_pictures import say_sizes

SUITE = PromptSuite(
    "s-v1",
    "f" * 64,
    (Prompt("rain", "a person, in  the rain", "rain", ("x",)), Prompt("two-moons", "two moons", "moons", ("x",))),
    (11, 22),
)
NAMES = ("rain_11.png", "rain_22_00001_.png", "two-moons_11.jpg", "two-moons_22.webp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole folder of pictures, all different, with a file that is none."""
    path = tmp_path / "pictures"
    path.mkdir()
    for number, name in enumerate(NAMES):
        noise = Image.frombytes("RGB", (64, 64), random.Random(number).randbytes(64 * 64 * 3))
        noise.save(path / name)
    (path / "notes.txt").write_text("drawn on Monday")
    (path / ".hidden_1.png").write_bytes(b"")
    return path


def test_file_names_and_a_table_in_any_order_say_the_same(folder: Path, tmp_path: Path):
    by_name = read_sample_folder(folder, None, SUITE, 64)
    assert {(p.path.name, p.slug, p.seed) for p in by_name.pictures} == {
        (NAMES[0], "rain", 11),
        (NAMES[1], "rain", 22),
        (NAMES[2], "two-moons", 11),
        (NAMES[3], "two-moons", 22),
    }
    assert by_name.sizes == {(64, 64): 4}
    renamed = [(folder / name).rename(folder / f"{i} – bild.png").name for i, name in enumerate(NAMES)]
    table = tmp_path / "table.csv"
    table.write_text(
        "seed,File,prompt\r\n"
        f'11,{renamed[2]},two moons\r\n22,{renamed[3]}," two  moons"\r\n'
        f'22,{renamed[1]},"a person, in the rain"\r\n\r\n11,{renamed[0]},"a person, in the\nrain"\r\n',
        encoding="utf-8-sig",
    )
    assert read_sample_folder(folder, table, SUITE, 64).sha256 == by_name.sha256
    table.write_text("file,slug,seed\n" + "".join(f"{n},{s},{d}\n" for n, s, d in zip(
        renamed, ("rain", "rain", "two-moons", "two-moons"), (22, 11, 11, 22), strict=True)))  # fmt: skip
    assert read_sample_folder(folder, table, SUITE, 64).sha256 != by_name.sha256  # other seeds


def _copied(folder: Path, old: str, new: str) -> None:
    (folder / new).write_bytes((folder / old).read_bytes())


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / NAMES[0]).unlink(), "lacks 1 of 4 pictures: rain_11; draw them, or ask for fewer"),
    "no seed": (lambda f: (f / NAMES[0]).rename(f / "rain.png"), r"rain\.png does not say prompt and seed: name it"),
    "other name": (lambda f: (f / NAMES[0]).rename(f / "Rain_11.png"), "does not say prompt and seed"),
    "unknown slug": (lambda f: (f / NAMES[0]).rename(f / "snow_11.png"), "suite s-v1 has no prompt snow; its first"),
    "unknown seed": (lambda f: (f / NAMES[0]).rename(f / "rain_5.png"), r"seed 5 is not of suite s-v1 \(11, 22\)"),
    "twice": (lambda f: _copied(f, NAMES[0], "rain_11.jpg"), r"rain_11\.jpg and rain_11\.png are both of prompt rain"),
    "empty file": (lambda f: (f / NAMES[0]).write_bytes(b""), r"rain_11\.png cannot be used \(empty: zero bytes\)"),
    "no picture": (lambda f: (f / NAMES[0]).write_bytes(b"<html>"), r"rain_11\.png cannot be used \(not-an-image"),
    "cut": (
        lambda f: (f / NAMES[0]).write_bytes((f / NAMES[0]).read_bytes()[:5000]),
        r"rain_11\.png cannot be used \(truncated",
    ),
    "no folder": (lambda f: f.rename(f.with_name("other")), "there is no folder"),
    "no pictures": (lambda f: [(f / name).unlink() for name in NAMES], "has no pictures"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_does_not_fit_the_suite_is_refused_in_one_sentence(folder: Path, change: str):
    make, sentence = CHANGES[change]
    make(folder)
    with pytest.raises(DatasetUnusable, match=sentence):
        read_sample_folder(folder, None, SUITE, 64)


HEAD = "file,slug,seed\n"


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (None, "cannot read .*table.csv as CSV in UTF-8"),
        (b"", "needs the columns file, seed, and slug or prompt; it has "),
        (b"file,prompt\n", "needs the columns file, seed, and slug or prompt; it has file, prompt"),
        (HEAD.encode(), "has no rows below its head"),
        ("file,slug,seed\nä".encode("utf-16"), "as CSV in UTF-8"),
        (b"file,slug,seed\nrain_11.png,rain\n", "line 2: 2 cells, and the head has 3"),
        (b"file,slug,seed\nrain_11.png,rain,x\n", "line 2: the seed 'x' is no whole number"),
        (b"file,slug,seed\nrain_11.png,rain,-1\n", "line 2: the seed '-1' is no whole number"),
        (b"file,slug,seed\ngone.png,rain,11\n", r"line 2: there is no file .*gone\.png"),
        (b"file,slug,seed\n../outside.png,rain,11\n", r"line 2: \.\./outside\.png leads out of"),
        (b"file,prompt,seed\nrain_11.png,snow,11\n", "line 2: 'snow' is no prompt of suite s-v1"),
    ],
)
def test_a_table_that_does_not_say_it_is_refused_with_its_line(
    folder: Path, tmp_path: Path, table: bytes | None, sentence: str
):
    (tmp_path / "outside.png").write_bytes((folder / NAMES[0]).read_bytes())
    if table is not None:
        (tmp_path / "table.csv").write_bytes(table)
    with pytest.raises(DatasetUnusable, match=sentence):
        read_sample_folder(folder, tmp_path / "table.csv", SUITE, 64)


def test_other_and_mixed_sizes_are_told_and_much_smaller_pictures_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    Image.new("RGB", (48, 96)).save(folder / NAMES[0])
    found = read_sample_folder(folder, None, SUITE, 64)
    say_sizes(found, 64)
    assert "several sizes (3 of 64 x 64, 1 of 48 x 96; the recipe: 64 x 64)" in capsys.readouterr().err
    with pytest.raises(DatasetUnusable, match=r"48 x 96 pixels, .* --set generation\.resolution=64 for all runs"):
        read_sample_folder(folder, None, SUITE, 1024)
