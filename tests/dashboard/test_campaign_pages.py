"""The page Campaigns: people, a new campaign, its results, its reviewers; an example is marked everywhere."""

import pytest
from apps import APP, NOW, all_text, finished_campaign, page
from streamlit.testing.v1 import AppTest

from dashboard.example import add_example
from naruto_core.domain import Run
from naruto_core.judging.reviewer_quality import reviewer_qualities
from naruto_core.ratings import Role
from naruto_core.store.database import Ratings
from naruto_core.store.writes import Store


def test_the_first_person_is_an_admin_and_gets_a_link_that_is_shown_once(ratings: Ratings, run: Run) -> None:
    app = page("campaigns", "People")
    assert app.selectbox[0].options == ["admin"]
    app.text_input[0].set_value("Ann")
    app.button[0].click().run()
    assert "/enter/" in app.code[0].value
    assert [person.name for person in ratings.reviewers()] == ["Ann"]
    assert not page("campaigns", "People").code


def test_a_campaign_is_planned_by_budget_opened_paused_and_closed(ratings: Ratings, store: Store, run: Run) -> None:
    ratings.add_reviewer("admin", Role.ADMIN)
    app = page("campaigns", "New campaign")
    assert set(app.multiselect(key="contenders").options) == {f"{run.id[5:]}/base", f"{run.id[5:]}/adapted"}
    app.checkbox[0].check().run()
    app.multiselect(key="contenders").set_value([f"{run.id}/base", f"{run.id}/fused"]).run()
    assert "150 votes on 126 units; 12 of them are rated by 3 people" in all_text(app)
    assert "with a chance of 80 %, when one of them wins 6" in all_text(app)
    app.number_input(key="people").set_value(2)
    app.number_input(key="votes_each").set_value(2).run()
    assert "So few votes decide only where one model wins far more often, or not at all" in all_text(app)
    assert "4 votes on 4 units" in all_text(app)
    next(field for field in app.text_input if field.label == "Name of the campaign").set_value("first")
    app.text_area[0].set_value("Ben\n\nadmin\nCleo")
    next(button for button in app.button if button.label == "Open the campaign").click().run()
    assert not app.exception
    links = app.code[0].value.splitlines()
    assert [line.partition(":")[0] for line in links] == ["Ben", "admin", "Cleo"]
    assert "/enter/" in links[0]
    assert "not invited" in links[1]
    (campaign,) = ratings.campaigns()
    app = page("campaigns", "Reviewers")
    assert "0 of 4 votes on 4 units" in [bar.proto.text for bar in app.get("progress")]  # without the gold pairs
    assert "Close the campaign" in [popover.proto.popover.label for popover in app.get("popover")]  # it asks first
    app.button(key=f"pause-{campaign.id}").click().run()
    assert ratings.campaign(campaign.id).paused
    app.button(key=f"go-on-{campaign.id}").click().run()
    app.button(key=f"close-{campaign.id}").click().run()
    assert ratings.campaign(campaign.id).closed_at is not None
    app.button(key=f"reopen-{campaign.id}").click().run()
    assert ratings.campaign(campaign.id).closed_at is None
    assert not ratings.campaign(campaign.id).paused


def test_a_reviewer_is_excluded_with_a_reason_and_the_results_say_so(ratings: Ratings, store: Store, run: Run) -> None:
    finished_campaign(ratings, store, run)
    app = page("campaigns", "Reviewers")
    (line,) = app.dataframe[0].value.to_dict("records")
    assert (line["Reviewer"], line["State"], line["Votes"]) == ("Ann", "counts", 4)
    app.button(key="exclude").click().run()
    assert "say who decides, and why" in all_text(app)
    app.text_input(key="excluded_by").set_value("Lea")
    app.text_input(key="excluded_why").set_value("always left")
    app.button(key="exclude").click().run()
    assert "Ann was excluded by Lea" in all_text(app)
    assert "There are no votes yet" in all_text(page("campaigns", "Results"))
    next(button for button in app.button if button.label == "Include again").click().run()
    assert "Win rates" in all_text(page("campaigns", "Results"))


def test_results_show_the_better_model_and_how_far_people_agree(ratings: Ratings, store: Store, run: Run) -> None:
    finished_campaign(ratings, store, run)
    text = all_text(page("campaigns", "Results"))
    assert f"{run.id[5:]}/fused is" in text or f"{run.id[5:]}/fused or" in text
    assert "100%" in text
    assert "too few to tell agreement from chance" in text


def test_a_result_without_an_interval_says_so_in_words(ratings: Ratings, store: Store, run: Run) -> None:
    finished_campaign(ratings, store, run, prompts=1)  # log-odds of one prompt have no interval
    text = all_text(page("campaigns", "Results"))
    assert "no interval: too few votes or prompts" in text
    assert "inf to" not in text


def test_results_and_agreement_of_metrics_read_counts_and_no_single_votes(
    ratings: Ratings, store: Store, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_campaign(ratings, store, run)

    def read_all(*_: object) -> None:
        raise AssertionError("a page read every vote")

    monkeypatch.setattr(Ratings, "ratings", read_all)
    assert "Win rates" in all_text(page("campaigns", "Results"))
    assert "Agreement between people" in all_text(page("campaigns", "Metric agreement"))


def test_an_example_is_marked_wherever_its_votes_are_shown(ratings: Ratings, store: Store, run: Run) -> None:
    assert add_example(NOW)
    assert not add_example(NOW)
    assert not ratings.has_admin()
    assert [title.value for title in AppTest.from_file(str(APP), default_timeout=60).run().title] == ["Overview"]
    verdicts = all_text(page("campaigns", "Results"))
    assert "made these votes up" in verdicts
    assert "units rated by at least two people" in verdicts
    (campaign,) = ratings.campaigns()
    assert [(quality.gold.hits, quality.gold.n) for quality in reviewer_qualities(ratings.ratings(campaign.id))] == [
        (1, 1)
    ] * 3
    assert "Rated by people?,no" in all_text(page("deploy", "Champion"))
