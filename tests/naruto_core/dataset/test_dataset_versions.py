"""Dataset versions stay readable, are written once, and are refused when their table was changed."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.dataset.versions import read_picture, read_pictures, table_name, version_id, write_version
from naruto_core.domain import DatasetVersion, Picture, Split
from naruto_core.errors import RecordDamaged, StorageFailed


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "a röot with spaces & 50%")


def _rows(count: int) -> list[Picture]:
    splits = [Split.REFERENCE, *[Split.TRAIN] * count]
    return [Picture(f"{i:064x}", ".png", 8, 9, f"naïve {i}", splits[i], f"{i:016x}") for i in range(count)]


def _write(layout: Layout, rows: list[Picture]) -> DatasetVersion:
    return write_version(layout, "toons", "toons", rows, n_quarantined=2, n_duplicates=1)


def test_rows_come_back_as_they_were_written(layout: Layout) -> None:
    rows = _rows(3)
    version = _write(layout, rows)
    assert read_pictures(layout, version) == rows
    assert (version.n_train, version.n_reference, version.n_quarantined, version.n_duplicates) == (2, 1, 2, 1)


def test_an_old_version_is_read_as_it_was(layout: Layout) -> None:
    old, new = _write(layout, _rows(3)), _write(layout, _rows(5))
    assert (old.delta_version, new.delta_version) == (0, 1)
    assert [len(read_pictures(layout, version)) for version in (old, new)] == [3, 5]


def test_content_that_the_table_already_held_is_not_written_again(layout: Layout) -> None:
    first = _write(layout, _rows(3))
    _write(layout, _rows(5))
    assert _write(layout, _rows(3)) == first
    assert DeltaTable(layout.table("toons")).version() == 1


def test_the_commit_carries_id_and_counts_and_the_table_keeps_its_history(layout: Layout) -> None:
    version = _write(layout, _rows(3))
    table = DeltaTable(layout.table("toons"))
    commit = table.history()[0]
    assert (commit["dataset_id"], commit["n_train"], commit["n_reference"]) == (version.id, "2", "1")
    assert table.metadata().configuration == {
        "delta.logRetentionDuration": "interval 36500 days",
        "delta.deletedFileRetentionDuration": "interval 36500 days",
    }


def test_the_id_changes_with_bytes_caption_and_split_and_with_nothing_else() -> None:
    rows = _rows(3)
    same = [rows[::-1], [replace(rows[0], duplicate_of="f" * 64, perceptual_hash="0" * 16, width=1), *rows[1:]]]
    other = [
        [replace(rows[0], sha256="e" * 64), *rows[1:]],
        [replace(rows[0], caption="naïve  0"), *rows[1:]],
        [replace(rows[0], split=Split.TRAIN), *rows[1:]],
        rows[1:],
    ]
    assert {version_id(content) for content in same} == {version_id(rows)}
    assert len({version_id(content) for content in [rows, *other]}) == 5


def test_the_id_of_a_known_content_never_changes() -> None:
    assert version_id(_rows(2)) == "ds-cc54a3b1f0e97c79"


def test_repeats_of_pictures_are_part_of_a_version_and_come_back(layout: Layout) -> None:
    once = _write(layout, _rows(3))
    repeated = [replace(row, repeats=number) for number, row in enumerate(_rows(3), 1)]
    version = _write(layout, repeated)
    assert version.id != once.id
    assert read_pictures(layout, version) == repeated
    assert read_pictures(layout, once) == _rows(3)


def test_a_version_of_before_pictures_had_repeats_is_read_and_recognised(layout: Layout) -> None:
    version = _write(layout, _rows(3))
    table = DeltaTable(layout.table("toons"))
    old = table.to_pyarrow_table().drop_columns(["repeats"])
    note = CommitProperties(custom_metadata={"dataset_id": version.id})
    write_deltalake(table, old, mode="overwrite", schema_mode="overwrite", commit_properties=note)
    before = replace(version, delta_version=1)
    assert read_pictures(layout, before) == _rows(3)
    assert _write(layout, _rows(3)) == before
    assert _write(layout, _rows(5)).delta_version == 2


def test_a_table_whose_files_are_gone_is_damaged_until_the_content_is_written_again(layout: Layout) -> None:
    version = _write(layout, _rows(3))
    for file in layout.table("toons").glob("*.parquet"):
        file.unlink()
    with pytest.raises(RecordDamaged, match="ingest toons again"):
        read_pictures(layout, version)
    again = _write(layout, _rows(3))
    assert again.id == version.id
    assert read_pictures(layout, again) == _rows(3)


def test_rows_that_are_not_the_versions_own_are_refused(layout: Layout) -> None:
    version = _write(layout, _rows(3))
    with pytest.raises(RecordDamaged, match="are not those of dataset ds-0000"):
        read_pictures(layout, replace(version, id="ds-0000"))
    with pytest.raises(RecordDamaged, match="cannot be read"):
        read_pictures(layout, replace(version, delta_version=9))


def test_what_delta_cannot_write_is_an_error(layout: Layout) -> None:
    layout.table("toons").mkdir(parents=True)
    (layout.table("toons") / "_delta_log").write_text("in the way")
    with pytest.raises(StorageFailed, match="cannot write") as refused:
        _write(layout, _rows(3))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["50%20", "b[1]", "a|b", "a^b", "back\\slash", "new\nline"])
def test_a_root_that_delta_cannot_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageFailed, match="set NARUTO_HOME to another folder") as refused:
        table_name(Layout(tmp_path / name), "toons")
    assert "\n" not in str(refused.value)


def test_table_names_are_plain_and_differ_where_sources_differ(layout: Layout) -> None:
    sources = ("../../etc/../Toon Captions!", "a/toons", "b/toons", "///", "world:x?count=1&seed=2")
    names = [table_name(layout, source) for source in sources]
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)
    assert len(set(names)) == 5
    assert names[0].startswith("toon-captions-")


def _write_at_once(root: Path, start: Path, sources: list[int]) -> list[DatasetVersion]:
    """One process for each number: it waits for the file `start`, then writes that many rows to one table."""
    code = """
import json, sys, time
from dataclasses import asdict
from pathlib import Path
from naruto_core.artifacts import Layout
from tests.naruto_core.dataset.test_dataset_versions import _rows, _write
layout, start, count = Layout(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
print(json.dumps(asdict(_write(layout, _rows(count)))))
"""
    commands = [[sys.executable, "-c", code, str(root), str(start), str(count)] for count in sources]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    start.touch()
    outputs = [writer.communicate(timeout=120)[0] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * len(writers)
    return [DatasetVersion(**json.loads(line)) for line in outputs]


def test_eight_first_ingests_at_the_same_time_leave_intact_versions(layout: Layout, tmp_path: Path) -> None:
    same, different = [3] * 4, [4, 5, 6, 7]
    versions = _write_at_once(layout.root, tmp_path / "start", same + different)
    assert [len(read_pictures(layout, version)) for version in versions] == same + different
    assert len({version.delta_version for version in versions[:4]}) == 1
    assert DeltaTable(layout.table("toons")).version() == 4


def test_a_commit_with_a_false_id_is_not_trusted_and_the_version_is_written_again(layout: Layout) -> None:
    version = _write(layout, _rows(3))
    table = DeltaTable(layout.table("toons"))
    doubled = table.to_pyarrow_table()
    note = CommitProperties(custom_metadata={"dataset_id": version.id})
    write_deltalake(table, doubled, mode="append", commit_properties=note)
    assert _write(layout, _rows(3)) == version  # an older version is whole
    (file,) = layout.table("toons").glob(Path(DeltaTable(table.table_uri, version=0).file_uris()[0]).name)
    pq.write_table(doubled.slice(1), file)
    with pytest.raises(RecordDamaged, match="ingest toons again"):
        read_pictures(layout, version)
    repaired = _write(layout, _rows(3))
    assert read_pictures(layout, repaired) == _rows(3)


@pytest.mark.parametrize("log", ["{", ""])
def test_a_table_with_a_damaged_log_is_renamed_and_created_again(layout: Layout, log: str) -> None:
    version = _write(layout, _rows(3))
    path = layout.table("toons")
    (path / "_delta_log" / f"{0:020}.json").write_text(log)
    with pytest.raises(RecordDamaged, match="ingest toons again"):
        read_pictures(layout, version)
    again = _write(layout, _rows(3))
    assert read_pictures(layout, again) == _rows(3)
    (aside,) = path.parent.glob("toons.damaged-*")
    assert (aside / "_delta_log").is_dir()


def test_a_picture_that_is_not_what_was_ingested_is_refused(layout: Layout) -> None:
    picture = replace(_rows(1)[0], sha256=sha256_bytes(b"a picture"))
    path = layout.picture(picture.sha256, picture.suffix)
    with pytest.raises(RecordDamaged, match="is missing: ingest its dataset again"):
        read_picture(layout, picture)
    write_atomically(path, b"a picture")
    assert read_picture(layout, picture) == b"a picture"
    write_atomically(path, b"A picture")
    with pytest.raises(RecordDamaged, match="is damaged: ingest its dataset again"):
        read_picture(layout, picture)
