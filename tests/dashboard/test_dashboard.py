"""The pages Runs and Pictures, run as Streamlit runs them, on a real database."""

import gc
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.server import import_pages
from naruto_core.domain import GENERATED, Run, Variant, format_duration
from naruto_core.store.writes import Store

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
HOSTILE = "![x](https://example.org/x.png) <script>alert(1)</script> **bold** :red[hi] $a^2$"


def overview() -> AppTest:
    return AppTest.from_file(str(APP), default_timeout=60).run()


def runs_view() -> AppTest:
    def page() -> None:
        from dashboard.views import runs

        runs.show()

    return AppTest.from_function(page, default_timeout=60).run()


def pictures_view() -> AppTest:
    def page() -> None:
        from dashboard.views import pictures

        pictures.show()

    return AppTest.from_function(page, default_timeout=60).run()


def markdown_texts(app: AppTest) -> list[str]:
    """The text of every element that renders Markdown."""
    return [element.value for element in (*app.markdown, *app.caption, *app.info, *app.warning, *app.error)]


def picture_rows(app: AppTest) -> list[dict[str, Any]]:
    """The rows that the page gives to the part of it that runs in the browser."""
    (component,) = app.get("bidi_component")
    return json.loads(component.proto.json)["rows"]


def test_an_empty_store_says_what_to_do_next(home: Path) -> None:
    for app in (overview(), runs_view(), pictures_view()):
        assert not app.exception
        assert "make demo" in app.info[0].value
    assert str(home) in overview().text[0].value


def test_a_run_is_listed_with_its_state_and_duration(run: Run) -> None:
    app = runs_view()
    assert not app.exception
    (line,) = app.dataframe[0].value.to_dict("records")
    assert (line["Run"], line["State"]) == (run.id, "done")
    assert line["Minutes"] == pytest.approx(245 / 60)
    assert line["Dataset"] == "world:ninja"


def test_scores_of_two_extractors_stand_in_two_columns_that_name_them(store: Store, run: Run) -> None:
    fused = next(score for score in store.scores(run.id) if score.variant is Variant.FUSED)
    store.add_scores([replace(fused, extractor="inception", value=9.0, low=8.0, high=10.0)])
    (line,) = runs_view().dataframe[0].value.to_dict("records")
    assert {title: value for title, value in line.items() if "Fréchet" in title} == {
        "Fréchet distance (fid), inception ↓": 9.0,
        "Fréchet distance (fid), judge:abc ↓": 87.25,
    }


def test_a_failed_run_shows_its_failure_and_may_have_no_scores(store: Store, run: Run) -> None:
    other = store.open_run(
        profile="mini", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=run.started_at
    )
    store.fail_run(other.id, "the disk is full.", run.started_at + timedelta(seconds=9))
    lines = {line["Run"]: line for line in runs_view().dataframe[0].value.to_dict("records")}
    assert lines[other.id]["Failure"] == "the disk is full."
    assert lines[other.id]["Minutes"] == pytest.approx(9 / 60)


def test_a_database_that_cannot_be_read_is_one_sentence(home: Path) -> None:
    (home / "naruto.db").write_text("Dear diary, " * 200)
    app = overview()
    assert not app.exception
    assert "not a SQLite database" in app.text[0].value


def test_pictures_stand_side_by_side_under_their_prompt(store: Store, run: Run) -> None:
    app = pictures_view()
    assert not app.exception
    assert [row["text"] for row in picture_rows(app)] == ["a ninja in orange", HOSTILE]
    by_place = {(sample.prompt, sample.variant): sample.sha256 for sample in store.samples(run.id) if sample.seed == 7}
    kage, hostile = ([by_place[slug, variant] for variant in GENERATED] for slug in ("kage", "hostile"))
    assert [row["pictures"] for row in picture_rows(app)] == [kage, hostile]


def test_a_tag_and_a_seed_choose_what_is_shown(run: Run) -> None:
    app = pictures_view()
    assert app.selectbox(key="tag").options == ["all", "action", "portrait"]
    before = [digest for row in picture_rows(app) for digest in row["pictures"]]
    app.selectbox(key="tag").select("portrait")
    app.selectbox(key="seed").select(8).run()
    (row,) = picture_rows(app)
    assert row["text"] == "a ninja in orange"
    assert len(row["pictures"]) == 3
    assert not set(before) & set(row["pictures"])
    app.text_input(key="words").set_value("SAMURAI").run()
    assert "No prompt matches" in app.info[0].value


def test_a_hostile_prompt_is_shown_as_text_and_as_nothing_else(run: Run) -> None:
    app = pictures_view()
    assert HOSTILE in [row["text"] for row in picture_rows(app)]
    assert not [text for text in markdown_texts(app) if "script" in text or "![" in text]


def test_a_run_that_has_drawn_nothing_says_so(store: Store, run: Run) -> None:
    later = run.started_at + timedelta(hours=1)
    store.open_run(profile="mini", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=later)
    app = pictures_view()
    assert not app.exception
    assert "no pictures yet" in app.info[0].value


def test_durations_are_written_for_people() -> None:
    assert [format_duration(seconds) for seconds in (0.4, 59.6, 245, 7800)] == [
        "0 s",
        "1 min 00 s",
        "4 min 05 s",
        "2 h 10 min",
    ]


def test_what_the_server_imported_is_left_out_of_the_garbage_collection_after_each_page() -> None:
    import_pages()
    assert gc.get_freeze_count() > 100_000
    assert len(gc.get_objects()) < 10_000  # what a collection looks through: 225,000 objects otherwise


def test_python_collects_garbage_seldom_while_a_page_reads_many_votes() -> None:
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # Python's own
    try:
        import_pages()
        assert gc.get_threshold() == (20_000, 20, 20)
    finally:
        gc.set_threshold(*before)
    assert "pandas.io.formats.style" in sys.modules
