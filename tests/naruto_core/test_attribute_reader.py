"""The attribute reader: what a prompt asks for, what a picture shows, and the metric made of both."""

from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from flows.profiles import choose_recipe, choose_suite
from naruto_core.domain import Variant
from naruto_core.errors import ModelUnusable
from naruto_core.mini.attribute_reader import asked_classes, read_config, seen_classes
from naruto_core.mini.pretraining.drawing import draw
from naruto_core.mini.pretraining.package import WEIGHTS, megabytes
from naruto_core.mini.pretraining.world import BASE_STYLES, HELD_OUT_STYLE, describe, sample_scene
from naruto_core.scoring.features import embed_pictures
from naruto_core.scoring.model_metrics import MODEL_METRICS, attribute_values, reader_extractor
from naruto_core.scoring.sample_metrics import ATTRIBUTES
from tests.naruto_core.conftest import CPU

READER = WEIGHTS / "reader"
CONFIG = read_config(READER)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (
            "a naruto anime character with spiky blond hair and blue eyes wearing an orange jacket",
            {"hair": "blond", "garment": "orange", "style": "naruto"},
        ),
        ("a pencil drawing of a blonde-haired girl on a red background", {"hair": "blond", "place": "red background"}),
        ("Naruto fighting in the rain", {"place": "rain"}),
        ("two people, one with pink hair and one with red hair in the forest", {"place": "forest"}),
        ("a person wearing a red jacket and a blue shirt", {}),
        ("a person with a pink bob in the snow", {"hair": "pink", "place": "snow"}),
        ("black eyes, blue hair", {"hair": "blue"}),
        ("a horse in space", {}),
    ],
)
def test_a_prompt_asks_for_what_its_words_name(text: str, asked: dict[str, str]):
    found = asked_classes(text, CONFIG)
    assert {name: found.get(name) for name in asked} == asked
    assert {"hair", "garment", "place"} & set(found) == set(asked) - {"style"}


def test_what_the_worlds_captions_ask_for_is_what_was_drawn():
    random = Random(3)
    for _ in range(300):
        scene = sample_scene(random, random.choice(BASE_STYLES))
        person = scene.characters[0]
        drawn = {"hair": person.hair, "garment": person.garment_colour, "place": scene.place, "style": scene.style}
        drawn |= {"eyes": person.eyes, "view": person.view, "expression": person.expression}
        asked = asked_classes(describe(scene, random), CONFIG)
        assert asked.items() <= drawn.items()


def test_the_shipped_reader_reads_new_drawings_of_both_kinds_of_styles():
    assert megabytes(READER) < 1.5
    random = Random("reader")
    scenes = [sample_scene(random, style) for style in (HELD_OUT_STYLE, *BASE_STYLES) for _ in range(16)]
    scenes = [scene for scene in scenes if len(scene.characters) == 1 and scene.framing == "portrait"]
    pictures = [draw(scene, random) for scene in scenes]
    loads = [partial(Image.Image.copy, picture) for picture in pictures]
    logits = np.concatenate(list(embed_pictures(reader_extractor(READER, lambda: CPU), loads, 64)))
    seen = seen_classes(logits, CONFIG)
    for name, of_scene in (("hair", "hair"), ("garment", "garment_colour")):
        truth = [getattr(scene.characters[0], of_scene) for scene in scenes]
        assert np.mean([a == b for a, b in zip(seen[name], truth, strict=True)]) > 0.94  # of some 50 drawings
    assert np.mean([a == scene.place for a, scene in zip(seen["place"], scenes, strict=True)]) > 0.94


def test_the_metric_is_the_share_of_what_was_asked_and_counts_only_prompts_that_ask():
    asked = [{"hair": "red", "place": "rain", "style": "flat"}, {"style": "flat"}, {"hair": "blue"}]
    seen = {"hair": ["red", "red", "red"], "place": ["snow", "rain", "rain"], "style": ["flat", "pixel", "flat"]}
    values = attribute_values(asked, seen)
    assert values["attributes"] == pytest.approx([0.5, np.nan, 0.0], nan_ok=True)
    assert values["attributes-hair"] == pytest.approx([1, np.nan, 0], nan_ok=True)
    assert values["attributes-place"] == pytest.approx([0, np.nan, np.nan], nan_ok=True)
    assert values["attributes-style"] == pytest.approx([1, 0, np.nan], nan_ok=True)


def test_every_attribute_of_the_shipped_reader_is_a_metric_and_the_suite_asks_for_most():
    assert set(CONFIG.attributes) <= set(ATTRIBUTES)
    asked = [asked_classes(prompt.text, CONFIG) for prompt in choose_suite(choose_recipe("t4").generation).prompts]
    prompts = {name: sum(name in one for one in asked) for name in CONFIG.attributes}
    assert {name: count for name, count in prompts.items() if count < 10} == {"expression": 4, "view": 0}


def test_a_folder_that_holds_no_reader_is_refused(tmp_path: Path):
    class NoPictures:
        device, variants = CPU, (Variant.REAL,)

    with pytest.raises(ModelUnusable, match="no attribute reader: give a folder with"):
        MODEL_METRICS["attribute_reader"](str(tmp_path), NoPictures())  # pyright: ignore[reportArgumentType]
    (tmp_path / "config.json").write_bytes((READER / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelUnusable, match="does not hold the weights of the attribute reader"):
        _ = reader_extractor(tmp_path, lambda: CPU).network
