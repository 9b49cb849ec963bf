"""The miniature: its world is reproducible, its weights match the manifest."""

import json
import re
from pathlib import Path
from random import Random

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline

from flows.profiles import choose_recipe
from naruto_core import devices
from naruto_core.artifacts import sha256_file
from naruto_core.mini.pretraining.architecture import BOS, EOS
from naruto_core.mini.pretraining.drawing import draw
from naruto_core.mini.pretraining.evaluation import compare_with_bars, drawings, psnr
from naruto_core.mini.pretraining.package import WEIGHTS, megabytes, world_digest
from naruto_core.mini.pretraining.vae import round_trip, to_unit_range
from naruto_core.mini.pretraining.world import (
    BASE_STYLES,
    EXPRESSION_WORDS,
    FILLER_WORDS,
    GARMENT_COLOURS,
    HAIR_COLOURS,
    HAIR_WORDS,
    HELD_OUT_STYLE,
    PLACE_PHRASES,
    STYLE_PHRASES,
    STYLES,
    VIEW_PHRASES,
    describe,
    sample_scene,
)


def test_a_seed_gives_always_the_same_world():
    def picture() -> bytes:
        rng = Random(3)
        return draw(sample_scene(rng, "flat"), rng).tobytes()

    assert picture() == picture()


def test_a_caption_describes_only_what_is_drawn():
    rng = Random(1)
    for index in range(300):
        scene = sample_scene(rng, STYLES[index % len(STYLES)])
        words = describe(scene, rng)
        first = scene.characters[0]
        if len(scene.characters) == 1:
            wrong_hair = [c for c in HAIR_COLOURS if c != first.hair and f"{c} hair" in words]
            wrong_cloth = [c for c in GARMENT_COLOURS if c != first.garment_colour and f"{c} {first.garment}" in words]
            assert not wrong_hair + wrong_cloth, words


def test_a_complete_caption_names_every_attribute_that_is_measured():
    rng = Random(5)
    for index in range(300):
        scene = sample_scene(rng, BASE_STYLES[index % len(BASE_STYLES)])
        words = describe(scene, rng, drop=0.0)
        assert len(words.split()) <= 36
        for character in scene.characters:
            assert any(f"{colour} " in words for colour in HAIR_WORDS.get(character.hair, (character.hair,))), words
            assert f"{character.garment_colour} " in words
        places = PLACE_PHRASES.get(scene.place, (scene.place, scene.place.replace("gray", "grey")))
        assert any(phrase in words for phrase in places), words
        assert any(phrase.removesuffix(" of") in words for phrase in STYLE_PHRASES[scene.style]), words
        if len(scene.characters) == 1:
            first = scene.characters[0]
            assert f"{first.eyes} eyes" in words
            views = [phrase.format(direction=first.direction) for phrase in VIEW_PHRASES[first.view]]
            assert any(phrase in words for phrase in views), words
            shown = (first.pose,) if scene.framing == "full body" else EXPRESSION_WORDS[first.expression]
            assert any(word in words for word in shown), words


def test_no_caption_of_the_base_world_names_the_held_out_style():
    rng = Random(2)
    assert HELD_OUT_STYLE not in BASE_STYLES
    assert "naruto" not in FILLER_WORDS
    for index in range(500):
        assert "naruto" not in describe(sample_scene(rng, STYLES[index % len(STYLES)]), rng)


def test_the_styles_differ_to_the_eye():
    rng = Random(4)
    scene = sample_scene(rng, "flat")
    pictures = {}
    for style in STYLES:
        restyled = type(scene)(scene.characters, scene.place, scene.framing, style)
        pictures[style] = np.asarray(draw(restyled, Random(9)), dtype=float)
    for first in STYLES:
        for second in STYLES:
            if first < second:
                assert np.abs(pictures[first] - pictures[second]).mean() > 4, (first, second)


def test_the_shipped_weights_are_those_of_the_manifest():
    manifest = json.loads((WEIGHTS / "manifest.json").read_text())
    files = {path.relative_to(WEIGHTS).as_posix(): path for path in WEIGHTS.rglob("*") if path.is_file()}
    del files["manifest.json"]
    assert len(files) >= 15
    assert {name: sha256_file(path) for name, path in files.items()} == manifest["files"]
    assert megabytes(WEIGHTS / "base") + megabytes(WEIGHTS / "judge") <= 30
    assert manifest["made_by"] == "make mini-base"
    assert len(manifest["commit"]) == 40


def test_the_shipped_report_meets_every_bar_but_those_that_the_manual_says_are_missed():
    report = json.loads((WEIGHTS / "report.json").read_text())
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "miniature.md").read_text(encoding="utf-8")
    told = page.partition("## Goals that are missed")[2].partition("##")[0]
    named = set(re.findall(r"`([a-z]+_[a-z_]+[\w.]*)`", told))
    missed = [line.split()[:2] for line in compare_with_bars(report) if not line.endswith(" met")]
    assert {name for name, _ in missed} == named
    assert all(figure in told for _, figure in missed)
    assert report["prompts"] == 400
    assert choose_recipe("mini").generation.guidance_scale == report["guidance"]


def test_the_vae_keeps_the_held_out_style_at_26_decibels(load_miniature):
    """The goal was 30: see the page on the miniature. The best linear code of the same size has 21.5."""
    pixels, _ = drawings(HELD_OUT_STYLE, 24, seed=31)
    assert psnr(round_trip(load_miniature().vae, pixels), to_unit_range(pixels)) >= 26


def test_the_base_is_an_ordinary_sdxl(load_miniature):
    pipeline = StableDiffusionXLPipeline.from_pretrained(WEIGHTS / "base")
    assert pipeline.unet.config.addition_embed_type == "text_time"
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert DDIMScheduler.from_config(pipeline.scheduler.config).config.clip_sample is False
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a flat drawing of a person", num_inference_steps=2).images[0]
    assert picture.size == (128, 128)


def test_the_tokenizers_have_the_suites_words_and_clips_special_tokens(load_miniature):
    pipeline = load_miniature()
    first, second = pipeline.tokenizer, pipeline.tokenizer_2
    assert "".join(first.tokenize("naruto")) == "naruto</w>"
    assert first.convert_tokens_to_ids(EOS) == len(first) - 1
    assert first.convert_tokens_to_ids(BOS) == len(first) - 2
    assert (first.pad_token, second.pad_token) == (EOS, "!")
    unknown = first("忍者 ⚔", padding="max_length", truncation=True).input_ids
    assert len(unknown) == first.model_max_length


def test_a_small_original_size_is_drawn_softer(load_miniature):
    """Size conditioning means something: the base has seen small originals blown up."""

    def detail(side: int) -> float:
        pipeline = load_miniature()
        pipeline.set_progress_bar_config(disable=True)
        with devices.autocast("bf16", torch.device("cpu")):
            pictures = pipeline(
                ["a flat drawing of a person with black hair in a village"] * 4,
                num_inference_steps=8,
                guidance_scale=2.0,
                original_size=(side, side),
                generator=[torch.Generator().manual_seed(s) for s in range(4)],
                output_type="np",
            ).images
        return float(np.abs(np.diff(pictures, axis=1)).mean())

    assert detail(44) < 0.9 * detail(128)  # seen: 0.86


def test_the_world_is_drawn_as_at_the_time_of_pretraining():
    """A change of the drawing would silently make the shipped base unfit for its own world."""
    assert world_digest() == json.loads((WEIGHTS / "manifest.json").read_text())["world"]
