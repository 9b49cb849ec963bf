"""Every form of dataset in docs/guides/datasets.md is read: a test a row of its table."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_bytes import png, rows, write_files, write_imagefolder, write_parquet, write_saved, write_tar, write_zip

from naruto_core.artifacts import Layout
from naruto_core.dataset.ingest import ingest
from naruto_core.dataset.records import Record
from naruto_core.dataset.sources import open_source
from naruto_core.dataset.versions import read_pictures
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe_sections import DatasetSection

GUIDE = Path(__file__).parents[3] / "docs/guides/datasets.md"
ALICE, BOB = (png(1), "alice, smiling"), (png(2), "bob, in the rain")
PAIR = [ALICE, BOB]
SIDECARS = {"a.png": png(1), "a.txt": "alice, smiling\n", "b.png": png(2), "b.caption": "bob, in the rain"}
LINES = "".join(json.dumps({"file_name": n, "text": t}) + "\n" for n, t in (("a.png", ALICE[1]), ("b.png", BOB[1])))
FILES = {"a.png": png(1), "b.png": png(2)}


def read(source: object, **options: str) -> tuple[list[tuple[object, ...]], list[str]]:
    """(bytes, caption), and repeats where it is more than 1, of all records, which are whole; and what was said."""
    opened = open_source(DatasetSection(source=str(source), **options))
    records = list(opened.records())
    assert len(records) == opened.total
    content: list[tuple[object, ...]] = []
    for record in records:
        assert isinstance(record, Record), record
        content.append((record.image, record.caption, *([record.repeats] if record.repeats > 1 else [])))
    return content, list(opened.notes)


def caption_files(folder: Path) -> None:
    content, notes = read(write_files(folder / "plain", SIDECARS))
    assert content == PAIR
    assert notes == ["2 of 2 pictures have a caption file (.caption and .txt)"]
    nested = {f"deep/er/{name}": data for name, data in SIDECARS.items()} | {"README.txt": "not a caption"}
    assert read(write_files(folder / "nested", nested))[0] == PAIR
    encodings = {"utf-8-sig": "naïve 忍者", "utf-16": "naïve 忍者"}  # both begin with a byte order mark
    marked = {f"{n}.png": png(1) for n in encodings} | {f"{n}.txt": text.encode(n) for n, text in encodings.items()}
    assert {caption for _, caption in read(write_files(folder / "marked", marked))[0]} == {"naïve 忍者"}
    scripts = {"日本 語.png": png(1), "日本 語.txt": "alice,\n  smiling\n\n", "b'\".png": png(2), "b'\".txt": BOB[1]}
    assert sorted(read(write_files(folder / "scripts", scripts))[0]) == sorted(PAIR)
    splits = {f"train/{n}": d for n, d in SIDECARS.items()} | {"test/c.png": png(3), "test/c.txt": "held out"}
    assert read(write_files(folder / "splits", splits))[0] == PAIR


def kohya_folders(folder: Path) -> None:
    bob = {"b.png": png(2), "b.txt": BOB[1]}
    files = {"10_sks style/a.png": png(1)} | {f"3_bob boy/{n}": d for n, d in bob.items()}
    content, notes = read(write_files(folder / "several", files | {"c.png": png(3), "reg/1_boy/d.png": png(4)}))
    assert content == [(png(1), "sks style", 10), (*BOB, 3)]
    assert notes[0].startswith(
        "folder '10_sks style': 1 pictures, each 10 times in an epoch; instance words 'sks style'"
    )
    assert notes[0].endswith("they are the caption of 1 pictures without a caption file")
    assert notes[1] == "folder '3_bob boy': 1 pictures, each 3 times in an epoch; instance words 'bob boy'"
    assert notes[2].startswith("not read: 2 pictures outside of these folders")
    assert notes[3] == "1 of 2 pictures have a caption file (.txt)"
    content, notes = read(write_files(folder / "project", {f"img/3_bob boy/{n}": d for n, d in bob.items()}))
    assert content == [(*BOB, 3)]
    assert notes[1] == "to put the instance words before every caption: --set 'training.instance_prompt=bob boy'"
    assert read(write_files(folder / "20_sks", bob))[0] == [(*BOB, 20)]
    assert read(write_files(folder / "photos", {f"2024_holiday/{n}": d for n, d in bob.items()}))[0] == [BOB]


def no_captions(folder: Path) -> None:
    source = write_files(folder / "my pictures", FILES | {"notes.txt": "of no picture"})
    content, notes = read(source)
    assert content == [(png(1), ""), (png(2), "")]
    assert notes == [
        "no picture has a caption: each is trained with the instance prompt alone",
        f"to write captions by a BLIP model: naruto recaption '{source}' --model FOLDER",
    ]
    layout = Layout(folder / "var")
    version = ingest(DatasetSection(source=str(source)), layout, lambda _: None).version
    assert {picture.caption for picture in read_pictures(layout, version)} == {""}


def metadata_jsonl(folder: Path) -> None:
    assert read(write_files(folder / "plain", FILES | {"metadata.jsonl": LINES})) == (PAIR, [])
    assert read(write_files(folder / "marked", FILES | {"metadata.jsonl": LINES.encode("utf-16")}))[0] == PAIR
    for column in ("caption", "prompt"):
        lines = LINES.replace("file_name", "image").replace('"text"', f'"{column}"')
        content, notes = read(write_files(folder / column, FILES | {"metadata.jsonl": lines}))
        assert content == PAIR
        assert notes == [
            "metadata.jsonl: took column 'image' as file names",
            f"metadata.jsonl: took column '{column}' as captions",
        ]
    both = LINES.replace('"text"', '"prompt": "x", "caption"')
    with pytest.raises(DatasetUnusable, match=r"no column 'text'; its columns are file_name, prompt, caption"):
        read(write_files(folder / "both", FILES | {"metadata.jsonl": both}))


def metadata_csv(folder: Path) -> None:
    table = 'file_name,text,repeats\na.png,"alice, smiling",\nb.png,"bob, in the rain",7\n'
    content, notes = read(write_files(folder / "plain", FILES | {"metadata.csv": table}))
    assert content == [ALICE, (*BOB, 7)]
    assert notes == ["metadata.csv: took column 'repeats' as how often an epoch shows a picture"]
    spaced = "\ufeffimage; prompt\r\na.png; alice, smiling\r\nb.png; bob, in the rain\r\n"
    content, notes = read(write_files(folder / "spaced", FILES | {"metadata.csv": spaced}))
    assert content == PAIR
    assert notes[1] == "metadata.csv: took column 'prompt' as captions"


def metadata_parquet(folder: Path) -> None:
    write_files(folder, FILES)
    table = pa.table({"file_name": ["a.png", "b.png"], "text": [ALICE[1], BOB[1]]})
    pq.write_table(table, folder / "metadata.parquet")
    assert read(folder)[0] == PAIR


def zip_archive(folder: Path) -> None:
    litter = {"__MACOSX/._a.png": b"x", "top/.DS_Store": b"x", "top/.ipynb_checkpoints/a-checkpoint.png": png(1)}
    assert read(write_zip(folder / "a.zip", {f"top/{n}": d for n, d in SIDECARS.items()} | litter))[0] == PAIR
    assert read(write_zip(folder / "b.zip", FILES | {"metadata.jsonl": LINES}))[0] == PAIR
    assert read(write_zip(folder / "c.zip", {"5_sks/a.png": png(1)}))[0] == [(png(1), "sks", 5)]
    assert read(write_zip(folder / "d.zip", FILES))[0] == [(png(1), ""), (png(2), "")]
    assert sorted(path.name for path in folder.iterdir()) == ["a.zip", "b.zip", "c.zip", "d.zip"]


def tar_archives(folder: Path) -> None:
    assert read(write_tar(folder / "a.tar", {f"./{n}": d for n, d in SIDECARS.items()}))[0] == PAIR
    apart = dict(sorted(SIDECARS.items(), key=lambda file: file[0].partition(".")[2]))  # captions, then pictures
    assert read(write_tar(folder / "apart.tar", apart))[0] == PAIR
    shards = folder / "shards"
    shards.mkdir()
    for number, (data, caption) in enumerate(PAIR):
        facts = json.dumps({"prompt": caption, "width": 24})
        write_tar(shards / f"{number:05}.tar", {"000.png": data, "000.json": facts})
        write_parquet(shards / f"{number:05}.parquet", [], ("key", "url"))  # as img2dataset leaves it
    assert read(shards)[0] == PAIR


def parquet(folder: Path) -> None:
    write_parquet(folder / "data/partial-train/0000.parquet", PAIR)
    write_parquet(folder / "data/partial-test/0000.parquet", rows(3))
    write_files(folder, {"banner.png": png(5), ".ipynb_checkpoints/train.parquet": b"x"})
    assert read(folder)[0] == PAIR


def saved(folder: Path) -> None:
    assert read(write_saved(folder, PAIR))[0] == PAIR


def hub(_: Path) -> None:
    with pytest.raises(DatasetUnusable, match="needs a pinned revision"):  # downloads: test_dataset_hub.py
        read("org/name")


def drawn_world(_: Path) -> None:
    assert len(read("world:naruto?count=2&seed=7")[0]) == 2


FORMS: dict[str, Callable[[Path], None]] = {
    "caption files": caption_files,
    "kohya's folders": kohya_folders,
    "no captions": no_captions,
    "metadata.jsonl": metadata_jsonl,
    "metadata.csv": metadata_csv,
    "metadata.parquet": metadata_parquet,
    "zip archive": zip_archive,
    "tar archives": tar_archives,
    "parquet": parquet,
    "save_to_disk": saved,
    "hub id": hub,
    "drawn world": drawn_world,
}


def test_the_guides_table_has_the_forms_that_are_tested() -> None:
    table = GUIDE.read_text().partition("## Forms")[2].partition("\n\n## ")[0]
    assert re.findall(r"^\| ([\w' .]+?) \|", table, re.MULTILINE)[1:] == list(FORMS)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_of_the_guide_is_read(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path)


def test_the_same_pictures_and_captions_are_one_version_in_whatever_form(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "var")
    sources = [
        write_files(tmp_path / "sidecars", SIDECARS),
        write_imagefolder(tmp_path / "folder", PAIR),
        write_zip(tmp_path / "a.zip", SIDECARS),
        write_tar(tmp_path / "a.tar", SIDECARS),
    ]
    versions = [ingest(DatasetSection(source=str(s)), layout, lambda _: None).version for s in sources]
    assert len({version.id for version in versions}) == 1


def test_what_download_tools_and_notebooks_leave_beside_pictures_is_not_read(tmp_path: Path) -> None:
    files = {f"00000/{n}": d for n, d in SIDECARS.items()} | {"00000/a.json": "{}", "00000_stats.json": "{}"}
    source = write_files(tmp_path / "downloaded", files | {".ipynb_checkpoints/a-checkpoint.png": png(1)})
    write_parquet(source / "00000.parquet", [], ("key", "url"))
    assert read(source)[0] == PAIR
    folder = write_imagefolder(tmp_path / "folder", PAIR)
    write_files(folder, {".ipynb_checkpoints/0000-checkpoint.png": png(1), "sub/.hidden.png": png(1)})
    assert read(folder)[0] == PAIR
