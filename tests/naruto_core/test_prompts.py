"""Captions that begin with the instance prompt are trained with it once, and are counted."""

from dataclasses import replace
from typing import cast

import pytest

from flows.profiles import choose_recipe
from naruto_core.dataset.preprocessing import shuffle_caption
from naruto_core.domain import DatasetVersion, Picture, Split
from naruto_core.errors import RecipeInvalid
from naruto_core.prompts import begins_with, insert_tokens, join_caption, without_phrase
from tasks.run import _fingerprint
from tasks.truncation import StyleCaptions, check_new_tokens, prompt_sentence

PROMPT = "a naruto anime character"
PICTURE = Picture("0" * 64, ".png", 64, 64, "", Split.TRAIN, "0" * 16)


@pytest.mark.parametrize(
    ("caption", "text", "rest"),
    [
        ("", PROMPT, ""),
        (PROMPT, PROMPT, ""),
        ("A  Naruto\tanime Character with red hair", None, "with red hair"),
        (" a naruto anime character, red hair", None, "red hair"),
        ("a naruto anime character's cat", None, "'s cat"),
        ("a naruto anime characters", f"{PROMPT}, a naruto anime characters", "a naruto anime characters"),
        ("a naruto anime character-like cat", f"{PROMPT}, a naruto anime character-like cat", None),
        ("red hair, a naruto anime character", f"{PROMPT}, red hair, a naruto anime character", None),
        ("a naruto", f"{PROMPT}, a naruto", None),
    ],
)
def test_the_instance_prompt_is_put_before_a_caption_unless_that_begins_with_its_words(
    caption: str, text: str | None, rest: str | None
) -> None:
    assert join_caption(PROMPT, caption) == (caption if text is None else text)
    assert without_phrase(caption, PROMPT) == (caption if rest is None else rest)


def test_a_word_that_holds_another_word_gets_its_own_tokens_and_tokens_are_not_read_as_words() -> None:
    assert insert_tokens("a Naruto ink drawing, naruto", {"naruto": "<s0>", "naruto ink": "<s1>"}) == (
        "a <s1> drawing, <s0>"
    )
    assert insert_tokens("TOK, s0 art", {"TOK": "<s0><s1>", "s0": "<s2>"}) == "<s0><s1>, <s2> art"
    assert insert_tokens("a cat", {}) == "a cat"


def test_signs_in_an_instance_prompt_are_text_and_an_empty_one_begins_nothing() -> None:
    assert begins_with("a (V] style.+, cat", "a (V] style.+")
    assert not begins_with("a V style cat", "a (V] style.+")
    assert join_caption("", "a cat") == "a cat"
    assert not begins_with("a cat", " ")


def test_a_shuffled_caption_keeps_the_instance_prompt_at_its_beginning() -> None:
    caption = f"{PROMPT} at night, red hair, blue eyes, a scarf"
    views = {shuffle_caption(caption, "0", view, keep_first=True) for view in range(9)}
    assert len(views) > 3
    assert {join_caption(PROMPT, view).count("naruto") for view in views} == {1}
    assert all(sorted(view.split(", ")) == sorted(caption.split(", ")) for view in views)


def test_new_tokens_whose_word_no_training_text_has_are_refused() -> None:
    recipe = choose_recipe("mini", overrides={"training.textual_inversion": {"token_abstraction": "Kunai"}})
    held_out = replace(PICTURE, caption="a kunai", split=Split.REFERENCE)
    with pytest.raises(RecipeInvalid, match="no training text has the word 'Kunai'"):
        check_new_tokens(recipe, [StyleCaptions(PROMPT, [held_out, replace(PICTURE, caption="kunais")])])
    check_new_tokens(recipe, [StyleCaptions(PROMPT, [replace(PICTURE, caption="a kunai")])])
    check_new_tokens(recipe, [StyleCaptions("a kunai", [PICTURE])])


def test_captions_with_the_instance_prompt_are_counted_and_make_another_run_than_in_earlier_versions() -> None:
    recipe, version = choose_recipe("mini"), cast("DatasetVersion", None)

    def of(*captions: str) -> StyleCaptions:
        return StyleCaptions(PROMPT, [replace(PICTURE, caption=caption) for caption in captions])

    unchanged, other = of("red hair", "", PROMPT), of("red hair", f"{PROMPT.upper()}, blue eyes", PROMPT)
    assert prompt_sentence([unchanged]) == ""
    assert prompt_sentence([unchanged, other]) == (
        "1 of 3 captions begin with the instance prompt 'a naruto anime character' already: it is not put before "
        "them again."
    )
    assert _fingerprint(recipe, [version], [unchanged]) == recipe.fingerprint
    assert _fingerprint(recipe, [version], [unchanged, other]) != recipe.fingerprint
