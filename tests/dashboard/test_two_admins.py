"""Two admins with the same page open click the same button: the second click does not undo the first."""

from collections.abc import Callable
from dataclasses import replace

from apps import NOW, finished_campaign, page
from streamlit.testing.v1 import AppTest

from dashboard.queries import runs
from naruto_core.domain import Run
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store


def click_both(first: AppTest, second: AppTest, label: str) -> None:
    for app in (first, second):
        button = next(button for button in app.button if button.label == label)
        button.click().run()


def test_a_rollback_is_of_the_champion_that_the_page_showed(
    ratings: Ratings, store: Store, run: Run, train: Callable[..., None]
) -> None:
    ids = [run.id]
    for name in ("t4", "t4-fast"):
        new = store.open_run(
            profile=name, recipe_json="{}", fingerprint=name, dataset_id="d1", git_commit="", now=NOW
        )  # fmt: skip
        train(new.id)
        store.add_scores([replace(score, run_id=new.id) for score in store.scores(run.id)])
        store.finish_run(new.id, NOW)
        ids.append(new.id)
    for run_id in ids:
        ratings.promote("champion", run_id, "Lea", "better", NOW, {}, runs.layout())
    first, second = page("deploy", "Champion"), page("deploy", "Champion")
    for app in (first, second):
        app.text_input(key="rolled_back_by").set_value("Lea").run()
    click_both(first, second, "Roll back to the champion before")
    assert ratings.promotions("champion")[0].run_id == ids[1]
    assert f"The champion is {ids[1]}." in [text.value for text in second.text]


def test_a_campaign_that_two_pause_is_paused(ratings: Ratings, store: Store, run: Run) -> None:
    campaign = finished_campaign(ratings, store, run)
    click_both(page("campaigns"), page("campaigns"), "Pause")
    assert ratings.campaign(campaign).paused


def test_a_run_that_two_archive_is_archived(store: Store, run: Run) -> None:
    first, second = page("runs"), page("runs")
    for app in (first, second):
        app.toggle(key="archived").set_value(True).run()
        *_, table = app.dataframe[0].proto.id.split("-", 2)
        app.session_state[table] = {"selection": {"rows": [0], "columns": [], "cells": []}}
        app.run()
    click_both(first, second, "Archive")
    assert store.tags(run.id) == [runs.ARCHIVED]
