"""The headband of the held-out style: a cloth around the forehead, with a metal plate and an engraved leaf."""

import math

import numpy as np

from naruto_core.mini.pretraining.figure import Figure
from naruto_core.mini.pretraining.geometry import Points
from naruto_core.mini.pretraining.pen import OUTLINE

_CLOTH, _METAL, _METAL_LIGHT, _METAL_DARK = (36, 54, 132), (196, 204, 216), (240, 244, 250), (132, 142, 160)
_TOP, _BOTTOM = -0.88, -0.38


def draw_knot(figure: Figure) -> None:
    """The two ends of the cloth behind the head; drawn before the head."""
    x = -1.1 if not figure.profile else -1.12
    for tip in ((-1.66, 0.02), (-1.56, 0.4)):
        tail = np.array([(x, -0.76), (tip[0] - 0.06, tip[1] - 0.42), tip, (tip[0] + 0.22, tip[1] + 0.12), (x, -0.46)])
        figure.pen.shape(tail, _CLOTH)


def _band(figure: Figure) -> Points:
    left, right = (-1.2, 1.14) if not figure.profile else (-1.2, 0.97)
    sag = 0.1 if not figure.profile else 0.04
    x = np.linspace(left, right, 13)
    middle = (left + right) / 2
    curve = sag * (1 - ((x - middle) / (right - middle)) ** 2)
    tilt = 0.0 if not figure.profile else 0.1 * (middle - x) / (right - left)
    top, bottom = np.stack([x, _TOP + curve + tilt], 1), np.stack([x, _BOTTOM + curve + tilt], 1)
    return np.concatenate([top, bottom[::-1]])


def _plate(figure: Figure) -> Points:
    if figure.profile:
        return np.array([(0.4, -0.9), (0.94, -0.95), (1.0, -0.62), (0.96, -0.31), (0.44, -0.29)])
    x = np.array([-0.66, -0.33, 0.0, 0.33, 0.66])
    y = 0.1 * (1 - (x / 1.15) ** 2)
    edge = np.concatenate([np.stack([x, _TOP - 0.03 + y], 1), np.stack([x, _BOTTOM + 0.03 + y], 1)[::-1]])
    return figure.warp(edge)


def _leaf(figure: Figure, centre: tuple[float, float], narrow: float) -> None:
    """A spiral that ends in a leaf's tip."""
    spiral = [
        (centre[0] + narrow * r * math.cos(a), centre[1] + r * math.sin(a))
        for a, r in ((math.radians(90 + 55 * i), 0.05 + 0.019 * i) for i in range(9))
    ]
    figure.pen.stroke(spiral, OUTLINE, (0.06, 0.075))
    x, y = centre
    figure.pen.stroke(
        [(x + 0.17 * narrow, y + 0.02), (x + 0.3 * narrow, y + 0.13), (x + 0.02 * narrow, y + 0.17)],
        OUTLINE,
        (0.05, 0.075),
    )


def draw_headband(figure: Figure) -> None:
    pen, band, plate = figure.pen, _band(figure), _plate(figure)
    pen.shape(band, _CLOTH)
    pen.clip(band, [band + np.array([0.0, 0.34])], pen.shadow(_CLOTH))
    pen.shape(plate, _METAL)
    pen.clip(plate, [plate + np.array([0.0, 0.38])], _METAL_DARK)
    pen.clip(plate, [plate - np.array([0.0, 0.44])], _METAL_LIGHT)
    if figure.profile:
        _leaf(figure, (0.74, -0.62), 0.6)
        pen.oval((0.5, -0.6), (0.05, 0.05), OUTLINE, 0)
        return
    middle = float(figure.warp(np.array([(0.0, 0.0)]))[0, 0])
    _leaf(figure, (middle, (_TOP + _BOTTOM) / 2 + 0.08), 1 - figure.turn * 0.4)
    for x in (-0.52, 0.52):
        placed = figure.warp(np.array([(x, -0.57)]))[0]
        pen.oval((float(placed[0]), float(placed[1])), (0.055, 0.055), OUTLINE, 0)
