"""The token limit agrees with what the pipeline does with long texts."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flows.profiles import choose_recipe, choose_suite
from naruto_core import sdxl
from naruto_core.domain import Picture, Prompt, PromptSuite, Split
from naruto_core.errors import ModelUnusable, RecipeInvalid
from naruto_core.recipe_sections import ModelSection
from naruto_core.token_limit import TokenLimit, load_token_limit
from tasks.preflight import preflight
from tasks.truncation import StyleCaptions, check_suite, find_truncated_text, limit_of

RECIPE = choose_recipe("mini")
SECRET = "xyzzy"
LONG = f"a person {'with red hair ' * 20}and {SECRET}"


@pytest.fixture(scope="module")
def limit() -> TokenLimit:
    return load_token_limit(RECIPE.model, ["<s0>", "<s1>"])


def test_the_miniature_reads_46_tokens_and_the_47th_is_cut(limit: TokenLimit):
    assert limit.limit == 46
    assert limit.truncated("red " * 46) is None
    cut = limit.truncated("red " * 46 + "blue hair")
    assert cut
    assert (cut.tokens, cut.limit, cut.word, cut.position) == (48, 46, "blue", 47)
    assert cut.sentence == ("48 tokens, and the text encoders read 46: word 47 of 48 and what follows has no effect")


def test_a_word_that_is_read_in_part_counts_as_truncated(limit: TokenLimit):
    cut = limit.truncated("red " * 44 + SECRET + " hair")  # five tokens, of which two are read
    assert cut
    assert (cut.word, cut.position) == (SECRET, 45)
    assert limit.truncated("red " * 44 + "<s0><s1>") is None
    for text in ("", "   ", "\n"):
        assert limit.truncated(text) is None


def test_texts_are_merged_exactly_when_the_pipeline_encodes_them_alike(limit: TokenLimit):
    pipeline = sdxl.load_pipeline(RECIPE.model, "fp32", torch.device("cpu"))
    same = "red " * 46
    texts = [f"{same}blue", f"{same}green hair", same, "red " * 45 + "blue", "a cat"]
    report = limit.report(texts)
    assert (report.n, len(report.truncated), report.merged) == (5, 2, (tuple(texts[:3]),))
    encoded = [pipeline.encode_prompt(text, do_classifier_free_guidance=False)[0] for text in texts]
    alike = [[torch.equal(first, second) for second in encoded] for first in encoded]
    assert alike[0] == [True, True, True, False, False]
    assert sum(map(sum, alike)) == 11
    sentence = report.sentence("prompts")
    assert sentence.startswith("2 of 5 prompts are longer than the 46 tokens that the text encoders read, the longest")
    assert "'… red red red red red' is cut before 'green'" in sentence
    assert sentence.endswith("3 different prompts become 1 text.")
    assert limit.report(["a cat"]).sentence("captions").startswith("all 1 captions fit into the 46 tokens")
    assert limit.report([]).n == 0


def test_a_base_without_tokenizers_is_a_sentence(tmp_path: Path):
    with pytest.raises(ModelUnusable, match="has no CLIP tokenizers in tokenizer/ and tokenizer_2/"):
        load_token_limit(ModelSection(base=str(tmp_path)))


def suite(*texts: str) -> PromptSuite:
    return PromptSuite("mine", "f", tuple(Prompt(f"p{n}", text, "x", ("a",)) for n, text in enumerate(texts)), (1,))


def test_a_suite_whose_prompts_become_the_same_text_is_refused_before_anything_is_done():
    same = suite("a cat", "red " * 46 + "blue", "red " * 46 + "green")
    with pytest.raises(RecipeInvalid, match="suite mine: the prompts p1, p2 would draw the same pictures") as refused:
        preflight.fn(RECIPE, same)
    assert "shorten them" in str(refused.value)
    assert "set training.max_token_length and generation.max_token_length to 225." in str(refused.value)
    keys = ("training.max_token_length", "generation.max_token_length")
    check_suite(choose_recipe("mini", overrides=dict.fromkeys(keys, 225)), same)
    words = {"training.textual_inversion": {"token_abstraction": "naruto", "num_new_tokens_per_abstraction": 40}}
    trained = choose_recipe("mini", overrides=words)
    apart = suite("red " * 7 + "naruto blue", "red " * 7 + "naruto green")
    check_suite(RECIPE, apart)
    with pytest.raises(RecipeInvalid, match="p0, p1"):  # the new tokens leave no room for the last word
        check_suite(trained, apart)


def test_truncated_prompts_are_reported_with_numbers_and_the_shipped_suite_has_none(capsys: pytest.CaptureFixture[str]):
    check_suite(RECIPE, choose_suite(RECIPE.generation))
    assert "warning" not in capsys.readouterr().err
    negative = choose_recipe("mini", overrides={"generation.negative_prompt": "bad " * 50})
    check_suite(negative, suite("a cat", LONG))
    output = capsys.readouterr().err
    assert "warning: suite mine: 1 of 2 prompts (base) are longer than the 46 tokens" in output
    assert "warning: negative_prompt: 50 tokens" in output


def test_a_run_keeps_how_many_of_its_captions_and_prompts_were_cut():
    words = "red " * 46
    pictures = [
        Picture(f"{n}", ".png", 8, 8, caption, Split.TRAIN, "")
        for n, caption in enumerate([words + "blue", words + "green", "a cat"])
    ]
    limit = limit_of(RECIPE)
    finding = find_truncated_text("r", RECIPE, [StyleCaptions("x", pictures)], suite("a cat", LONG), limit)
    assert finding.warning
    assert finding.sentence.startswith("2 of 3 captions are longer than the 46 tokens")
    assert "2 different captions become 1 text. 1 of 2 prompts are longer" in finding.sentence
    assert finding.figures == {"captions": 2.0, "captions_merged": 2.0, "prompts": 1.0}
    none = find_truncated_text("r", RECIPE, [StyleCaptions("x", pictures[2:])], suite("a cat"), limit)
    assert not none.warning
    assert none.sentence.startswith("All 1 captions fit")


def test_no_log_of_a_library_has_a_word_of_a_prompt(caplog: pytest.LogCaptureFixture):
    from diffusers.utils import logging as of_diffusers

    of_diffusers.enable_propagation()
    of_diffusers.set_verbosity_warning()
    try:
        pipeline = sdxl.load_pipeline(RECIPE.model, "fp32", torch.device("cpu"))
        with caplog.at_level(logging.DEBUG):
            pipeline.encode_prompt(LONG)
    finally:
        of_diffusers.disable_propagation()
        of_diffusers.set_verbosity_error()
    assert SECRET not in caplog.text


@pytest.fixture
def logs() -> Iterator[None]:
    """What the service does to logging, undone."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = before
    root.setLevel(level)
    for library in (of_diffusers, of_transformers):
        library.enable_default_handler()
        library.disable_propagation()


def test_every_line_of_the_services_log_is_json(logs: None, capsys: pytest.CaptureFixture[str]):
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    from deployments.service.__main__ import _log_as_json

    _log_as_json()
    of_diffusers.get_logger("diffusers.x").error("a library's own words")
    of_transformers.get_logger("transformers.x").error("another's")
    warnings.warn("a warning of Python's", stacklevel=1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["name"] for line in lines] == ["diffusers.x", "transformers.x", "py.warnings"]
