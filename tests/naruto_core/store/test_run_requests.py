"""Who may ask for a run, and what a request is."""

import pytest

from naruto_core.errors import AccessRefused, RecipeInvalid
from naruto_core.ratings import Role
from naruto_core.store.database import Ratings


def test_only_an_admin_may_ask_for_a_run_or_anybody_while_there_is_none(ratings: Ratings) -> None:
    assert ratings.request_run(None, "mini").by == "somebody on the dashboard"
    admin, _ = ratings.add_reviewer("Lea", Role.ADMIN)
    reviewer, _ = ratings.add_reviewer("Ann", Role.REVIEWER)
    assert ratings.request_run(admin.id, "mini").by == "Lea"
    for other in (None, reviewer.id, "0" * 16, ""):
        with pytest.raises(AccessRefused, match="only an admin may start a run"):
            ratings.request_run(other, "mini")


def test_a_request_is_the_options_of_the_command_which_no_value_can_change(ratings: Ratings) -> None:
    request = ratings.request_run(None, " mini ", "--x; rm", ["training.rank=8", "", " a.b=it's "])
    assert request.options == ("--recipe=mini", "--dataset=--x; rm", "--set=training.rank=8", "--set=a.b=it's")
    assert request.command == (
        "naruto run --recipe=mini '--dataset=--x; rm' --set=training.rank=8 '--set=a.b=it'\"'\"'s'"
    )


@pytest.mark.parametrize(
    ("recipe", "settings", "words"),
    [("", [], "name a recipe"), ("mini", ["rank 8"], "no KEY=VALUE"), ("mini", ["=8"], "no KEY=VALUE"),
     ("mi\x1bni", [], "control characters"), ("mini", ["a=\x00"], "control characters")],
)  # fmt: skip
def test_a_request_that_cannot_be_a_command_is_refused(
    ratings: Ratings, recipe: str, settings: list[str], words: str
) -> None:
    with pytest.raises(RecipeInvalid, match=words):
        ratings.request_run(None, recipe, "", settings)
