"""The parts of messages that several of them share."""

import pytest

from flows.profiles import choose_recipe, choose_suite
from naruto_core.errors import NotRecorded, RecipeInvalid, amount
from naruto_core.settings import read_settings
from tasks.kept_comparison import parse_model


def test_one_thing_is_in_the_singular_and_every_other_number_is_in_the_plural():
    assert [amount(n, "picture") for n in (0, 1, 1221)] == ["0 pictures", "1 picture", "1,221 pictures"]


def test_the_message_about_a_setting_begins_with_the_problem(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NARUTO_DATABASE", "")
    monkeypatch.setenv("NARUTO_STORE", "s3://bucket")
    with pytest.raises(RecipeInvalid, match=r"NARUTO_STORE: a bucket needs a database"):
        read_settings()


def test_a_prompt_suite_that_is_not_there_is_called_one():
    recipe = choose_recipe("mini", overrides={"generation.suite": "konoha"})
    with pytest.raises(RecipeInvalid, match=r"there is no prompt suite 'konoha': did you mean konoha-v"):
        choose_suite(recipe.generation)


def test_one_of_the_variants_is_asked_for():
    with pytest.raises(NotRecorded, match=r"a model is RUN:VARIANT, with base or adapted or fused for VARIANT"):
        parse_model("run:best")
