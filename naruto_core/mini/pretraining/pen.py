"""The pen that draws the world: shapes in character units, with the colours of a style.

Everything is drawn with Pillow at four times the size and then scaled down, which smooths
the edges. One character unit is one head radius.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from naruto_core.mini.pretraining.geometry import Point, Points, arc, even, outset, ribbon, smooth

Colour = tuple[int, int, int]

OVERSAMPLING = 4
OUTLINE: Colour = (14, 12, 20)
WHITE: Colour = (255, 255, 255)


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


def _pairs(points: Points) -> list[float]:
    """`points` as Pillow takes them, on a grid of 1/16 pixel."""
    pairs: list[float] = (np.round(points * 16) / 16).ravel().tolist()
    return pairs


@dataclass
class Pen:
    """Draws in character units around `origin` (pixels), `unit` pixels to one head radius.

    `flip` is -1 to mirror left and right. `bold` is the held-out style's look: every shape gets a dark
    outline of varying weight, and colours are saturated instead of muted. `line` is the weight of an outline in pixels.
    """

    image: Image.Image
    origin: Point
    unit: float
    bold: bool
    line: float
    flip: int = 1

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image)
        self._scale = np.array([self.flip * self.unit, self.unit]) * OVERSAMPLING
        self._shift = np.array(self.origin) * OVERSAMPLING

    def paint(self, colour: Colour) -> Colour:
        """`colour` as the style has it."""
        return saturate(colour, 1.3) if self.bold else blend(colour, (208, 200, 196), 0.14)

    def shadow(self, colour: Colour, strength: float = 1.0) -> Colour:
        """`colour` in shadow."""
        return blend(colour, (52, 20, 84), (0.34 if self.bold else 0.22) * strength)

    def light(self, colour: Colour, strength: float = 1.0) -> Colour:
        """`colour` in bright light."""
        return blend(colour, (255, 252, 240), 0.45 * strength)

    def ink(self, colour: Colour) -> Colour:
        """The colour of outlines on `colour`: nearly black, or a darker tone."""
        return OUTLINE if self.bold else blend(colour, (62, 34, 44), 0.52)

    def place(self, points: Points | Sequence[Point]) -> Points:
        """Canvas coordinates of `points`."""
        return np.asarray(points, dtype=np.float64) * self._scale + self._shift

    def shape(self, points: Points | Sequence[Point], fill: Colour, outlined: float = 1.0) -> None:
        """A filled outline, its line `outlined` times the normal weight; `fill` is used as given, see `paint`."""
        placed = self.place(points)
        if outlined:
            weight = self.line * OVERSAMPLING * outlined * (1.0 if self.bold else 0.42)
            self.draw.polygon(_pairs(outset(placed, weight, 0.55 if self.bold else 0.2)), fill=self.ink(fill))
        self.draw.polygon(_pairs(placed), fill=fill)

    def oval(self, centre: Point, radii: Point, fill: Colour, outlined: float = 1.0) -> None:
        self.shape(arc(centre, radii, points=33)[:-1], fill, outlined)

    def limb(self, curve: Points, widths: Sequence[float], fill: Colour) -> Points:
        """Draw an outlined limb along `curve` piece by piece, so that a sharp bend has no hole; returns its outline."""
        count = len(curve)
        along = np.interp(even(count), even(len(widths)), widths)
        edge = 2 * self.line / self.unit * (1.0 if self.bold else 0.42)
        for extra, colour in ((edge, self.ink(fill)), (0.0, fill)):
            outline = self.place(ribbon(curve, (along + extra).tolist()))
            left, right = outline[:count], outline[count:][::-1]
            for piece in np.stack([left[:-1], left[1:], right[1:], right[:-1]], axis=1):
                self.draw.polygon(_pairs(piece), fill=colour)
            for i in (0, count // 2, count - 1):
                radius = float(along[i] + extra) / 2
                self.draw.polygon(_pairs(self.place(arc(tuple(curve[i]), (radius, radius), points=17))), fill=colour)
        return ribbon(curve, along.tolist())

    def stroke(self, points: Sequence[Sequence[float]] | Points, colour: Colour, widths: Sequence[float]) -> None:
        """A stroke along a smooth curve through `points`; `widths` in units along it, at least half a pixel."""
        curve = smooth([tuple(p) for p in points], closed=False, steps=6)
        least = 0.5 / self.unit
        self.draw.polygon(_pairs(self.place(ribbon(curve, [max(w, least) for w in widths]))), fill=colour)

    def clip(self, region: Points, shapes: Sequence[Points], colour: Colour) -> None:
        """Fill `shapes` with `colour`, but only inside of `region`."""
        if not shapes:
            return
        edge = self.place(region)
        placed = [self.place(shape) for shape in shapes]
        low = np.maximum(edge.min(axis=0), np.min([p.min(axis=0) for p in placed], axis=0))
        high = np.minimum(edge.max(axis=0), np.max([p.max(axis=0) for p in placed], axis=0))
        left, top = (max(0, int(v)) for v in low)
        right, bottom = (min(limit, int(v) + 2) for v, limit in zip(high, self.image.size, strict=True))
        if right <= left or bottom <= top:
            return
        corner = np.array([left, top])
        inside, filled = (Image.new("L", (right - left, bottom - top)) for _ in range(2))
        ImageDraw.Draw(inside).polygon(_pairs(edge - corner), fill=255)
        brush = ImageDraw.Draw(filled)
        for points in placed:
            brush.polygon(_pairs(points - corner), fill=255)
        self.image.paste(colour, (left, top, right, bottom), ImageChops.darker(inside, filled))
