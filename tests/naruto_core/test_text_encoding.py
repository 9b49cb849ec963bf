"""Long texts are read in chunks, each as diffusers reads a short text; the same in training, run and service."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL.Image import Image

from flows.profiles import choose_recipe
from naruto_core.continuous_batching import ContinuousBatch, Order
from naruto_core.errors import RecipeInvalid
from naruto_core.generation import Job, Painter
from naruto_core.text_encoding import encode_prompts, encode_texts, split_weights, without_weights
from naruto_core.textual_inversion import add_tokens
from naruto_core.token_limit import load_token_limit
from naruto_core.training.step import Trainer
from tests.naruto_core.conftest import MINIATURE
from tests.naruto_core.test_continuous import SECTION
from tests.naruto_core.training.pictures import captioned, data_of, encode, section_of
from tests.naruto_core.training.test_training_options import TOKENS

ROOM = 46  # tokens that the miniature's encoders read at once, without begin and end
WORDS = ["red", "blue", "hair", "person", "in", "the", "rain", "<s0>", "<s1>", "forest"]  # a token each
LONG = [WORDS[number % len(WORDS)] for number in range(2 * ROOM + 9)]


@pytest.mark.parametrize("clip_skip", [None, 1])
def test_each_chunk_is_encoded_as_the_pipeline_encodes_its_words_alone(load_miniature, clip_skip: int | None):
    pipeline = load_miniature()
    add_tokens(pipeline, TOKENS, None, seed=3)
    parts = [" ".join(LONG[start : start + ROOM]) for start in (0, ROOM, 2 * ROOM)]
    for length, expected in ((75, parts[:1]), (150, parts[:2]), (225, parts)):
        alone = [
            pipeline.encode_prompt(part, do_classifier_free_guidance=False, clip_skip=clip_skip) for part in expected
        ]
        ours = encode_texts(pipeline, [" ".join(LONG)], clip_skip, length)
        assert torch.equal(ours.hidden, torch.cat([hidden for hidden, *_ in alone], dim=1))
        assert torch.equal(ours.pooled, alone[0][2])
    (_, full, _, pooled), short = (
        pipeline.encode_prompt("a cat", negative_prompt="", clip_skip=clip_skip),
        encode_prompts(pipeline, ["a cat"], [""], clip_skip, 150),
    )
    assert torch.equal(short["negative_prompt_embeds"], torch.cat([full, full], dim=1))
    assert torch.equal(short["negative_pooled_prompt_embeds"], pooled)
    assert torch.equal(short["prompt_embeds"][:, ROOM + 2 :], encode_texts(pipeline, [""], clip_skip).hidden)


def test_words_behind_75_tokens_change_the_picture_with_150_and_the_service_draws_the_same(load_miniature):
    """Of the miniature's 46 tokens; the service's picture is the run's, byte for byte, beside one with another text."""
    pipeline, start = load_miniature(), "a person with red hair " + "red " * 43
    drawn: dict[int, list[bytes]] = {}
    for length in (75, 150):
        section = SECTION.model_copy(
            update={"max_token_length": length, "num_inference_steps": 2, "negative_prompt": "low quality " * 30}
        )
        painter = Painter(pipeline, section)
        jobs = [Job(f"{start} {end}", 1) for end in ("in the forest", "in the rain")]
        drawn[length] = [picture.tobytes() for picture in painter.paint(jobs)]
    assert drawn[75][0] == drawn[75][1]
    assert drawn[150][0] != drawn[150][1]
    batch = ContinuousBatch(painter, 64, 64, fixed_size=True)
    numbers = [batch.join(Order(job.text, job.seed, section.negative_prompt, 2, 4.0)) for job in jobs]
    served = [batch.step(), batch.step()][-1]
    pictures = [served[number] for number in numbers]
    assert all(isinstance(picture, Image) for picture in pictures)
    assert [picture.tobytes() for picture in pictures] == drawn[150]


def test_training_reads_captions_behind_75_tokens_from_the_cache_and_learns_new_tokens_there(
    load_miniature, tmp_path: Path
):
    pipeline, prompt = load_miniature(), "red " * ROOM
    cached = encode(pipeline, tmp_path, prompt, max_token_length=150)
    assert cached.texts[0] == f"{prompt}, {captioned('picture-0').caption}"
    expected = encode_texts(pipeline, cached.texts[:1], None, 150)
    assert torch.equal(cached.hidden.row(0), expected.hidden[0])
    assert torch.equal(cached.pooled.row(0), expected.pooled[0])
    assert not torch.equal(cached.hidden.row(0), cached.hidden.row(1))  # they differ behind the first chunk

    examples = replace(cached, hidden=None, pooled=None, texts=tuple(f"{text} <s0><s1>" for text in cached.texts))
    for length in (75, 150):
        section = section_of(textual_inversion={"train_lora": False}, max_token_length=length)
        trainer = Trainer(load_miniature(), [data_of(examples, section)], section, TOKENS)
        trainer.accumulate(0)
        learning = [bool(flat.gradient.abs().max() > 0) for flat in trainer.weights.flats]
        assert learning
        assert learning == [length == 150] * len(learning)


def test_texts_are_cut_behind_all_chunks_exactly_where_the_encoders_stop(load_miniature):
    limit, pipeline = load_token_limit(MINIATURE, max_token_length=150), load_miniature()
    assert limit.limit == 2 * ROOM
    texts = ["red " * 2 * ROOM + "rain", "red " * 2 * ROOM + "forest", "red " * ROOM + "rain"]
    report = limit.report(texts)
    assert [cut.text for cut in report.truncated] == texts[:2]
    assert [(cut.tokens, cut.word, cut.position) for cut in report.truncated[:1]] == [(93, "rain", 93)]
    assert report.merged == (tuple(texts[:2]),)
    first, second, third = (encode_texts(pipeline, [text], None, 150).hidden for text in texts)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_recipe_has_one_length_and_the_default_leaves_old_fingerprints_as_they_were():
    keys = ("training.max_token_length", "generation.max_token_length")
    mini = choose_recipe("mini")
    assert choose_recipe("mini", overrides=dict.fromkeys(keys, 75)).fingerprint == mini.fingerprint
    assert choose_recipe("mini", overrides=dict.fromkeys(keys, "150")).fingerprint != mini.fingerprint
    tree = mini.model_dump(mode="json")
    for section in ("training", "generation"):
        del tree[section]["max_token_length"]
    assert type(mini).model_validate(tree).fingerprint == mini.fingerprint
    for length in (100, 300):
        with pytest.raises(RecipeInvalid, match=r"max_token_length: .* 75|max_token_length: .* 225"):
            choose_recipe("mini", overrides=dict.fromkeys(keys, length))
    with pytest.raises(RecipeInvalid, match=r"training\.max_token_length and generation\.max_token_length must be"):
        choose_recipe("mini", overrides={keys[0]: 150})


def test_weights_are_parsed_as_artists_type_them():
    assert split_weights("a (red hair:1.2) person") == [("a ", 1.0), ("red hair", 1.2), (" person", 1.0)]
    assert split_weights("(sun:0)(moon: .5 )") == [("sun", 0.0), ("moon", 0.5)]
    assert split_weights(r"naruto \(series\), (a \(b\):1.1), (no weight), 3:4") == [
        ("naruto (series), ", 1.0), ("a (b)", 1.1), (", (no weight), 3:4", 1.0),
    ]  # fmt: skip
    assert without_weights("a (red hair:1.2) person") == "a red hair person"
    assert split_weights("") == []
    with pytest.raises(ValueError, match="the weight 2024 in a prompt is above 2"):
        split_weights("(naruto:2024)")


def test_a_weight_moves_its_tokens_from_the_empty_text_and_no_others(load_miniature):
    pipeline = load_miniature()
    plain = encode_texts(pipeline, ["a red hair person"]).hidden
    empty = encode_texts(pipeline, [""]).hidden
    for weight in (0.0, 0.5, 1.5):
        drawn = encode_texts(pipeline, [f"a (red hair:{weight}) person", "a forest"], weighted=True)
        tokens = slice(2, 4)  # behind the begin of the text and "a"
        expected = empty[:, tokens] + weight * (plain[:, tokens] - empty[:, tokens])
        assert torch.allclose(drawn.hidden[:1, tokens], expected, atol=1e-5)
        rest = torch.ones(plain.shape[1], dtype=torch.bool)
        rest[tokens] = False
        assert torch.allclose(drawn.hidden[:1, rest], plain[:, rest], atol=1e-5)
        assert torch.allclose(drawn.hidden[1:], encode_texts(pipeline, ["a forest"]).hidden, atol=1e-5)
    kept = encode_texts(pipeline, ["a (red hair:1.2) person"])
    assert not torch.equal(kept.hidden, plain)  # without the option it is text as any other


def test_weights_are_the_same_in_the_run_and_in_the_service(load_miniature):
    section = SECTION.model_copy(update={"prompt_weights": True, "num_inference_steps": 2})
    painter = Painter(load_miniature(), section)
    prompts = ["a person with (red hair:1.6)", "a person with red hair"]
    expected = [picture.tobytes() for picture in painter.paint([Job(prompt, 1) for prompt in prompts])]
    assert expected[0] != expected[1]
    batch = ContinuousBatch(painter, 64, 64, fixed_size=True)
    numbers = [batch.join(Order(prompt, 1, SECTION.negative_prompt, 2, 4.0)) for prompt in prompts]
    batch.step()
    drawn = batch.step()
    assert [drawn[number].tobytes() for number in numbers] == expected
