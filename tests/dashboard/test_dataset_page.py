"""The page Dataset, on tables as ingest writes them."""

import io
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image
from streamlit.testing.v1 import AppTest

from dashboard.queries import datasets
from naruto_core.artifacts import Layout, sha256_bytes, write_atomically
from naruto_core.dataset.versions import write_version
from naruto_core.domain import DatasetVersion, Picture, QuarantinedRecord, Split
from naruto_core.store.writes import Store

HOSTILE = "<script>alert(1)</script> **a ninja**"


def page() -> AppTest:
    def run() -> None:
        from dashboard.views import dataset

        dataset.show()

    return AppTest.from_function(run, default_timeout=60).run()


def picture(home: Path, number: int, caption: str, duplicate_of: str = "") -> Picture:
    memory = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 20, 0, 0)).save(memory, "PNG")
    digest = sha256_bytes(memory.getvalue())
    write_atomically(Layout(home).picture(digest, ".png"), memory.getvalue())
    return Picture(digest, ".png", 16, 16, caption, Split.TRAIN, f"{number:016x}", duplicate_of)


def version(store: Store, home: Path, rows: list[Picture], left_out: list[QuarantinedRecord]) -> DatasetVersion:
    counts = {"n_quarantined": len(left_out), "n_duplicates": 0}
    version = write_version(Layout(home), "set", "folder", rows, **counts)
    store.add_dataset(version, left_out)
    return version


def test_without_a_dataset_it_says_how_to_get_one(home: Path) -> None:
    app = page()
    assert not app.exception
    assert "naruto ingest" in app.info[0].value


def test_it_shows_what_was_left_out_and_why_and_hostile_captions_as_text(store: Store, home: Path) -> None:
    first = picture(home, 1, HOSTILE)
    rows = [first, picture(home, 2, "a cat", first.sha256)]
    version(store, home, rows, [QuarantinedRecord("folder", 7, "not a picture", "cut off")])
    app = page()
    assert not app.exception
    texts = [text.value for text in app.text]
    assert "not a picture: 1" in texts
    assert HOSTILE in texts
    assert not any("<script>" in element.value for element in (*app.markdown, *app.caption))
    assert any("1 pictures look like an earlier picture" in text for text in texts)
    assert HOSTILE in [image.alt for element in app.image for image in element.proto.imgs]


def test_two_versions_differ_in_pictures_and_captions(store: Store, home: Path) -> None:
    same, removed = picture(home, 1, "a ninja"), picture(home, 2, "a cat")
    old = version(store, home, [same, removed], [])
    new = version(store, home, [picture(home, 1, "a ninja in orange"), picture(home, 3, "a dog")], [])
    app = page()
    app.selectbox(key="version").set_value(new.id).run()
    app.selectbox(key="before").set_value(old.id).run()
    assert "1 pictures are new, 1 were removed, 1 have another caption." in [text.value for text in app.text]


def test_pictures_are_found_by_the_words_of_their_captions(store: Store, home: Path) -> None:
    version(store, home, [picture(home, i, f"ninja number {i}") for i in range(1, 6)], [])
    app = page()
    app.text_input(key="words").set_value("NUMBER 3").run()
    assert "1 of 5 pictures" in [text.value for text in app.text]
    app.text_input(key="words").set_value("nothing").run()
    assert "No caption" in app.info[0].value


def test_a_missing_picture_is_a_warning(store: Store, home: Path) -> None:
    rows = [picture(home, 1, "a ninja")]
    version(store, home, rows, [])
    Layout(home).picture(rows[0].sha256, ".png").unlink()
    app = page()
    assert not app.exception
    assert "missing" in app.warning[0].value


def test_a_training_picture_is_shown_as_training_sees_it(store: Store, home: Path) -> None:
    memory, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    clear = Image.new("RGBA", (40, 20), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 20, 20))
    clear.save(memory, "PNG", exif=exif)
    digest = sha256_bytes(memory.getvalue())
    write_atomically(Layout(home).picture(digest, ".png"), memory.getvalue())
    shown = datasets.thumbnail(Picture(digest, ".png", 20, 40, "a ninja", Split.TRAIN, "0" * 16, ""))
    assert shown
    with Image.open(io.BytesIO(shown)) as image:
        assert image.size == (20, 40)
        top, bottom = image.convert("RGB").getpixel((10, 5)), image.convert("RGB").getpixel((10, 35))
    assert np.abs(np.subtract(top, (0, 0, 255))).max() < 12
    assert np.abs(np.subtract(bottom, (255, 255, 255))).max() < 12


def test_three_training_pictures_are_the_examples_of_the_style(store: Store, home: Path) -> None:
    rows = [picture(home, number, f"ninja {number}") for number in range(1, 6)]
    dataset = version(store, home, rows, [])
    run = store.open_run(
        profile="mini", recipe_json="{}", fingerprint="f", dataset_id=dataset.id, git_commit="",
        now=datetime(2026, 11, 24, tzinfo=UTC),
    )  # fmt: skip
    first = datasets.style_references([run.id])
    assert len(first) == 3
    assert {text for text, _ in first} <= {row.caption for row in rows}
    assert all(data[:4] == b"RIFF" for _, data in first)
    assert datasets.style_references([run.id]) == first
    gone = next(row for row in rows if row.caption == first[0][0])
    Layout(home).picture(gone.sha256, ".png").unlink()
    st.cache_data.clear()
    assert [text for text, _ in datasets.style_references([run.id])][:2] == [text for text, _ in first[1:]]


def test_a_version_whose_table_is_gone_is_a_sentence_and_no_error_page(store: Store, home: Path) -> None:
    written = version(store, home, [picture(home, 1, "a cat")], [])
    shutil.rmtree(home / written.table)
    app = page()
    assert app.error[0].value == "The pictures of this version cannot be read:"
    assert any("ingest folder again" in text.value for text in app.text)
