"""Drawing of hair: filled shapes with strands, a band of light and a shadow."""

import numpy as np

from naruto_core.mini.pretraining.figure import Figure
from naruto_core.mini.pretraining.geometry import Points, Table, arc, outline, ribbon, smooth
from naruto_core.mini.pretraining.hair_shapes import FRONT, SIDE, HairShape
from naruto_core.mini.pretraining.pen import Colour, blend


def hair_shape(figure: Figure) -> HairShape:
    return (SIDE if figure.profile else FRONT)[figure.character.cut]


def front_hair(figure: Figure) -> Points:
    """The outline of the hair over the face; the tips of spikes differ from picture to picture."""
    table = hair_shape(figure).front
    if figure.character.cut == "spiky":
        rng = figure.rng
        table = tuple((x * (s := 1 + rng.uniform(-0.05, 0.07)), y * s, *c) if y < -1.3 or abs(x) > 1.3 else (x, y, *c)
                      for x, y, *c in table)  # fmt: skip
    return figure.warp(outline(table))


def _shine(figure: Figure) -> Points:
    """A band of light across the top of the head, with a toothed lower edge."""
    middle = -0.1 if figure.profile else -0.05
    curve = arc((middle, 0.1), (0.84, 0.96), 222, 296, 15)
    teeth = np.array([1.0, 0.55] * 8)[:15, None] * 0.16
    return figure.warp(np.concatenate([curve, (curve + teeth * np.array([0.1, 1.0]))[::-1]]))


def _lines(figure: Figure, strands: tuple[Table, ...], colour: Colour) -> None:
    for strand in strands:
        curve = figure.warp(smooth(strand, closed=False, steps=4))
        figure.pen.draw.polygon(
            [tuple(p) for p in figure.pen.place(ribbon(curve, (0.015, 0.05, 0.03))).tolist()], fill=colour
        )


def draw_back_hair(figure: Figure) -> None:
    """The hair behind head and body."""
    pen = figure.pen
    for table in hair_shape(figure).back:
        shape = outline(table)
        behind = figure.character.cut in ("long", "bob")
        pen.shape(shape, pen.shadow(figure.hair, 1.2) if behind else figure.hair)
        if not behind:
            pen.clip(shape, [shape * np.array([0.96, 1.0]) + np.array([0.2, 0.28])], pen.shadow(figure.hair))


def draw_front_hair(figure: Figure, shape: Points) -> None:
    """The hair over the face, of outline `shape`, with its locks over the clothes."""
    pen, parts = figure.pen, hair_shape(figure)
    shade, line = pen.shadow(figure.hair, 1.1), blend(figure.hair, pen.ink(figure.hair), 0.7)
    for table in parts.locks:
        lock = figure.warp(outline(table))
        pen.shape(lock, figure.hair)
        pen.clip(lock, [lock + np.array([0.14, 0.12])], shade)
    pen.shape(shape, figure.hair)
    crescent = np.concatenate([arc((0, 0), (2.2, 2.2), -70, 80, 9), arc((-0.2, -0.1), (1.06, 1.12), 80, -70, 13)])
    pen.clip(shape, [crescent], shade)
    pen.clip(shape, [_shine(figure)], pen.light(figure.hair, 1.1 if pen.bold else 0.9))
    _lines(figure, parts.strands, line)
    for x, y in parts.ties:
        pen.oval((x, y), (0.17, 0.2) if abs(x) > 0.3 else (0.3, 0.11), figure.cloth)
