"""Every page in every state, run as Streamlit runs it, on a real database."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import streamlit as st
from apps import APP, NOW, all_text, finished_campaign, page
from streamlit.testing.v1 import AppTest

from dashboard.example import add_example
from naruto_core.artifacts import Layout
from naruto_core.domain import Finding, PlannedPhase, Run, RunState, Score, StepRecord, Variant
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

Train = Callable[..., None]
VIEWS = ("overview", "runs", "run", "compare", "review", "campaigns", "deploy")


def add_clip_scores(run: Run, store: Store, n: int = 12) -> None:
    """A CLIP score of each picture; those of the fused model are higher."""
    store.add_scores(
        [
            Score(run.id, "clip", s.variant, v, v, v, 1, "judge:abc", "cosine 1", "", "", sample_id=s.id)
            for s in store.samples(run.id)[:n]
            for v in [{"base": 0.2, "adapted": 0.5, "fused": 0.6}[s.variant.value] + s.seed / 1000]
        ]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_of_an_empty_database_shows_a_sentence(home: Path, view: str) -> None:
    app = page(view)
    assert not app.exception
    assert app.info


def test_the_page_of_a_run_shows_its_plan_beside_what_its_phases_took(store: Store, run: Run) -> None:
    phase = PlannedPhase("samples", 88, "picture", 4.2e14, 3000.0, "published", "NVIDIA T4", "fp16", 13 * 2**30)
    store.add_plan(run.id, [phase, replace(phase, phase="score", memory=0)])
    store.add_phase_time(run.id, "samples", 88, 3660.0, NOW, processes=2)
    text = all_text(page("run", "Files and log", id=run.id))
    assert f"{run.id} on NVIDIA T4" in text
    assert "samples,88 pictures,50 min 00 s (published),1 h 01 min for 88 in 2 processes,13.0 GiB" in text
    assert "score,88 pictures,50 min 00 s (published),," in text


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_shows_a_run_and_a_hostile_name_as_text(ratings: Ratings, store: Store, run: Run, view: str) -> None:
    finished_campaign(ratings, store, run)
    name = "<script>alert(1)</script> **x** \u202e" + "n" * 40
    ratings.add_reviewer(name, Role.REVIEWER)
    app = page(view)
    assert not app.exception
    assert not any("<script>" in element.value for element in (*app.markdown, *app.caption, *app.info))


def test_while_nobody_is_registered_whoever_opens_the_dashboard_is_an_admin(run: Run) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    assert [title.value for title in app.title] == ["Overview"]


def test_a_stranger_sees_nothing_and_a_reviewer_only_the_review_page(
    ratings: Ratings, store: Store, run: Run, link: Callable[[str], None]
) -> None:
    finished_campaign(ratings, store, run)
    _, token = ratings.add_reviewer("Ben", Role.REVIEWER)
    for text, title in (("", "Welcome"), ("wrong", "Welcome"), (token, "Review")):
        link(text)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [element.value for element in app.title] == [title]
        assert run.id not in all_text(app)


def test_a_new_link_opens_and_the_old_one_does_not(ratings: Ratings, run: Run, link: Callable[[str], None]) -> None:
    admin, token = ratings.add_reviewer("admin", Role.ADMIN)
    renewed = ratings.renew_link(admin.id)
    for text, title in ((token, "Welcome"), (renewed, "Overview")):
        link(text)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [element.value for element in app.title] == [title]


def test_metrics_are_compared_with_votes_only_where_there_are_enough(ratings: Ratings, store: Store, run: Run) -> None:
    add_clip_scores(run, store)
    finished_campaign(ratings, store, run)
    (line,) = page("campaigns", "Metric agreement").table[0].value.to_dict("records")
    assert line["Metric"] == "clip"
    assert line["Pairwise agreement"] == "not enough votes"


def test_the_address_of_campaigns_names_the_one_that_is_shown(ratings: Ratings, store: Store, run: Run) -> None:
    older, newest = finished_campaign(ratings, store, run), _campaign(ratings, store, run, NOW + timedelta(days=1))
    app = page("campaigns", "Results", campaign=older)
    assert (app.selectbox(key="campaign").value, app.query_params["campaign"]) == (older, older)
    app.selectbox(key="campaign").select(newest).run()
    assert app.query_params["campaign"] == newest
    unknown = page("campaigns", "Results", campaign="gone")
    assert unknown.warning[0].value.startswith("The campaign in the address is not recorded here")


def test_compare_shows_the_difference_with_its_interval(store: Store, run: Run) -> None:
    add_clip_scores(run, store)
    app = page("compare", "Verdicts", model=[f"{run.id}/base", f"{run.id}/fused"])
    assert not app.exception
    (line,) = app.dataframe[0].value.to_dict("records")
    assert (line["Metric"], line["Verdict"]) == ("clip", "cannot be judged with n = 2 prompts: at least 6 are needed")
    assert line["Difference (95 % interval)"].startswith("+0.4 (")
    assert line["n"] == "4 pictures, 2 prompts"


def test_the_address_of_compare_holds_the_view_and_invalid_values_are_ignored(store: Store, run: Run) -> None:
    add_clip_scores(run, store)
    models = [f"{run.id}/adapted", f"{run.id}/fused"]
    app = page("compare", model=models, tag="action", seed="8", order="largest disagreement by clip")
    assert app.multiselect[0].value == models
    assert [box.value for box in app.selectbox[:3]] == ["action", "8", "largest disagreement by clip"]
    assert app.query_params["model"] == models
    wrong = page("compare", model=["../x", "<b>"], tag="nothing", seed="x", page="99")
    assert not wrong.exception
    assert wrong.multiselect[0].value == [f"{run.id}/base", f"{run.id}/adapted"]


def test_a_picture_that_is_missing_does_not_hide_the_others(store: Store, run: Run, home: Path) -> None:
    Layout(home).absolute(store.samples(run.id)[0].path).unlink()
    assert not page("compare").exception


def _newer_run(store: Store, run: Run) -> str:
    """A newer run with the same scores that is not done."""
    newer = store.open_run(profile="t4", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=NOW)
    store.add_scores([replace(score, run_id=newer.id) for score in store.scores(run.id)])
    return newer.id


def _promote(run_id: str, accepted: str | None = None) -> AppTest:
    app = page("deploy", "Champion")
    if app.selectbox(key="promoted_run").value != run_id:
        app.selectbox(key="promoted_run").set_value(run_id).run()
    next(field for field in app.text_input if field.label == "Who decides").set_value("Ann")
    app.text_area[0].set_value("best faces")
    if accepted is not None:
        next(field for field in app.text_input if "warnings" in field.label).set_value(accepted)
    return next(button for button in app.button if button.label == "Make it the champion").click().run()


def test_a_promotion_is_signed_recorded_and_rolled_back(ratings: Ratings, store: Store, run: Run, train: Train) -> None:
    other = _newer_run(store, run)
    train(other)
    store.finish_run(other, NOW)
    app = page("deploy", "Champion")
    app.button[0].click().run()
    assert "say who decides, and why" in all_text(app)
    assert not ratings.promotions("champion")
    for run_id in (run.id, other):
        _promote(run_id)
    first, second = ratings.promotions("champion")
    assert (first.run_id, second.run_id, second.by, second.why) == (other, run.id, "Ann", "best faces")
    assert second.checks["Finished?"] == "yes"
    app = page("deploy", "Champion")
    app.button[0].click().run()
    assert "say who decides" in all_text(app)  # nobody is registered, so the page asks for a name
    app.text_input(key="rolled_back_by").set_value("Bea").run()
    app.button[0].click().run()
    assert ratings.promotions("champion")[0].by == "Bea"
    assert ratings.promotions("champion")[0].run_id == run.id


def test_an_earlier_champion_is_restored_by_its_form(ratings: Ratings, store: Store, run: Run, train: Train) -> None:
    other = _newer_run(store, run)
    train(other)
    store.finish_run(other, NOW)
    for run_id in (run.id, other):
        _promote(run_id)
    app = page("deploy", "Champion")
    assert app.selectbox(key="earlier_champion").options == [run.id]
    assert app.selectbox(key="promoted_run").value == other
    next(button for button in app.button if button.label == "Restore this one").click().run()
    assert not app.exception
    assert not app.warning
    assert app.selectbox(key="promoted_run").value == run.id
    assert len(ratings.promotions("champion")) == 2


def test_a_run_that_cannot_be_promoted_is_not_the_default_and_the_page_says_why(
    store: Store, run: Run, home: Path, train: Train
) -> None:
    newer = _newer_run(store, run)
    train(newer, float("nan"))
    store.fail_run(newer, "fuse: not numbers", NOW)

    def refused(reason: str) -> None:
        st.cache_data.clear()
        app = page("deploy", "Champion")
        assert app.selectbox(key="promoted_run").value == run.id
        app.selectbox(key="promoted_run").set_value(newer).run()
        assert "This run cannot be promoted" in all_text(app)
        assert reason in all_text(app)
        assert not app.button

    refused("it is not done (failed).")
    store.finish_run(newer, NOW)
    refused("has weights that are not numbers (lora).")
    Layout(home).adapter(run.id).unlink()
    app = page("deploy", "Champion")
    assert not app.exception
    assert app.selectbox(key="promoted_run").value is None
    assert "No run can be promoted yet" in all_text(app)


def test_a_run_with_warnings_is_promoted_when_its_id_is_typed(ratings: Ratings, store: Store, run: Run) -> None:
    origin = Finding(run.id, "imported", False, "Imported from ink.safetensors: its training is unknown.")
    store.add_findings(run.id, [Finding(run.id, "overfitting", True, "copies", {}), origin])
    assert "no. Imported from ink.safetensors: its training is unknown." in all_text(page("deploy", "Champion"))
    assert f"{run.id} has warnings (overfitting): type its id" in all_text(_promote(run.id, "yes"))
    assert not ratings.promotions("champion")
    _promote(run.id, run.id)
    assert ratings.promotions("champion")[0].checks["Warnings accepted"] == "overfitting"


def test_the_overview_shows_what_runs_and_what_needs_attention(ratings: Ratings, store: Store, run: Run) -> None:
    recipe = '{"training": {"max_train_steps": 200}}'
    now = datetime.now(UTC)
    common = {"dataset_id": "d1", "git_commit": "", "now": now}
    other = store.open_run(profile="t4", recipe_json=recipe, fingerprint="f2", **common)
    store.add_steps(other.id, [StepRecord(n, 0.5, 1.0) for n in (49, 50)])
    imported = '{"imported": {"kind": "lora"}}'
    store.open_run(profile="ink", recipe_json=imported, fingerprint="f3", **common)
    failed = store.open_run(profile="bad", recipe_json="{}", fingerprint="f4", **common)
    store.fail_run(failed.id, "the disk is full.", now)
    app = page("overview")
    assert not app.exception
    bars = [bar.proto.text for bar in app.get("progress")]
    assert any("step 50 of 200" in text for text in bars)
    assert any("-ink-" in text and "not training" in text for text in bars)
    text = all_text(app)
    assert f"{failed.id} failed: the disk is full." in text
    assert f"{other.id} is recorded as running, but no process works on it." in text
    assert "No run is the champion." in text
    app.button(key=f"stop-{other.id}").click().run()
    assert store.run(other.id).state is RunState.CANCELLED
    _promote(run.id)
    assert f"Champion {run.id[5:]}" in all_text(page("overview"))
    store.add_findings(run.id, [Finding(run.id, "overfitting", True, "copies", {})])
    assert "The champion has warnings: overfitting." in all_text(page("overview"))


def test_runs_are_one_table_filtered_by_words_and_state_with_favourites_first(store: Store, run: Run) -> None:
    other = store.open_run(profile="t4", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=NOW)
    hidden = store.open_run(profile="old", recipe_json="{}", fingerprint="f3", dataset_id="d1", git_commit="", now=NOW)
    assert page("runs").dataframe[0].value["Run"].tolist() == [other.id, hidden.id, run.id]
    store.change_tags(run.id, ["favourite"], [])
    store.change_tags(hidden.id, ["archived"], [])
    app = page("runs")
    assert app.dataframe[0].value["Run"].tolist() == [run.id, other.id]
    app.toggle(key="archived").set_value(True).run()
    assert len(app.dataframe[0].value) == 3
    app.text_input(key="words").set_value("T4").run()
    assert app.dataframe[0].value["Run"].tolist() == [other.id]
    app.multiselect(key="states").set_value(["done"]).run()
    assert "No run matches" in app.info[0].value


def test_what_was_selected_stays_selected_when_the_table_of_runs_changes(store: Store, run: Run) -> None:
    other = store.open_run(profile="t4", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=NOW)
    app = page("runs")
    *_, table = app.dataframe[0].proto.id.split("-", 2)  # the key of the widget
    app.session_state[table] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    app.run()
    app.button(key="add-favourite").click().run()  # a favourite moves to the top, where the other run was
    app.button(key="add-archived").click().run()
    assert [store.tags(run_id) for run_id in (run.id, other.id)] == [["archived", "favourite"], []]
    assert not any(button.key == "add-archived" for button in app.button)


def _campaign(ratings: Ratings, store: Store, run: Run, created_at: datetime) -> str:
    samples = {contender(run.id, v.value): store.samples(run.id, v) for v in (Variant.BASE, Variant.FUSED)}
    suite = store.prompts(run.id)
    assert suite
    units = plan_units(Mode.PAIR, samples, suite.prompts, overlap=0, raters=2, gold=0, seed=0)
    return ratings.open_campaign(Campaign("", "real", "Which?", Mode.PAIR, created_at, repeats=0.0), units, 0).id


def test_runs_show_win_rates_and_never_those_of_an_example(ratings: Ratings, store: Store, run: Run) -> None:
    add_example(NOW)
    assert "Win rate" not in page("runs").dataframe[0].value
    campaign_id = _campaign(ratings, store, run, NOW)
    reviewer, _ = ratings.add_reviewer("Ann", Role.ADMIN)
    assignment = ratings.next_assignment(campaign_id, reviewer.id, NOW)
    assert assignment
    side = Outcome.LEFT if assignment.samples[0].startswith("fused") else Outcome.RIGHT
    ratings.record(reviewer.id, RatingEvent(assignment.id, Action.VOTE, "n", 3.0, "1x1", side), NOW)
    assert page("runs").dataframe[0].value["Win rate"].tolist() == [100.0]
    assert '"0.0% to 100.0%, n = 1 vote",undecided' in all_text(page("overview"))


def test_a_failed_run_has_a_page_with_its_whole_failure_its_curve_and_what_its_recipe_changed(
    store: Store, run: Run
) -> None:
    recipe = '{"training": {"learning_rate": 1.0}}'
    common = {"profile": "t4", "recipe_json": recipe, "dataset_id": "d1", "git_commit": "", "now": NOW}
    failed, cancelled = (store.open_run(fingerprint=fingerprint, **common) for fingerprint in ("f2", "f3"))
    store.cancel_run(cancelled.id, "train: stopped by a signal.", NOW)
    store.add_steps(failed.id, [StepRecord(1, 0.5, 1.0), StepRecord(2, float("nan"), 1.0)])
    failure = "train: the loss is not a number at step 2: " + "lower the learning rate; " * 20
    store.fail_run(failed.id, failure, NOW)
    app = page("run", id=failed.id)
    assert not app.exception
    assert app.code[0].value == failure
    assert f"{failed.id}: failed" in app.text[0].value
    assert "not a number at 1 steps; the first is step 2" in all_text(app)
    assert len(app.get("vega_lite_chart")) + len(app.get("arrow_vega_lite_chart")) == 1
    recipe_part = page("run", "Recipe", id=failed.id)
    assert recipe_part.selectbox(key="other_run").value == run.id
    assert recipe_part.dataframe[0].value.to_dict("records") == [
        {"Key": "training.learning_rate", "This run": "1.0", run.id: ""}
    ]
    assert app.error[0].value == "It failed:"
    stopped = page("run", id=cancelled.id)
    assert "No training step" in all_text(stopped)
    assert (stopped.info[0].value, len(stopped.error)) == ("It was stopped; the same command resumes it:", 0)
    assert "is not recorded here" in all_text(page("run", id="../x"))
