"""Broken caption files, metadata and archives: quarantined by name, or refused in one sentence; nothing is written."""

import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_bytes import png, rows, write_files, write_imagefolder, write_tar, write_zip

from naruto_core.artifacts import Layout
from naruto_core.dataset.ingest import ingest
from naruto_core.dataset.records import Record
from naruto_core.dataset.sources import open_source
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe_sections import DatasetSection

CAPTIONED = {f"{i}.png": png(i) for i in range(4)} | {f"{i}.txt": f"a character, number {i}" for i in range(4)}
TABLE = "file_name,text\n" + "".join(f"{i}.png,number {i}\n" for i in range(4))
PICTURES = {f"{i}.png": png(i) for i in range(4)}


def left_out(source: Path) -> dict[str, str]:
    """The details of the quarantined records by "file: reason"."""
    opened = open_source(DatasetSection(source=str(source)))
    records = list(opened.records())
    assert len(records) == opened.total
    broken = [record for record in records if isinstance(record, QuarantinedRecord)]
    return {f"{record.source}: {record.reason}": record.detail for record in broken}


def refusal(source: Path) -> str:
    """The one sentence with which ingest refuses `source`, having written nothing."""
    home = source.parent / "var"
    with pytest.raises(DatasetUnusable) as refused:
        ingest(DatasetSection(source=str(source)), Layout(home), lambda _: None)
    assert "\n" not in str(refused.value)
    assert not (home / "datasets").exists()
    return str(refused.value)


def test_caption_files_that_are_missing_empty_or_in_another_encoding_are_quarantined(tmp_path: Path) -> None:
    broken = {
        "empty.txt": b"",
        "blank.txt": b"\xef\xbb\xbf \n\n",
        "nomark.txt": "a naïve ninja".encode("utf-16-le"),
        "latin.txt": "a naïve ninja".encode("latin-1"),
        "utf32.txt": "a ninja".encode("utf-32"),
        "huge.txt": b"a" * 200_000,
    }
    pictures = {f"{Path(name).stem}.png": png(9) for name in broken} | {"none.png": png(9)}
    folder = write_files(tmp_path / "folder", CAPTIONED | broken | pictures)
    (folder / "dir.png").write_bytes(png(9))
    (folder / "dir.txt").mkdir()
    found = left_out(folder)
    assert set(found) == {
        "empty.png: no-caption", "blank.png: no-caption", "nomark.png: caption-not-text", "latin.png: caption-not-text",
        "utf32.png: caption-not-text", "huge.png: too-large", "none.png: no-caption", "dir.png: no-caption",
    }  # fmt: skip
    assert found["nomark.png: caption-not-text"].startswith("nomark.txt: it is neither UTF-8 nor UTF-16 with a byte")
    assert found["none.png: no-caption"] == "there is no none.txt or none.caption beside it, as other pictures have one"
    assert found["empty.png: no-caption"] == "empty.txt is empty"
    sentence = refusal(folder)
    assert "8 of 12 records" in sentence
    assert "blank.txt is empty" in sentence


def test_pictures_that_share_a_caption_file_are_quarantined(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", CAPTIONED | {"0.jpg": png(7)})
    assert left_out(folder) == {
        f"{name}: shared-caption": "2 pictures share the caption file 0.txt: rename them" for name in ("0.jpg", "0.png")
    }
    bare = write_files(tmp_path / "bare", {"a.png": png(1), "a.jpg": png(2)})
    assert left_out(bare) == {}


def test_links_that_lead_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", CAPTIONED)
    outside = write_files(tmp_path / "outside", {"secret.png": png(8), "secret.txt": "secret"})
    (folder / "a.png").symlink_to(outside / "secret.png")
    (folder / "a.txt").write_text("a link")
    (folder / "b.png").write_bytes(png(9))
    (folder / "b.txt").symlink_to(outside / "secret.txt")
    (folder / "c.png").symlink_to("c.png")
    (folder / "c.txt").write_text("in a circle")
    (folder / "more").symlink_to(outside)
    (folder / "4.png").symlink_to("0.png")
    (folder / "4.txt").write_text("a link to the inside")
    os.mkfifo(folder / "d.png")
    (folder / "d.txt").write_text("a pipe")
    assert list(left_out(folder)) == [
        "a.png: outside-folder", "b.png: outside-folder", "c.png: unreadable", "d.png: missing-file"
    ]  # fmt: skip
    assert open_source(DatasetSection(source=str(folder))).notes[0] == "the folder more is a link and is not read"
    lines = write_imagefolder(tmp_path / "lines", rows(2))
    (lines / "0000.png").unlink()
    (lines / "0000.png").symlink_to(outside / "secret.png")
    assert list(left_out(lines)) == ["0000.png: outside-folder"]
    cached = write_files(tmp_path / "cache", {"blobs/x": png(1), "blobs/y": "a caption"})
    (cached / "snapshots/1ed13e8").mkdir(parents=True)
    (cached / "snapshots/1ed13e8/a.png").symlink_to("../../blobs/x")
    (cached / "snapshots/1ed13e8/a.txt").symlink_to("../../blobs/y")
    assert left_out(cached / "snapshots/1ed13e8") == {}


def test_names_that_are_no_unicode_can_be_recorded(tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", CAPTIONED)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(b"no picture")
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("a cafe")
    (folder / "two\nlines.png").write_bytes(png(9))
    section = DatasetSection(source=str(folder), max_quarantined=0.5)
    quarantined = ingest(section, Layout(tmp_path / "var"), lambda _: None).quarantined
    assert [record.source for record in quarantined] == ["caf?.png", "two lines.png"]


BROKEN_ROWS = {
    "gone.png,x\n": ("gone.png", "missing-file"),
    "../secret.png,x\n": ("metadata.csv", "outside-folder"),
    "/etc/hostname,x\n": ("metadata.csv", "outside-folder"),
    "https://example.com/a.png,x\n": ("metadata.csv", "address"),
    "0.png,one, two\n": ("metadata.csv", "bad-metadata"),
    "0.png\n": ("metadata.csv", "bad-metadata"),
    '0.png,"x"y\n': ("metadata.csv", "bad-metadata"),
    ",x\n": ("metadata.csv", "bad-metadata"),
}


@pytest.mark.parametrize("row", BROKEN_ROWS)
def test_a_broken_row_of_a_csv_is_quarantined_and_the_others_are_read(row: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "folder", PICTURES | {"metadata.csv": f"{TABLE}{row}0.png,again\n"})
    opened = open_source(DatasetSection(source=str(folder)))
    broken = [record for record in opened.records() if isinstance(record, QuarantinedRecord)]
    assert [(record.source, record.row, record.reason) for record in broken] == [
        (BROKEN_ROWS[row][0], 4, BROKEN_ROWS[row][1])
    ]
    assert opened.total == 6


def test_blank_lines_before_a_header_count_as_lines_and_a_comma_in_quotation_marks_separates_no_columns(
    tmp_path: Path,
) -> None:
    table = '\n\nfile_name;"notes, by hand";text\n0.png;x\n1.png;;alice\n'
    source = write_files(tmp_path / "set", {"0.png": png(0), "1.png": png(1), "metadata.csv": table})
    broken, whole, _ = open_source(DatasetSection(source=str(source))).records()
    assert isinstance(broken, QuarantinedRecord)
    assert broken.detail.startswith("line 4 has more or fewer fields")
    assert isinstance(whole, Record)
    assert whole.caption == "alice"
    unclosed = {"0.png": png(0), "metadata.csv": '"file_name"x,text\n0.png,alice\n'}
    assert "cannot read the header of" in refusal(write_files(tmp_path / "header", unclosed))


def test_a_number_of_repeats_with_thousands_of_digits_is_one_broken_row(tmp_path: Path) -> None:
    table = f"file_name,text,repeats\na.png,alice,{'9' * 5000}\nb.png,bob,2\n"
    source = write_files(tmp_path / "set", {"a.png": png(1), "b.png": png(2), "metadata.csv": table})
    broken, whole = open_source(DatasetSection(source=str(source))).records()
    assert isinstance(broken, QuarantinedRecord)
    assert "not a whole number from 1 to 1000" in broken.detail
    assert isinstance(whole, Record)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (TABLE + '0.png,"never closed\n1.png,x\n', "ends within the quotation marks that line 6 opens"),
        (TABLE.encode("utf-16-le"), "is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8"),
        (
            "url,text\nhttps://example.com/a.png,x\n",
            "lists addresses of pictures (column 'url'): nothing here downloads",
        ),
        ("name,text\n0.png,x\n", "no column 'file_name'; its columns are name, text"),
        (
            "file_name,text,repeats\n0.png,x,0\n1.png,x,ten\n2.png,x,1001\n3.png,x,-1\n",
            "repeats is 0, not a whole number",
        ),
        ("", "4 of 4 records"),
    ],
)
def test_a_csv_that_cannot_be_understood_is_refused(table: str | bytes, words: str, tmp_path: Path) -> None:
    sentence = refusal(write_files(tmp_path / "folder", PICTURES | {"metadata.csv": table}))
    assert words in sentence


def test_rows_in_another_encoding_are_quarantined_not_the_table(tmp_path: Path) -> None:
    latin = b"0.png,caf\xe9\n"
    folder = write_files(tmp_path / "folder", PICTURES | {"metadata.csv": TABLE.encode() + latin})
    section = DatasetSection(source=str(folder), max_quarantined=0.5)
    (quarantined,) = ingest(section, Layout(tmp_path / "var"), lambda _: None).quarantined
    assert (quarantined.source, quarantined.row, quarantined.reason) == ("0.png", 4, "caption-not-text")


def test_files_of_an_archive_that_are_damaged_or_lead_out_are_quarantined(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", CAPTIONED | {"../out.png": png(7), "../out.txt": "x"})
    assert left_out(source) == {"../out.png: outside-folder": "../out.txt is a link, or leads out of the archive"}
    assert not (tmp_path.parent / "out.png").exists()
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr(link, "/etc/hostname")
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2) * 1000)
    data = bytearray(source.read_bytes())
    at = data.index(png(1)) + 50
    data[at] ^= 1
    source.write_bytes(bytes(data))
    found = left_out(source)
    assert list(found) == ["a.png: unreadable", "link.png: outside-folder"]
    assert "Bad CRC-32" in found["a.png: unreadable"]
    tarred = write_tar(tmp_path / "a.tar", CAPTIONED | {"a/../../out.png": png(7), "a/../../out.txt": "x"})
    assert list(left_out(tarred)) == ["a/../../out.png: outside-folder"]


def test_archives_that_are_cut_off_encrypted_compressed_or_no_archives_are_refused(tmp_path: Path) -> None:
    zipped = write_zip(tmp_path / "cut.zip", CAPTIONED).read_bytes()
    (tmp_path / "cut.zip").write_bytes(zipped[: len(zipped) // 2])
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "text.zip").write_text("no archive")
    locked = bytearray(zipped)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(mark) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(bytes(locked))
    tarred = write_tar(tmp_path / "a.tar", CAPTIONED).read_bytes()
    for name, data in (
        ("cut.tar", tarred[:5000]),
        ("between.tar", tarred[: tarred.index(b"1.png") // 512 * 512]),  # cut where a file ends
        ("spoilt.tar", tarred.replace(b"1.png", b"9.png")),
        ("empty.tar", b""),
        ("text.tar", b"no archive" * 100),
    ):
        (tmp_path / name).write_bytes(data)
    write_tar(tmp_path / "packed.tar.gz", CAPTIONED, "w:gz")
    (tmp_path / "packed.tar").write_bytes((tmp_path / "packed.tar.gz").read_bytes())
    words = {
        "cut.zip": "cut off or no zip", "empty.zip": "cut off or no zip", "text.zip": "cut off or no zip",
        "locked.zip": "encrypted", "cut.tar": "cut off", "between.tar": "no end mark", "spoilt.tar": "no end mark",
        "empty.tar": "cut off", "text.tar": "cut off", "packed.tar": "compressed", "packed.tar.gz": "is compressed",
    }  # fmt: skip
    for name, word in words.items():
        sentence = refusal(tmp_path / name)
        assert name in sentence
        assert word in sentence, sentence


def test_lists_of_addresses_are_refused_with_the_reason_in_every_form(tmp_path: Path) -> None:
    addresses = {"url": ["https://example.com/a.png"], "caption": ["x"]}
    pq.write_table(pa.table(addresses), tmp_path / "a.parquet")
    write_files(tmp_path, {"a.csv": "url,caption\nhttps://example.com/a.png,x\n"})
    for name in ("a.parquet", "a.csv"):
        assert "nothing here downloads pictures from arbitrary addresses" in refusal(tmp_path / name)
    pq.write_table(pa.table(addresses | {"jpg": [png(1)]}), tmp_path / "b.parquet")  # as img2dataset writes it
    assert "no column 'image'; its columns are url, caption, jpg" in refusal(tmp_path / "b.parquet")


def test_a_folder_or_archive_without_pictures_is_refused(tmp_path: Path) -> None:
    assert "has no pictures, no parquet files" in refusal(write_files(tmp_path / "notes", {"a.txt": "x"}))
    assert "has no pictures" in refusal(write_zip(tmp_path / "a.zip", {"a.txt": "x"}))
    assert "has no pictures" in refusal(write_tar(tmp_path / "a.tar", {"a.txt": "x"}))


def test_a_list_of_captions_that_is_not_read_is_named(tmp_path: Path) -> None:
    below = write_files(tmp_path / "below", {f"sub/{n}": d for n, d in PICTURES.items()} | {"sub/metadata.csv": TABLE})
    assert "sub/metadata.csv is in a subfolder of " in refusal(below)
    named = write_files(tmp_path / "named", PICTURES | {"captions.csv": TABLE})
    notes = open_source(DatasetSection(source=str(named))).notes
    assert "captions.csv is not read: a list of captions is named metadata.csv or metadata.jsonl" in notes
