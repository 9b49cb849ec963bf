"""Every page in every state, run as Streamlit runs it, on a real store."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard.example import add_example
from naruto_core.artifacts import Layout
from naruto_core.domain import Finding, Run, Score, StepRecord, Variant
from naruto_core.judging.campaign_plan import contender, plan
from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store

APP = Path(__file__).parents[2] / "dashboard" / "app.py"
Train = Callable[..., None]
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
VIEWS = ("review", "campaigns", "verdicts", "metric_validation", "compare", "promote")


def page(name: str, **query: list[str] | str) -> AppTest:
    def run(view: str) -> None:
        from importlib import import_module

        import_module(f"dashboard.views.{view}").show()

    app = AppTest.from_function(run, args=(name,), default_timeout=60)
    app.query_params.update(query)
    return app.run()


def words(app: AppTest) -> str:
    kinds = (app.text, app.info, app.warning, app.error, app.success, app.title, app.header, app.caption)
    tables = [table.value.to_csv() for table in (*app.dataframe, *app.table)]
    return "\n".join([*(element.value for kind in kinds for element in kind), *tables])


def voted(ratings: Ratings, store: Store, run: Run, mode: Mode = Mode.PAIR) -> str:
    """A campaign of which one person has judged all in favour of the fused model."""
    drawn = {contender(run.id, v.value): store.samples(run.id, v) for v in (Variant.BASE, Variant.FUSED)}
    suite = store.prompts(run.id)
    assert suite
    units = plan(mode, drawn, suite.prompts, overlap=0, raters=2, gold=0, seed=0)
    campaign = ratings.open_campaign(Campaign("", "asked", "Which?", mode, NOW, repeats=0.0), units, 0)
    ratings.add_reviewer("lead", Role.LEAD)
    who, _ = ratings.add_reviewer("Ann", Role.REVIEWER)
    while given := ratings.next_assignment(campaign.id, who.id, NOW):
        answer = Outcome.LEFT if given.samples[0].startswith("fused") else Outcome.RIGHT
        ratings.record(who.id, RatingEvent(given.id, Action.VOTE, given.id, 3.0, "1x1", answer), NOW)
    return campaign.id


def clip(run: Run, store: Store, n: int = 12) -> None:
    """A score of each picture: the fused ones are nearer their prompts."""
    store.add_scores(
        [
            Score(run.id, "clip", s.variant, v, v, v, 1, "judge:abc", "cosine 1", "", "", sample_id=s.id)
            for s in store.samples(run.id)[:n]
            for v in [{"base": 0.2, "adapted": 0.5, "fused": 0.6}[s.variant.value] + s.seed / 1000]
        ]
    )


@pytest.mark.parametrize("view", VIEWS)
def test_an_empty_record_is_a_sentence_on_every_page(home: Path, view: str) -> None:
    app = page(view)
    assert not app.exception
    assert app.info


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_shows_a_run_and_a_hostile_name_as_text(ratings: Ratings, store: Store, run: Run, view: str) -> None:
    voted(ratings, store, run)
    name = "<script>alert(1)</script> **x** \u202e" + "n" * 40
    ratings.add_reviewer(name, Role.REVIEWER)
    app = page(view)
    assert not app.exception
    assert not any("<script>" in element.value for element in (*app.markdown, *app.caption, *app.info))


def test_while_nobody_is_registered_whoever_opens_the_dashboard_leads(run: Run) -> None:
    app = AppTest.from_file(str(APP), default_timeout=60).run()
    assert [title.value for title in app.title] == ["Runs"]


def test_a_stranger_sees_nothing_and_a_reviewer_only_the_review_page(
    ratings: Ratings, store: Store, run: Run, link: Callable[[str], None]
) -> None:
    voted(ratings, store, run)
    _, token = ratings.add_reviewer("Ben", Role.REVIEWER)
    for shown, title in (("", "Welcome"), ("wrong", "Welcome"), (token, "Review")):
        link(shown)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [one.value for one in app.title] == [title]
        assert run.id not in words(app)


def test_a_new_link_opens_and_the_old_one_does_not(ratings: Ratings, run: Run, link: Callable[[str], None]) -> None:
    lead, token = ratings.add_reviewer("lead", Role.LEAD)
    renewed = ratings.renew_link(lead.id)
    for shown, title in ((token, "Welcome"), (renewed, "Runs")):
        link(shown)
        app = AppTest.from_file(str(APP), default_timeout=60).run()
        assert [one.value for one in app.title] == [title]


def test_the_first_person_must_lead_and_gets_a_link_that_is_shown_once(ratings: Ratings, run: Run) -> None:
    app = page("campaigns")
    assert app.selectbox[0].options == ["lead"]
    app.text_input[0].set_value("Ann")
    app.button[0].click().run()
    assert "/enter/" in app.code[0].value
    assert [one.name for one in ratings.reviewers()] == ["Ann"]
    assert not page("campaigns").code


def test_a_campaign_is_opened_from_the_page_and_closed_there(ratings: Ratings, store: Store, run: Run) -> None:
    app = page("campaigns")
    app.multiselect(key="contenders").set_value([f"{run.id}/base", f"{run.id}/fused"]).run()
    next(one for one in app.text_input if one.label == "Name of the campaign").set_value("first")
    next(one for one in app.button if one.label == "Open the campaign").click().run()
    assert not app.exception
    (campaign,) = ratings.campaigns()
    assert ratings.standing(campaign.id).units == 4 + 4  # of pairs, and gold
    app.button(key=f"close-{campaign.id}").click().run()
    assert ratings.campaign(campaign.id).closed_at is not None


def test_verdicts_say_who_is_better_and_how_people_judged(ratings: Ratings, store: Store, run: Run) -> None:
    voted(ratings, store, run)
    shown = words(page("verdicts"))
    assert f"{run.id}/fused" in shown
    assert "100%" in shown
    assert "Ann" in shown
    assert "too little to tell agreement from chance" in shown


def test_metrics_are_held_against_votes_only_where_there_are_enough(ratings: Ratings, store: Store, run: Run) -> None:
    clip(run, store)
    voted(ratings, store, run)
    (line,) = page("metric_validation").table[0].value.to_dict("records")
    assert line["Metric"] == "clip"
    assert line["Chooses as people"] == "not enough votes"


def test_an_example_is_marked_wherever_its_votes_are_shown(ratings: Ratings, store: Store, run: Run) -> None:
    assert add_example(NOW)
    assert not add_example(NOW)
    assert "made these votes up" in words(page("verdicts"))
    assert "votes made up" in words(page("campaigns"))
    assert "People asked?,no" in words(page("promote"))


def test_compare_gives_the_difference_with_its_interval_and_a_word(store: Store, run: Run) -> None:
    clip(run, store)
    app = page("compare", model=[f"{run.id}/base", f"{run.id}/fused"])
    assert not app.exception
    (line,) = app.dataframe[0].value.to_dict("records")
    assert line["Metric"] == "clip"
    assert line["Difference (95 % interval)"].startswith("+0.4 (")
    assert line["n"] == "4 pictures, 2 prompts"


def test_the_address_of_compare_is_the_view_and_a_wrong_one_does_no_harm(store: Store, run: Run) -> None:
    clip(run, store)
    asked = [f"{run.id}/adapted", f"{run.id}/fused"]
    app = page("compare", model=asked, tag="action", seed="8", order="largest disagreement by clip")
    assert app.multiselect[0].value == asked
    assert [box.value for box in app.selectbox[:3]] == ["action", "8", "largest disagreement by clip"]
    assert app.query_params["model"] == asked
    wrong = page("compare", model=["../x", "<b>"], tag="nothing", seed="x", page="99")
    assert not wrong.exception
    assert wrong.multiselect[0].value == [f"{run.id}/base", f"{run.id}/fused"]


def test_a_picture_that_is_missing_does_not_hide_the_others(store: Store, run: Run, home: Path) -> None:
    Layout(home).absolute(store.samples(run.id)[0].path).unlink()
    assert not page("compare").exception


def _like(store: Store, run: Run) -> str:
    """A newer run with the same scores, not yet done."""
    newer = store.open_run(profile="t4", recipe_json="{}", fingerprint="f2", dataset_id="d1", git_commit="", now=NOW)
    store.add_scores([replace(score, run_id=newer.id) for score in store.scores(run.id)])
    return newer.id


def _promote(run_id: str, accepted: str | None = None) -> AppTest:
    app = page("promote")
    if app.selectbox(key="promoted_run").value != run_id:
        app.selectbox(key="promoted_run").set_value(run_id).run()
    next(one for one in app.text_input if one.label == "Who decides").set_value("Ann")
    app.text_area[0].set_value("best faces")
    if accepted is not None:
        next(one for one in app.text_input if "warnings" in one.label).set_value(accepted)
    return next(one for one in app.button if one.label == "Make it the champion").click().run()


def test_a_promotion_is_signed_kept_and_rolled_back(ratings: Ratings, store: Store, run: Run, train: Train) -> None:
    other = _like(store, run)
    train(other)
    store.finish_run(other, NOW)
    app = page("promote")
    app.button[0].click().run()
    assert "say who decides, and why" in words(app)
    assert not ratings.promotions("champion")
    for run_id in (run.id, other):
        _promote(run_id)
    first, second = ratings.promotions("champion")
    assert (first.run_id, second.run_id, second.by, second.why) == (other, run.id, "Ann", "best faces")
    assert second.checks["Finished?"] == "yes"
    app = page("promote")
    app.button[0].click().run()
    assert "say who decides, and why" in words(app)  # nobody is registered here, so a name has to be given
    app.text_input(key="rolled_back_by").set_value("Bea").run()
    app.button[0].click().run()
    assert ratings.promotions("champion")[0].by == "Bea"
    assert ratings.promotions("champion")[0].run_id == run.id


def test_a_run_that_cannot_be_promoted_is_not_the_usual_choice_and_the_page_says_why(
    store: Store, run: Run, home: Path, train: Train
) -> None:
    newer = _like(store, run)
    train(newer, float("nan"))
    store.fail_run(newer, "fuse: not numbers", NOW)

    def refused(reason: str) -> None:
        st.cache_data.clear()
        app = page("promote")
        assert app.selectbox(key="promoted_run").value == run.id
        app.selectbox(key="promoted_run").set_value(newer).run()
        assert "This run cannot be promoted" in words(app)
        assert reason in words(app)
        assert not app.button

    refused("it is not done (failed).")
    store.finish_run(newer, NOW)
    refused("has weights that are not numbers (lora).")
    Layout(home).adapter(run.id).unlink()
    app = page("promote")
    assert not app.exception
    assert app.selectbox(key="promoted_run").value is None
    assert "No run can be promoted yet" in words(app)


def test_a_run_with_warnings_is_promoted_when_its_id_is_typed(ratings: Ratings, store: Store, run: Run) -> None:
    store.add_findings(run.id, [Finding(run.id, "overfitting", True, "copies", {})])
    assert f"{run.id} has warnings (overfitting): type its id" in words(_promote(run.id, "yes"))
    assert not ratings.promotions("champion")
    _promote(run.id, run.id)
    assert ratings.promotions("champion")[0].checks["Warnings accepted"] == "overfitting"


def test_runs_are_found_by_words_and_state_and_a_running_one_shows_how_far_it_is(store: Store, run: Run) -> None:
    recipe = '{"training": {"max_train_steps": 200}}'
    other = store.open_run(profile="t4", recipe_json=recipe, fingerprint="f2", dataset_id="d1", git_commit="", now=NOW)
    store.add_steps(other.id, [StepRecord(50, 0.5, 1.0)])
    app = page("runs")
    assert not app.exception
    assert any("step 50 of 200" in bar.proto.text for bar in app.get("progress"))
    assert len(app.dataframe[0].value) == 2
    app.text_input(key="words").set_value("T4").run()
    assert app.dataframe[0].value["Run"].tolist() == [other.id]
    app.multiselect(key="states").set_value(["done"]).run()
    assert "No run matches" in app.info[0].value


def test_runs_show_what_people_said_and_never_an_example(ratings: Ratings, store: Store, run: Run) -> None:
    add_example(NOW)
    assert page("runs").dataframe[0].value["People"].tolist() == [""]
    drawn = {contender(run.id, v.value): store.samples(run.id, v) for v in (Variant.BASE, Variant.FUSED)}
    suite = store.prompts(run.id)
    assert suite
    units = plan(Mode.PAIR, drawn, suite.prompts, overlap=0, raters=2, gold=0, seed=0)
    campaign = ratings.open_campaign(Campaign("", "real", "Which?", Mode.PAIR, NOW, repeats=0.0), units, 0)
    who, _ = ratings.add_reviewer("Ann", Role.REVIEWER)
    given = ratings.next_assignment(campaign.id, who.id, NOW)
    assert given
    side = Outcome.LEFT if given.samples[0].startswith("fused") else Outcome.RIGHT
    ratings.record(who.id, RatingEvent(given.id, Action.VOTE, "n", 3.0, "1x1", side), NOW)
    assert page("runs").dataframe[0].value["People"].tolist() == ["won 100% (0% to 100%, n = 1)"]
