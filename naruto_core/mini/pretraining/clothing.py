"""Drawing of the upper body's clothes: torso, collar, folds, and what tells the garments apart."""

import numpy as np

from naruto_core.mini.pretraining.figure import Figure
from naruto_core.mini.pretraining.geometry import Points, Table, arc, mirrored, smooth
from naruto_core.mini.pretraining.pen import blend

# Down to the lower edge of a portrait: x in half shoulder widths, y in head radii below the base of the neck.
_TORSO: Table = mirrored(((0, -0.1), (0.42, -0.06), (0.86, 0.1), (1.28, 0.36), (1.5, 0.9), (1.56, 2.6, 1), (0, 2.6)))
_TORSO_SIDE: Table = (
    (-0.34, -0.2), (0.3, -0.02), (0.62, 0.34), (0.82, 0.9), (0.84, 2.6, 1), (-1.0, 2.6, 1), (-1.06, 1.0), (-0.82, 0.3),
)  # fmt: skip
_FOLDS: tuple[Table, ...] = (
    ((1.08, 0.74), (1.02, 1.2), (1.1, 2.0)), ((-1.08, 0.74), (-1.02, 1.2), (-1.1, 2.0)), ((0.9, 0.62), (0.7, 0.84),
     (0.56, 0.9)),
    ((-0.9, 0.62), (-0.72, 0.8), (-0.6, 0.84)),
)  # fmt: skip


def _placed(figure: Figure, points: Points) -> Points:
    """`points` (half shoulder widths below the neck) in head radii, turned with the figure."""
    wide = figure.proportions.shoulders
    return figure.warp(points * np.array([wide, 1.0]), 1.7 * wide, 0.5) + np.array([0.0, figure.proportions.neck])


def torso(figure: Figure) -> Points:
    return _placed(figure, smooth(_TORSO_SIDE if figure.profile else _TORSO))


def draw_neck(figure: Figure) -> None:
    pen, base = figure.pen, figure.proportions.neck
    if figure.profile:
        neck = np.array([(-0.42, 0.5), (0.3, 0.7), (0.34, base + 0.3), (-0.5, base + 0.3)])
    else:
        neck = np.array(
            [
                (-0.34, 0.7),
                (0.34, 0.7),
                (0.36, base - 0.1),
                (0.46, base + 0.3),
                (-0.46, base + 0.3),
                (-0.36, base - 0.1),
            ]
        )
        neck = figure.warp(neck, 1.2, 0.3)
    pen.shape(neck, figure.skin)
    chin = 0.1 + 1.1 * figure.proportions.chin
    pen.clip(neck, [arc((0.12 + figure.turn, chin - 0.26), (0.86, 0.5))], pen.shadow(figure.skin, 1.2))


def draw_garment(figure: Figure) -> None:
    """The clothes of a portrait."""
    pen, cloth = figure.pen, figure.cloth
    shape = torso(figure)
    dark = pen.shadow(cloth)
    if figure.character.garment == "hoodie":
        _hood(figure)
    pen.shape(shape, cloth)
    pen.clip(
        shape, [_placed(figure, np.array([(0.52, -0.5), (3, -0.5), (3, 3), (0.9, 3), (1.02, 0.9), (0.8, 0.4)]))], dark
    )
    neck = figure.proportions.neck
    shadow_x = figure.turn + 0.1 if not figure.profile else 0.3
    pen.clip(shape, [arc((shadow_x, neck - 0.24), (0.9, 0.56))], dark)
    if not figure.profile:
        for fold in _FOLDS:
            pen.stroke(_placed(figure, np.array(fold)), blend(cloth, pen.ink(cloth), 0.7), (0.02, 0.06, 0.02))
    else:
        _side_sleeve(figure)
    _DETAILS[figure.character.garment](figure, shape)


def _side_sleeve(figure: Figure) -> None:
    pen, line = figure.pen, blend(figure.cloth, figure.pen.ink(figure.cloth), 0.8)
    for curve in (
        ((-0.5, 0.5), (-0.62, 1.2), (-0.6, 2.4)),
        ((0.16, 0.46), (0.28, 1.1), (0.26, 2.4)),
        ((-0.5, 0.5), (-0.2, 0.28), (0.16, 0.46)),
    ):
        pen.stroke(_placed(figure, np.array(curve)), line, (0.03, 0.06, 0.03))


def _hood(figure: Figure) -> None:
    pen, base = figure.pen, figure.proportions.neck
    if figure.profile:
        hood = smooth(
            ((-0.2, base - 0.3), (-0.9, base - 0.5), (-1.36, base - 0.1), (-1.2, base + 0.5), (-0.4, base + 0.5))
        )
    else:
        hood = arc((0, base + 0.05), (1.02, 0.52), points=25)[:-1]
    pen.shape(hood, pen.shadow(figure.cloth, 1.5))


def _jacket(figure: Figure, _: Points) -> None:
    pen, cloth = figure.pen, figure.cloth
    contrast = (
        blend(cloth, (28, 30, 48), 0.62)
        if figure.character.garment_colour != "black"
        else blend(cloth, (150, 154, 170), 0.5)
    )
    if figure.profile:
        collar = _placed(figure, np.array([(-0.5, -0.42), (0.34, -0.22), (0.56, 0.2), (0.3, 0.3), (-0.6, 0.02)]))
        pen.shape(collar, contrast)
        return
    pen.stroke(
        _placed(figure, np.array([(0, 0.3), (0.0, 1.2), (0, 2.6)])), blend(cloth, pen.ink(cloth), 0.85), (0.11, 0.11)
    )
    pen.stroke(_placed(figure, np.array([(0, 0.3), (0.0, 1.2), (0, 2.6)])), (216, 218, 226), (0.055, 0.055))
    for side in (-1, 1):
        yoke = [
            (side * x, y) for x, y in ((0.34, -0.4), (0.5, -0.06), (0.66, 0.34), (0.06, 0.56), (0.0, 0.3), (0.24, 0.06))
        ]
        pen.shape(_placed(figure, np.array(yoke)), contrast)
    x, y = _placed(figure, np.array([(0.0, 0.62)]))[0]
    pen.shape(np.array([(x - 0.06, y), (x + 0.06, y), (x + 0.05, y + 0.2), (x - 0.05, y + 0.2)]), (230, 232, 238), 0.5)


def _kimono(figure: Figure, shape: Points) -> None:
    pen, cloth = figure.pen, figure.cloth
    white = figure.character.garment_colour == "white"
    trim = pen.paint((92, 108, 150)) if white else pen.light(cloth, 1.35)
    if figure.profile:
        opening = _placed(figure, np.array([(0.1, -0.3), (0.5, 0.05), (0.62, 0.5), (0.44, 0.3)]))
        pen.clip(shape, [opening], figure.skin)
        pen.stroke(
            _placed(figure, np.array([(-0.42, -0.3), (0.16, 0.06), (0.6, 0.8), (0.8, 1.4)])),
            blend(trim, pen.ink(trim), 0.8),
            (0.28, 0.28),
        )
        pen.stroke(_placed(figure, np.array([(-0.42, -0.3), (0.16, 0.06), (0.6, 0.8), (0.8, 1.4)])), trim, (0.2, 0.2))
        return
    opening = _placed(figure, np.array([(-0.4, -0.5), (0.4, -0.5), (0.34, 0.0), (-0.06, 0.72), (-0.34, 0.0)]))
    pen.clip(shape, [opening], figure.skin)
    for curve in (
        ((-0.44, -0.2), (-0.3, 0.2), (0.1, 0.86), (0.3, 1.1)),
        ((0.44, -0.2), (0.32, 0.2), (-0.14, 0.9), (-0.6, 1.7), (-0.8, 2.6)),
    ):
        points = _placed(figure, np.array(curve))
        pen.stroke(points, blend(trim, pen.ink(trim), 0.8), (0.28, 0.28, 0.3))
        pen.stroke(points, trim, (0.19, 0.2, 0.21))


def _hoodie(figure: Figure, _: Points) -> None:
    pen = figure.pen
    rim = pen.shadow(figure.cloth, 0.9)
    if figure.profile:
        collar = _placed(
            figure, np.array([(-0.6, -0.3), (0.3, -0.16), (0.6, 0.2), (0.46, 0.46), (-0.2, 0.3), (-0.8, 0.3)])
        )
        pen.shape(collar, rim)
        pen.stroke(_placed(figure, np.array([(0.5, 0.36), (0.56, 0.8), (0.54, 1.1)])), (240, 240, 240), (0.08, 0.08))
        return
    for side in (-1, 1):
        edge = smooth(
            [
                (side * x, y)
                for x, y in ((0.46, -0.34), (0.76, 0.02), (0.62, 0.36), (0.1, 0.6), (0.02, 0.42), (0.36, 0.14))
            ]
        )
        pen.shape(_placed(figure, edge), rim)
    for side in (-1, 1):
        cord = _placed(figure, np.array([(side * 0.22, 0.44), (side * 0.26, 0.8), (side * 0.24, 1.16)]))
        pen.stroke(cord, blend(figure.cloth, pen.ink(figure.cloth), 0.8), (0.12, 0.12))
        pen.stroke(cord, (240, 240, 240), (0.07, 0.07))


def _shirt(figure: Figure, shape: Points) -> None:
    pen = figure.pen
    x = 0.0 if not figure.profile else 0.02
    centre = _placed(figure, np.array([(x, -0.12)]))[0]
    wide = 0.46 if not figure.profile else 0.4
    skin = smooth(
        [
            (centre[0] - wide, centre[1] - 0.3, 1),
            (centre[0] + wide, centre[1] - 0.3, 1),
            (centre[0] + wide * 0.8, centre[1] + 0.24),
            (centre[0], centre[1] + 0.42),
            (centre[0] - wide * 0.8, centre[1] + 0.24),
        ]
    )
    pen.clip(shape, [skin], figure.skin)
    rib = [
        (centre[0] - wide * 1.05, centre[1] - 0.12),
        (centre[0] - wide * 0.75, centre[1] + 0.26),
        (centre[0], centre[1] + 0.46),
        (centre[0] + wide * 0.75, centre[1] + 0.26),
        (centre[0] + wide * 1.05, centre[1] - 0.12),
    ]
    pen.stroke(rib, blend(figure.cloth, pen.ink(figure.cloth), 0.8), (0.17, 0.17))
    pen.stroke(rib, pen.light(figure.cloth, 0.5), (0.1, 0.1))


_DETAILS = {"jacket": _jacket, "kimono": _kimono, "hoodie": _hoodie, "shirt": _shirt}
