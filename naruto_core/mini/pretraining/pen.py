"""The pen that draws the world: shapes in character units, with the colours of a style.

Everything is drawn with Pillow at four times the size and then scaled down, which smooths
the edges. One character unit is one head radius.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

OVERSAMPLING = 4
OUTLINE: Colour = (14, 12, 20)


def jitter(colour: Colour, rng: Random, spread: float = 8.0) -> Colour:
    """`colour` changed randomly in every channel, with standard deviation `spread`."""
    red, green, blue = (max(0, min(255, int(v + rng.gauss(0, spread)))) for v in colour)
    return red, green, blue


def saturate(colour: Colour, gain: float) -> Colour:
    """Move `colour` away from its grey (gain > 1) or towards it (gain < 1)."""
    grey = sum(colour) / 3
    red, green, blue = (int(max(0, min(255, grey + (v - grey) * gain))) for v in colour)
    return red, green, blue


def blend(colour: Colour, other: Colour, share: float) -> Colour:
    """`colour` with `share` (0..1) of `other` mixed in."""
    red, green, blue = (int(v * (1 - share) + o * share) for v, o in zip(colour, other, strict=True))
    return red, green, blue


def arc(centre: Point, radii: Point, start: float, end: float, points: int = 24) -> list[Point]:
    """Points on an ellipse from `start` to `end` degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / (points - 1)) for i in range(points)]
    return [(centre[0] + radii[0] * math.cos(a), centre[1] + radii[1] * math.sin(a)) for a in angles]


@dataclass
class Pen:
    """Draws in character units around `origin` (pixels), `unit` pixels to one head radius.

    `bold` is the held-out style's look: every shape gets a dark outline, and colours are saturated
    instead of muted.
    """

    draw: ImageDraw.ImageDraw
    origin: Point
    unit: float
    bold: bool

    def paint(self, colour: Colour) -> Colour:
        return saturate(colour, 1.4) if self.bold else blend(colour, (205, 205, 205), 0.22)

    def at(self, point: Point) -> Point:
        x = (self.origin[0] + point[0] * self.unit) * OVERSAMPLING
        y = (self.origin[1] + point[1] * self.unit) * OVERSAMPLING
        return x, y

    def width(self, pixels: float) -> int:
        return max(1, round(pixels * OVERSAMPLING))

    def shape(self, points: Sequence[Point], fill: Colour, outlined: bool = True) -> None:
        """A filled outline; `fill` is used as given, see `paint`."""
        placed = [self.at(p) for p in points]
        self.draw.polygon(placed, fill=fill)
        if outlined:
            edge, width = (OUTLINE, self.width(1.25)) if self.bold else (blend(fill, (60, 50, 50), 0.4), 2)
            self.draw.line([*placed, placed[0], placed[1]], fill=edge, width=width, joint="curve")

    def oval(self, centre: Point, radii: Point, fill: Colour, outlined: bool = True) -> None:
        self.shape(arc(centre, radii, 0, 360, 40), fill, outlined)

    def line(self, points: Sequence[Point], colour: Colour, pixels: float) -> None:
        placed = [self.at(p) for p in points]
        self.draw.line(placed, fill=colour, width=self.width(pixels), joint="curve")
