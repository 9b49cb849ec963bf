"""Crops, mirrored copies and re-encoded copies are found by their pixels; new pictures are not called copies."""

import numpy as np
import pytest
from PIL import Image

from naruto_core.mini.pretraining.evaluation import drawings
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE
from naruto_core.scoring.copied_pixels import match_pixels, pixel_nearness
from naruto_core.scoring.feature_set import PixelSet
from naruto_core.scoring.findings import find_memorization
from naruto_core.scoring.memorization import FALSE_ALARM, Nearness, copy_margin
from tests.naruto_core.scoring.planted import CHANGES, pixel_rows

Drawings = list[Image.Image]


@pytest.fixture(scope="module")
def world() -> Drawings:
    return [Image.fromarray(pixels) for pixels in drawings(HELD_OUT_STYLE, 150, 301)[0]]


def test_copies_of_every_kind_are_named_with_their_training_pictures_and_new_pictures_are_not(world: Drawings):
    rng, training = np.random.default_rng(0), world[:60]
    planted = [change(training[i], rng) for i, change in enumerate(CHANGES.values())]
    pixels = PixelSet(pixel_rows([*planted, *world[110:150]]), pixel_rows(training), pixel_rows(world[60:110]))
    names = [f"t{i}" for i in range(60)]
    nearness = pixel_nearness(pixels, names)
    unseen = Nearness(np.full(46, 0.5), np.random.default_rng(1).uniform(0.6, 0.8, 50), names[:46])
    finding = find_memorization("r", [f"s{i}" for i in range(46)], unseen, nearness, "held-out pictures")
    assert finding.figures["copies"] == len(CHANGES)
    assert all(f"s{i} is t{i} (pixels of a crop or mirrored crop " in finding.sentence for i in range(len(CHANGES)))
    margin = copy_margin(nearness.calibrating, 46, FALSE_ALARM / 2)
    assert len(nearness.calibrating) == 110
    assert nearness.drawn[len(CHANGES) :].max() < margin


def test_a_training_picture_is_not_its_own_neighbour_however_many_there_are(
    world: Drawings, monkeypatch: pytest.MonkeyPatch
):
    rows = pixel_rows([*world[:9], world[0]])
    together = match_pixels(rows, rows, same=True)
    assert together.row[[0, 9]].tolist() == [9, 0]
    assert (together.correlation[1:9] < 0.999).all()
    monkeypatch.setattr("naruto_core.scoring.copied_pixels._AT_ONCE", 4)
    in_parts = match_pixels(rows, rows, same=True)
    assert in_parts.row.tolist() == together.row.tolist()
    assert in_parts.correlation == pytest.approx(together.correlation, abs=1e-6)


def test_pictures_of_one_grey_are_like_nothing(world: Drawings):
    flat = pixel_rows([Image.new("RGB", (64, 64), "grey")])
    assert match_pixels(flat, pixel_rows(world[:3])).correlation == pytest.approx([0.0])
    assert match_pixels(flat, flat).correlation == pytest.approx([0.0])
