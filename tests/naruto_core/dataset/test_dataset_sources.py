"""Every kind of source gives the same records; anything else is refused with one sentence."""

import json
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_bytes import png, rows, write_files, write_imagefolder, write_parquet, write_saved, write_tar

from naruto_core.dataset.records import Record
from naruto_core.dataset.sources import open_source
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe_sections import DatasetSection


def _read(source: object, **options: str) -> list[Record | QuarantinedRecord]:
    opened = open_source(DatasetSection(source=str(source), **options))
    records = list(opened.records())
    assert len(records) == opened.total
    return records


def _content(records: list[Record | QuarantinedRecord]) -> list[tuple[bytes, object]]:
    return [(record.image, record.caption) for record in records if isinstance(record, Record)]


def _reasons(records: list[Record | QuarantinedRecord]) -> dict[int, str]:
    return {record.row: record.reason for record in records if isinstance(record, QuarantinedRecord)}


def test_parquet_files_folders_imagefolders_and_saved_datasets_give_the_same_records(tmp_path: Path) -> None:
    content = rows(40)
    write_parquet(tmp_path / "hub/data/train-00000-of-00002.parquet", content[:25])
    write_parquet(tmp_path / "hub/data/train-00001-of-00002.parquet", content[25:])
    sources = [
        write_parquet(tmp_path / "one.parquet", content),
        tmp_path / "hub",
        write_imagefolder(tmp_path / "folder", content),
        write_saved(tmp_path / "saved", content),
    ]
    assert [_content(_read(source)) for source in sources] == [content] * 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("metadata", ["metadata.jsonl", "metadata.json"])
def test_metadata_as_a_json_array_with_windows_paths_and_the_other_normalization_is_read(
    metadata: str, encoding: str, tmp_path: Path
) -> None:
    content = rows(3)
    names = ["img/a.png", f"img/{unicodedata.normalize('NFD', 'é')}.png", f"{unicodedata.normalize('NFC', 'ü')}.png"]
    spelt = ["img\\a.png", f"img/{unicodedata.normalize('NFC', 'é')}.png", f"{unicodedata.normalize('NFD', 'ü')}.png"]
    (tmp_path / "img").mkdir()
    for name, (data, _) in zip(names, content, strict=True):
        (tmp_path / name).write_bytes(data)
    entries = [{"file_name": name, "text": text} for name, (_, text) in zip(spelt, content, strict=True)]
    (tmp_path / metadata).write_bytes(json.dumps(entries, indent=1).encode(encoding))
    assert _content(_read(tmp_path)) == content


def test_another_programs_metadata_json_is_not_taken_for_captions_and_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "metadata.json").write_text(json.dumps({"a": {"tags": "ninja"}}, indent=1))
    assert _content(_read(tmp_path)) == [(png(1), "")]
    notes = open_source(DatasetSection(source=str(tmp_path))).notes
    assert "metadata.json is not read: a list of captions is named metadata.csv or metadata.jsonl" in notes


def test_a_caption_file_in_the_other_normalization_is_its_pictures(tmp_path: Path) -> None:
    (tmp_path / f"{unicodedata.normalize('NFD', 'é')}.png").write_bytes(png(1))
    (tmp_path / f"{unicodedata.normalize('NFC', 'é')}.txt").write_text("a ninja")
    assert _content(_read(tmp_path)) == [(png(1), "a ninja")]


def test_the_training_split_is_chosen_among_several(tmp_path: Path) -> None:
    content = rows(6)
    write_parquet(tmp_path / "hub/data/train-00000.parquet", content[:4])
    write_parquet(tmp_path / "hub/data/test-00000.parquet", content[4:])
    write_saved(tmp_path / "dict/train", content[:4])
    write_saved(tmp_path / "dict/test", content[4:])
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split, part in (("train", content[:4]), ("validation", content[4:])):
        write_imagefolder(tmp_path / "split" / split, part)
        for number, (data, text) in enumerate(part):
            (tmp_path / "sidecars" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"sidecars/{split}/{number}.png").write_bytes(data)
            (tmp_path / f"sidecars/{split}/{number}.txt").write_text(text)
    left_out = {
        "hub": "1 of 2 files are of the training split; data/test-00000.parquet is not read",
        "dict": "the split train is read, not test",
        "split": "the folder train is the training split; 2 pictures outside of it are not read (validation)",
        "sidecars": "the folder train is the training split; 2 pictures outside of it are not read (validation)",
    }
    for folder, note in left_out.items():
        assert _content(_read(tmp_path / folder)) == content[:4]
        assert note in open_source(DatasetSection(source=str(tmp_path / folder))).notes


def test_one_configuration_is_read_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    content = rows(6)
    write_parquet(tmp_path / "hub/default/partial-train/0000.parquet", content[:4])
    write_parquet(tmp_path / "hub/default/partial-test/0000.parquet", content[4:])
    write_parquet(tmp_path / "hub/small/train/0000.parquet", content[4:])
    assert _content(_read(tmp_path / "hub")) == content[:4]
    (note,) = open_source(DatasetSection(source=str(tmp_path / "hub"))).notes
    assert note == (
        "1 of 3 files are of the training split; default/partial-test/0000.parquet is not read, nor 1 others"
    )
    for language in ("en", "fr"):
        write_parquet(tmp_path / f"two/{language}/train-00000-of-00001.parquet", content[:4])
    with pytest.raises(DatasetUnusable, match=r"has 2 configurations \(en, fr\).* such as .*/two/fr\."):
        _read(tmp_path / "two")
    assert _content(_read(tmp_path / "two/fr")) == content[:4]


def test_pictures_beside_the_archives_that_are_read_are_told(tmp_path: Path) -> None:
    for kind in ("tar", "parquet"):
        folder = write_files(tmp_path / kind, {f"{i}.png": png(i) for i in range(3)} | {"0.txt": "alice"})
        if kind == "tar":
            write_tar(folder / "old.tar", {"a.png": png(7), "a.txt": "bob"})
        else:
            write_parquet(folder / "old.parquet", [(png(7), "bob")])
        assert _content(_read(folder)) == [(png(7), "bob")]
        notes = open_source(DatasetSection(source=str(folder))).notes
        assert notes[-1] == (
            f"not read: 3 pictures outside of the {kind} files (first 0.png); to read such pictures, move the {kind} "
            "files away"
        )


def test_a_parquet_file_with_capital_letters_in_its_suffix_is_read(tmp_path: Path) -> None:
    content = rows(3)
    path = write_parquet(tmp_path / "hub" / "SET.PARQUET", content)
    assert _content(_read(path)) == _content(_read(path.parent)) == content


def test_missing_shards_are_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00003.parquet", rows(2))
    write_parquet(tmp_path / "data/test-00000-of-00009.parquet", rows(2))
    with pytest.raises(DatasetUnusable, match="lacks 2 of 3 files, first data/train-00001-of-00003"):
        _read(tmp_path)
    assert len(_read(tmp_path / "data/train-00000-of-00003.parquet")) == 2  # one file that somebody chose


def test_plain_binary_columns_with_other_names_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"jpg": pa.array([png(1)]), "alt": ["a ninja"]}), tmp_path / "a.parquet")
    assert _content(_read(tmp_path, image_column="jpg", caption_column="alt")) == [(png(1), "a ninja")]


def test_rows_are_counted_within_their_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/a.parquet", rows(3))
    write_parquet(tmp_path / "data/b.parquet", rows(2))
    positions = [(record.source, record.row) for record in _read(tmp_path)]
    assert positions == [*(("data/a.parquet", row) for row in range(3)), *(("data/b.parquet", row) for row in range(2))]


def test_rows_without_a_picture_or_with_only_a_path_are_quarantined(tmp_path: Path) -> None:
    content = [(png(1), "one"), (None, "two"), ({"bytes": None, "path": "/etc/passwd"}, "three")]
    records = _read(write_parquet(tmp_path / "a.parquet", content))
    assert _reasons(records) == {1: "no-image", 2: "missing-file"}


def test_a_caption_that_is_not_utf8_is_quarantined(tmp_path: Path) -> None:
    captions = pa.array([b"fine", b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": pa.array([png(1), png(2)]), "text": captions}), tmp_path / "a.parquet")
    assert _reasons(_read(tmp_path)) == {1: "caption-not-text"}


def test_lines_of_an_imagefolder_that_name_no_usable_file_are_quarantined(tmp_path: Path) -> None:
    folder = write_imagefolder(tmp_path / "folder", rows(2))
    (folder / "forgotten.jpg").write_bytes(png(7))
    (tmp_path / "secret.png").write_bytes(png(8))
    (folder / "sub").mkdir()
    bad = [
        '{"file_name": "gone.png", "text": "x"}',
        '{"file_name": "../secret.png", "text": "x"}',
        json.dumps({"file_name": str(tmp_path / "secret.png"), "text": "x"}),
        '{"file_name": "sub", "text": "x"}',
        '{"file_name": "0000.png/inside.png", "text": "x"}',
        '{"file_name": "nul\\u0000.png", "text": "x"}',
        '{"text": "x"}',
        '{"file_name": "0000.p',
        "[1, 2]",
        "\xff",
        "[" * 100_000,
    ]
    with (folder / "metadata.jsonl").open("a", encoding="latin-1") as lines:
        lines.write("\n".join(bad) + "\n\n")
    reasons = _reasons(_read(folder))
    assert list(reasons.values()) == [
        "missing-file", "outside-folder", "outside-folder", "missing-file", "missing-file", "unreadable",
        *["bad-metadata"] * 5, "no-caption",
    ]  # fmt: skip
    assert list(reasons) == list(range(2, 14))


def test_the_drawn_world_is_the_same_at_every_reading_and_another_with_another_seed() -> None:
    first, again, other = (_read(f"world:naruto?count=5&seed={seed}") for seed in (7, 7, 8))
    assert first == again
    assert not {image for image, _ in _content(first)} & {image for image, _ in _content(other)}
    longer = _read("world:naruto?count=6&seed=7")
    assert _content(longer)[:5] == _content(first)


SENTENCES = {
    "/no/such/folder": "there is no dataset at /no/such/folder",
    "./nothing-here": "there is no dataset at ",
    "missing.parquet": "there is no dataset at ",
    "~nobody-of-that-name/x": "cannot read dataset ~nobody-of-that-name/x",
    "a" * 5000: "cannot read dataset aaa",
    "some words": "'some words' is no dataset",
    "org/name": "needs a pinned revision",
    "world:cubist?count=5": "a style of flat, sketch, pixel, watercolor, oil, halftone, naruto",
    "world:naruto?count=0": "N from 1 to",
    "world:naruto?count=many": "is no drawn world",
    "world:naruto?colour=3": "is no drawn world",
}


@pytest.mark.parametrize("source", SENTENCES)
def test_a_source_that_is_no_dataset_is_refused(source: str) -> None:
    with pytest.raises(DatasetUnusable) as refused:
        open_source(DatasetSection(source=source))
    assert SENTENCES[source] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_branch_is_no_pinned_revision() -> None:
    with pytest.raises(DatasetUnusable, match=r"'main' may move"):
        open_source(DatasetSection(source="org/name", revision="main"))


@pytest.mark.parametrize("kind", ["parquet", "folder", "saved"])
def test_the_error_of_a_wrong_caption_column_lists_the_columns(tmp_path: Path, kind: str) -> None:
    write = {"parquet": write_parquet, "folder": write_imagefolder, "saved": write_saved}[kind]
    source = write(tmp_path / ("a.parquet" if kind == "parquet" else "a"), rows(3))
    with pytest.raises(DatasetUnusable, match=r"no column 'blip'; its columns are (image|file_name), text"):
        _read(source, caption_column="blip")


def test_an_image_column_that_holds_text_is_refused(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(3))
    with pytest.raises(DatasetUnusable, match=r"column 'text' of a\.parquet is string, not the bytes of pictures"):
        _read(source, image_column="text")


def test_files_with_a_wrong_format_are_refused(tmp_path: Path) -> None:
    (tmp_path / "fake.parquet").write_bytes(b"PAR1 not really")
    whole = write_parquet(tmp_path / "cut.parquet", rows(30)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-200])
    saved = write_saved(tmp_path / "saved", rows(8))
    shard = saved / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:-3000])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    stray = write_saved(tmp_path / "stray", rows(2))
    (stray / "state.json").write_text('{"_data_files": [{"filename": "../saved/data-00000-of-00002.arrow"}]}')
    for name in ("fake.parquet", "cut.parquet", "saved", "empty", "notes.txt", "stray"):
        with pytest.raises(DatasetUnusable) as refused:
            _read(tmp_path / name)
        assert "\n" not in str(refused.value)


def test_a_parquet_file_damaged_in_its_middle_is_an_error(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(60))
    data = bytearray(source.read_bytes())
    data[len(data) // 3 : len(data) // 2] = b"\xff" * (len(data) // 2 - len(data) // 3)
    source.write_bytes(bytes(data))
    with pytest.raises(DatasetUnusable, match=r"cannot read .*a\.parquet: the page headers of .* are damaged"):
        _read(source)
