"""The drawn world: what a picture shows follows the words of its scene."""

from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest

from naruto_core.mini.pretraining.drawing import draw
from naruto_core.mini.pretraining.geometry import outset, ribbon, smooth
from naruto_core.mini.pretraining.world import (
    BUILDS,
    EXPRESSIONS,
    EYE_COLOURS,
    HAIR_CUTS,
    HELD_OUT_STYLE,
    INKED_STYLE,
    POSES,
    STYLES,
    VIEWS,
    Character,
    Scene,
)

HERO = Character("blond", "short", "blue", "calm", "jacket", "orange", "standing", 0, view="front", direction="right")


def picture(character: Character = HERO, style: str = "flat", framing: str = "portrait", size: int = 128) -> np.ndarray:
    scene = Scene((character,), "blue background", framing, style)
    return np.asarray(draw(scene, Random(3), size), dtype=float)


def visible(first: np.ndarray, second: np.ndarray) -> float:
    """The share of pixels that differ by more than 40 of 255 in a colour."""
    return float((np.abs(first - second).max(axis=2) > 40).mean())


@pytest.mark.parametrize(
    ("field", "words", "framing", "share"),
    [
        ("cut", HAIR_CUTS, "portrait", 0.02),
        ("view", VIEWS, "portrait", 0.05),
        ("expression", EXPRESSIONS, "portrait", 0.002),
        ("eyes", EYE_COLOURS, "portrait", 0.003),
        ("pose", POSES, "full body", 0.02),
        ("build", BUILDS, "full body", 0.02),
        ("direction", ("left", "right"), "portrait", 0.0),
    ],
)
def test_every_word_of_an_attribute_looks_different(field: str, words: tuple[str, ...], framing: str, share: float):
    drawn = {word: picture(replace(HERO, **{field: word}), framing=framing) for word in words}
    for first, second in combinations(words, 2):
        assert visible(drawn[first], drawn[second]) > share, (first, second)


def test_a_character_seen_from_the_front_is_nearly_symmetric_and_from_the_side_is_not():
    def asymmetry(view: str) -> float:
        face = picture(replace(HERO, view=view, cut="bob"))[52:92, 38:90]
        return min(visible(face, np.roll(face[:, ::-1], shift, axis=1)) for shift in range(-8, 9))

    assert asymmetry("front") < 0.2 < asymmetry("side")


def test_only_the_held_out_style_has_a_headband_and_whiskers_on_both_cheeks():
    marked, inked = picture(style=HELD_OUT_STYLE), picture(style=INKED_STYLE)
    differs = np.abs(marked - inked).max(axis=2) > 60
    rows, columns = np.nonzero(differs)
    middle = int(np.median(columns))
    forehead, cheeks = differs[: int(rows.min()) + 22], differs[int(rows.min()) + 34 :]
    assert forehead.sum() > 400
    assert min(cheeks[:, :middle].sum(), cheeks[:, middle:].sum()) > 25


@pytest.mark.parametrize("style", [*STYLES, INKED_STYLE])
def test_a_drawing_has_the_same_content_at_every_size(style: str):
    large = picture(style=style, size=128).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    small = picture(style=style, size=64).reshape(32, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(large - small).mean() < 12


def test_a_smooth_curve_passes_its_points_and_an_offset_keeps_its_distance():
    square = smooth(((0, 0, 1), (2, 0, 1), (2, 2, 1), (0, 2, 1)))
    for corner in ((0, 0), (2, 0), (2, 2), (0, 2)):
        assert np.abs(square - corner).sum(axis=1).min() < 1e-9
    assert square.min() >= 0
    assert square.max() <= 2
    wider = outset(square, 0.5)
    assert np.allclose([wider.min(), wider.max()], [-0.5, 2.5], atol=0.05)
    stroke = ribbon(np.array([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0)]), (0.2, 0.6))
    assert np.allclose(np.ptp(stroke[[0, -1]], axis=0), (0, 0.2))
    assert np.allclose(np.ptp(stroke[[2, 3]], axis=0), (0, 0.6))
