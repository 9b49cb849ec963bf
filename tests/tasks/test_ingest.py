"""Ingest as a task: what is recorded of a version is where its rows can be read."""

from pathlib import Path

import httpx2
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image
from prefect.states import Failed

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion
from naruto_core.errors import DatasetUnusable, RecordDamaged, StorageFailed
from naruto_core.recipe_sections import DatasetSection
from naruto_core.settings import read_settings
from naruto_core.store.database import open_store
from tasks.ingest import hub_may_recover, ingest

SECTION = DatasetSection(source="world:naruto?count=12&seed=3", hold_out=4)


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("NARUTO_HOME", str(tmp_path))
    monkeypatch.delenv("NARUTO_DATABASE", raising=False)
    return Layout(tmp_path)


def recorded(version: DatasetVersion) -> DatasetVersion:
    with open_store(read_settings().database_url) as store:
        found = store.find_dataset(version.id)
    assert found
    return found


def test_ingesting_again_mends_a_damaged_version_and_the_record_names_the_new_rows(layout: Layout) -> None:
    first = ingest.fn(SECTION)
    for file in layout.absolute(first.table).glob("*.parquet"):
        data = bytearray(file.read_bytes())
        data[200] ^= 1
        file.write_bytes(data)
    with pytest.raises(RecordDamaged, match=r"ingest world:naruto\?count=12&seed=3 again"):
        read_pictures(layout, recorded(first))
    mended = ingest.fn(SECTION)
    assert mended.id == first.id
    assert recorded(first) == mended
    assert len(read_pictures(layout, recorded(first))) == 12


def test_what_was_taken_for_what_is_said_before_what_is_kept(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "5_sks style"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (64, 64), (90 * number, 0, 0)).save(folder / f"{number}.png")
    version = ingest.fn(DatasetSection(source=str(folder)))
    said = capsys.readouterr().err
    assert "each 5 times in an epoch; instance words 'sks style'" in said.partition("dataset ds-")[0]
    assert {(picture.caption, picture.repeats) for picture in read_pictures(layout, version)} == {("sks style", 5)}


def test_a_whole_version_stays_recorded_where_it_was_first_seen(layout: Layout) -> None:
    first = ingest.fn(SECTION)
    assert ingest.fn(SECTION) == first
    ingest.fn(DatasetSection(source="world:naruto?count=13&seed=3", hold_out=4))
    assert recorded(first) == first


def test_only_a_failure_of_the_hub_or_the_network_that_may_pass_is_tried_again() -> None:
    def failure(*causes: Exception) -> DatasetUnusable:
        error = last = DatasetUnusable("cannot fetch it.")
        for cause in causes:
            last.__cause__ = last = cause
        return error

    unreachable = failure(LocalEntryNotFoundError("not in the cache"), httpx2.ConnectError("refused"))
    answers = [
        failure(
            HfHubHTTPError(str(status), response=httpx2.Response(status, request=httpx2.Request("GET", "http://h")))
        )
        for status in (503, 404)
    ]
    offline = failure(LocalEntryNotFoundError("not in the cache"), OfflineModeIsEnabled("offline"))
    errors = [unreachable, *answers, offline, failure(), StorageFailed("the disk is full.")]
    assert [hub_may_recover(ingest, None, Failed(data=error)) for error in errors] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert ingest.retry_condition_fn is hub_may_recover
