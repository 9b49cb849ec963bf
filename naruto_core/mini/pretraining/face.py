"""Drawing of a face: head, ears, eyes, brows, nose, mouth, and the whiskers of the held-out style.

Coordinates are head radii around the middle of the head, y downwards; the figure looks to the right.
"""

from dataclasses import dataclass

import numpy as np

from naruto_core.mini.pretraining.figure import Figure
from naruto_core.mini.pretraining.geometry import Point, Points, Table, arc, mirrored, outline, smooth
from naruto_core.mini.pretraining.pen import WHITE, Colour, blend

_DARK: Colour = (40, 28, 36)
_MOUTH: Colour = (128, 40, 46)

_HEADS: dict[str, Table] = {
    "front": mirrored(
        ((0, -1.02), (0.58, -0.86), (0.95, -0.38), (1.0, 0.1), (0.92, 0.52), (0.66, 0.9), (0.3, 1.13), (0, 1.2))
    ),
    "three-quarter": (
        (0.05, -1.02), (0.62, -0.85), (0.95, -0.4), (0.97, -0.02), (0.91, 0.14), (0.95, 0.44), (0.84, 0.78),
        (0.58, 1.08), (0.36, 1.2), (0.08, 1.13), (-0.42, 0.88), (-0.84, 0.5), (-1.0, 0.1), (-0.97, -0.4),
        (-0.58, -0.87),
    ),
    "side": (
        (-0.05, -1.03), (0.5, -0.9), (0.84, -0.5), (0.9, -0.16), (0.86, 0.1), (0.94, 0.32), (1.05, 0.46), (0.98, 0.56),
        (0.93, 0.62), (0.94, 0.72), (0.89, 0.79), (0.9, 0.88), (0.84, 1.05), (0.66, 1.17), (0.3, 1.08), (-0.1, 0.78),
        (-0.5, 0.5), (-0.95, 0.3), (-1.06, -0.2), (-0.75, -0.8),
    ),
}  # fmt: skip


def head_outline(figure: Figure) -> Points:
    return figure.lower_face(outline(_HEADS[figure.character.view]))


@dataclass(frozen=True, slots=True)
class _Expression:
    """How an expression changes an eye and its brow. Lines are (height, slope), y downwards, x to the outer corner."""

    lid: tuple[float, float]  # the upper lid cuts the eye above this line
    lower_lid: float  # the lower lid cuts the eye below this height
    height: float
    iris: float
    brow: tuple[float, float, float]  # y of the inner end, the middle, the outer end, relative to the usual brow
    brow_width: float


_EXPRESSIONS: dict[str, _Expression] = {
    "smiling": _Expression((-1.0, 0.0), 0.72, 1.0, 1.0, (0.02, -0.14, -0.02), 1.0),
    "angry": _Expression((-0.52, -0.42), 0.85, 0.95, 0.92, (0.17, 0.0, -0.16), 1.5),
    "calm": _Expression((-0.62, 0.0), 1.0, 0.95, 1.0, (0.02, -0.03, 0.02), 1.0),
    "surprised": _Expression((-1.2, 0.0), 1.0, 1.2, 0.74, (-0.16, -0.26, -0.14), 0.9),
    "sad": _Expression((-0.64, 0.34), 1.0, 0.95, 1.0, (-0.18, -0.06, 0.12), 1.0),
}

# An eye in half widths and half heights, its outer corner to the right.
_EYE: Table = (
    (-0.98, 0.2),
    (-0.74, -0.66),
    (0.0, -1.0),
    (0.76, -0.7),
    (1.0, 0.0),
    (0.78, 0.76),
    (0.05, 1.0),
    (-0.72, 0.8),
)
_EYE_SIDE: Table = (
    (0.62, -0.85),
    (0.8, 0.0),
    (0.6, 0.85),
    (0.0, 0.9),
    (-0.6, 0.5),
    (-0.85, -0.1),
    (-0.5, -0.75),
    (0.1, -1.0),
)


def _eye(figure: Figure, centre: Point, width: float, outer: int, mood: _Expression) -> None:
    """An eye of half width `width`, its outer corner on the side `outer` (-1 or 1)."""
    pen, profile = figure.pen, figure.profile
    height = 0.3 * mood.height * figure.proportions.eye
    scale = np.array([outer * width, height])
    table = outline(_EYE_SIDE if profile else _EYE)
    slope = -mood.lid[1] if profile else mood.lid[1]
    lid_line = mood.lid[0] + slope * table[:, 0]
    open_eye = np.stack([table[:, 0], np.minimum(np.maximum(table[:, 1], lid_line), mood.lower_lid)], axis=1)
    white = open_eye * scale + centre
    pen.shape(white, blend(WHITE, figure.skin, 0.04), 0.35)
    x = centre[0] + (0.22 * outer * width if profile else 0.02 * figure.turn)
    y = centre[1] + 0.03
    rx, ry = 0.185 * mood.iris * figure.proportions.eye, 0.265 * mood.iris * figure.proportions.eye
    rx *= 0.62 if profile else min(1.0, width / 0.25)
    dark = blend(figure.eyes, (10, 6, 30), 0.55)
    pen.clip(white, [arc((x, y), (rx, ry))], dark)
    pen.clip(white, [arc((x, y + 0.02), (rx * 0.86, ry * 0.88))], figure.eyes)
    pen.clip(white, [arc((x, y - ry * 0.95), (rx * 1.1, ry * 0.62))], blend(figure.eyes, (10, 6, 30), 0.42))
    pen.clip(
        white,
        [arc((x, y + ry * 0.52), (rx * 0.62, ry * 0.3))],
        blend(figure.eyes, WHITE, 0.24 if figure.character.eyes == "black" else 0.42),
    )
    pen.clip(white, [arc((x, y + 0.01), (rx * 0.42, ry * 0.46))], blend(figure.eyes, (8, 4, 16), 0.86))
    if mood.lid[0] > -0.9:  # a lid that hangs over the eye throws a shadow
        shade = np.array([(-1.2, -1.3), (1.2, -1.3), (1.2, 0.0), (-1.2, 0.0)])
        shade[2:, 1] = np.maximum(-0.72, mood.lid[0] + slope * shade[2:, 0] + 0.22)
        pen.clip(white, [shade * scale + centre], blend(dark, (30, 16, 40), 0.3))
    pen.oval((x - 0.45 * rx, y - 0.46 * ry), (0.36 * rx + 0.012, 0.27 * ry + 0.012), WHITE, 0)
    pen.oval((x + 0.45 * rx, y + 0.42 * ry), (0.2 * rx, 0.15 * ry), WHITE, 0)
    _lid(figure, open_eye, scale, centre)


def _lid(figure: Figure, open_eye: Points, scale: Points, centre: Point) -> None:
    """The dark upper lid with its lashes, and a thin lower lid."""
    pen, count = figure.pen, len(open_eye)
    order = (np.arange(count) + (count // 2 if figure.profile else 0)) % count
    first, last = (0.12, 0.62) if figure.profile else (0.02, 0.5)
    upper = open_eye[order][int(first * count) : int(last * count) : 3]
    weight = 0.105 if pen.bold else 0.085
    wing = np.array([(1.2, upper[-1][1] - 0.12)]) if not figure.profile else upper[:0]
    curve = np.concatenate([upper, wing]) * scale + centre
    widths = (0.03, weight, weight * 1.15, weight * 1.1, 0.03)
    pen.stroke(curve, _DARK, widths)
    if figure.character.cut in ("long", "bob", "twin tails", "bun") and not figure.profile:
        for height in (-0.42, -0.02):
            lash = np.array([(0.86, height), (1.26, height - 0.26)]) * scale + centre
            pen.stroke(lash, _DARK, (0.055, 0.02))
    if not figure.profile:
        lower = open_eye[int(0.62 * count) : int(0.85 * count) : 3] * scale + centre
        pen.stroke(lower, blend(_DARK, figure.skin, 0.35), (0.02, 0.035, 0.02))


def _eye_places(figure: Figure) -> list[tuple[Point, float, int]]:
    """(centre, half width, outer side) of every eye that is seen."""
    y = 0.24 + 0.04 * (figure.proportions.eye - 1)
    if figure.profile:
        return [((0.58, y), 0.24, -1)]
    near, far = figure.warp(np.array([(-0.43, y), (0.43, y)]))
    narrow = 1 - 0.85 * figure.turn
    return [((float(near[0]), y), 0.255, -1), ((float(far[0]), y), 0.255 * narrow, 1)]


def draw_brows(figure: Figure) -> None:
    mood = _EXPRESSIONS[figure.character.expression]
    colour = blend(figure.hair, _DARK, 0.55) if figure.character.hair != "black" else _DARK
    for (x, y), width, outer in _eye_places(figure):
        inner, middle, end = (y - 0.42 + shift for shift in mood.brow)
        curve = [(x - outer * width * 0.95, inner), (x, middle), (x + outer * width * 1.1, end)]
        thick = 0.085 * mood.brow_width * (1.1 if figure.pen.bold else 1.0)
        figure.pen.stroke(curve, colour, (thick * 0.9, thick, 0.03))


def _nose(figure: Figure) -> None:
    if figure.profile:
        return
    x = float(figure.warp(np.array([(0.0, 0.5)]))[0, 0]) + 0.16 * figure.turn
    colour = figure.pen.shadow(figure.skin, 1.6)
    figure.pen.stroke([(x + 0.01, 0.46), (x + 0.05, 0.54), (x - 0.03, 0.57)], colour, (0.02, 0.055, 0.02))


def _mouth(figure: Figure) -> None:
    pen = figure.pen
    x, y, wide = (
        float(figure.warp(np.array([(0.0, 0.8)]))[0, 0]),
        0.1 + 0.7 * figure.proportions.chin,
        1 - figure.turn * 0.5,
    )
    if figure.profile:
        x, wide = 0.74, 0.55
    line = _DARK if pen.bold else blend(_MOUTH, _DARK, 0.4)

    def at(points: Table) -> Points:
        return smooth([(x + wide * px, y + py, *corner) for px, py, *corner in points])

    match figure.character.expression:
        case "smiling":
            mouth = at(((-0.3, -0.08, 1), (0.0, -0.03), (0.3, -0.08, 1), (0.2, 0.14), (0.0, 0.22), (-0.2, 0.14)))
            pen.shape(mouth, _MOUTH, 0.5)
            pen.clip(mouth, [arc((x, y + 0.24), (0.17 * wide, 0.12))], (226, 112, 112))
            teeth = [(x - 0.4, y - 0.2), (x + 0.4, y - 0.2), (x + 0.4, y + 0.02), (x - 0.4, y + 0.02)]
            pen.clip(mouth, [np.array(teeth)], (252, 250, 246))
        case "angry":
            mouth = at(((-0.22, 0.13, 1), (-0.12, -0.02), (0.0, -0.05), (0.12, -0.02), (0.22, 0.13, 1), (0.0, 0.08)))
            pen.shape(mouth, _MOUTH, 0.5)
            teeth = [
                (x - 0.2 * wide, y - 0.1),
                (x + 0.2 * wide, y - 0.1),
                (x + 0.2 * wide, y + 0.04),
                (x - 0.2 * wide, y + 0.04),
            ]
            pen.clip(mouth, [np.array(teeth)], (252, 250, 246))
        case "surprised":
            mouth = arc((x, y + 0.06), (0.12 * wide + 0.01, 0.16), points=25)[:-1]
            pen.shape(mouth, _MOUTH, 0.5)
            pen.clip(mouth, [arc((x, y + 0.19), (0.1 * wide, 0.08))], (226, 112, 112))
        case "sad":
            pen.stroke([(x - 0.2 * wide, y + 0.1), (x, y - 0.01), (x + 0.2 * wide, y + 0.1)], line, (0.03, 0.07, 0.03))
            lip = figure.pen.shadow(figure.skin, 1.2)
            pen.stroke([(x - 0.07 * wide, y + 0.17), (x + 0.07 * wide, y + 0.17)], lip, (0.02, 0.04, 0.02))
        case _:
            pen.stroke([(x - 0.17 * wide, y), (x, y + 0.025), (x + 0.17 * wide, y)], line, (0.04, 0.06, 0.04))


def _blush(figure: Figure, head: Points) -> None:
    strength = {"smiling": 0.42, "surprised": 0.3, "sad": 0.22}.get(figure.character.expression, 0.14)
    colour = blend(figure.skin, (240, 96, 96), strength)
    centres = [(0.42, 0.62)] if figure.profile else figure.warp(np.array([(-0.62, 0.6), (0.62, 0.6)])).tolist()
    figure.pen.clip(head, [arc((cx, cy), (0.21, 0.115)) for cx, cy in centres], colour)


def _ears(figure: Figure) -> None:
    places = {"front": ((-1.0, 0.28), (1.0, 0.28)), "three-quarter": ((-0.93, 0.3),), "side": ()}
    for x, y in places[figure.character.view]:
        figure.pen.oval((x, y), (0.17, 0.27), figure.skin)
        figure.pen.oval((x * 1.02, y), (0.08, 0.15), figure.pen.shadow(figure.skin), 0)


def _side_ear(figure: Figure) -> None:
    pen = figure.pen
    pen.oval((-0.16, 0.28), (0.19, 0.28), figure.skin, 0.8)
    pen.stroke(
        [(-0.08, 0.14), (-0.22, 0.2), (-0.2, 0.36), (-0.1, 0.42)], pen.shadow(figure.skin, 1.5), (0.03, 0.05, 0.03)
    )


def draw_face(figure: Figure, hair_shadow: list[Points]) -> None:
    """Head and face without brows; `hair_shadow` are the shapes of the front hair, whose shadow falls on the face."""
    pen, head = figure.pen, head_outline(figure)
    _ears(figure)
    pen.shape(head, figure.skin)
    shade = pen.shadow(figure.skin)
    if pen.bold and not figure.profile:  # cel shading: a hard-edged shadow along the cheek away from the light
        cheek = head * np.array([0.9, 0.98]) + np.array([-0.14, -0.03])
        pen.clip(head, [np.concatenate([head[:1] * 3, arc((0, 0.2), (3, 3), 0, 360, 17), head[:1] * 3])], shade)
        pen.clip(head, [cheek], figure.skin)
    _blush(figure, head)
    pen.clip(head, [shape + np.array([0.03, 0.15]) for shape in hair_shadow], shade)
    if figure.profile:
        _side_ear(figure)
    mood = _EXPRESSIONS[figure.character.expression]
    for centre, width, outer in _eye_places(figure):
        _eye(figure, centre, width * figure.proportions.eye, outer, mood)
    _nose(figure)
    _mouth(figure)


def draw_whiskers(figure: Figure) -> None:
    """Three dark strokes on each cheek: a feature of the held-out style."""
    for side in (1,) if figure.profile else (-1, 1):
        for row in range(3):
            if figure.profile:
                start, end = (0.1, 0.5 + 0.19 * row), (0.48, 0.56 + 0.13 * row)
                curve = np.array([start, end])
            else:
                start, end = (side * 0.52, 0.6 + 0.13 * row), (side * 0.92, 0.5 + 0.2 * row)
                curve = figure.warp(np.array([start, end]), 1.05)
            figure.pen.stroke(curve, (34, 14, 14), (0.05, 0.09, 0.075))
