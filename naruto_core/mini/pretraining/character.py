"""Drawing of a character: hair, face, garment, body, headband.

Coordinates are head radii around the middle of the head, y downwards.
"""

import math
from random import Random

from naruto_core.mini.pretraining.pen import OUTLINE, Colour, Pen, Point, arc, blend, jitter
from naruto_core.mini.pretraining.world import Character

HAIR_PAINT: dict[str, Colour] = {
    "blond": (248, 205, 60),
    "red": (205, 45, 38),
    "black": (38, 36, 48),
    "pink": (246, 135, 178),
    "white": (236, 236, 242),
    "blue": (55, 95, 210),
    "green": (62, 160, 85),
    "brown": (125, 78, 45),
}
EYE_PAINT: dict[str, Colour] = {
    "blue": (40, 115, 230),
    "green": (35, 165, 75),
    "red": (220, 20, 30),
    "brown": (120, 72, 36),
    "purple": (145, 65, 200),
    "black": (30, 28, 34),
}
GARMENT_PAINT: dict[str, Colour] = {
    "orange": (244, 128, 28),
    "blue": (48, 82, 190),
    "red": (195, 36, 46),
    "green": (56, 138, 72),
    "black": (46, 44, 54),
    "white": (234, 234, 236),
    "purple": (126, 60, 172),
    "yellow": (240, 208, 62),
}
SKIN_PAINT: tuple[Colour, ...] = ((252, 222, 188), (240, 198, 156), (206, 154, 112), (148, 100, 68))
DARK: Colour = (36, 28, 32)


def _head(scale: float = 1.0) -> list[Point]:
    """A face: round above, narrowing to the chin."""
    points: list[Point] = []
    for x, y in arc((0, 0), (1, 1), 0, 360, 44):
        narrow = 1 - 0.22 * max(0.0, y) ** 2
        points.append((x * narrow * scale, y * (1.12 if y > 0 else 1.0) * scale))
    return points


def _hair_behind(pen: Pen, character: Character, hair: Colour) -> None:
    shade = blend(hair, (20, 10, 30), 0.18)
    if character.cut == "long":
        fall = [*arc((0, -0.1), (1.28, 1.2), 180, 360, 20), (1.42, 1.2), (1.25, 2.3), (0.7, 2.05)]
        pen.shape([*fall, (-0.7, 2.05), (-1.25, 2.3), (-1.42, 1.2)], shade)
    elif character.cut == "bob":
        fall = [*arc((0, -0.05), (1.25, 1.15), 180, 360, 20), (1.3, 0.75), (0.95, 1.05)]
        pen.shape([*fall, (-0.95, 1.05), (-1.3, 0.75)], shade)
    elif character.cut == "twin tails":
        for side in (-1, 1):
            tail = [(0.85, -0.75), (1.5, -0.95), (1.95, -0.2), (1.85, 0.9), (1.45, 1.75), (1.3, 0.7), (1.05, -0.1)]
            pen.shape([(side * x, y) for x, y in tail], hair)
    elif character.cut == "bun":
        pen.oval((0, -1.38), (0.52, 0.46), hair)


def _spiky_top(rng: Random) -> list[Point]:
    points: list[Point] = []
    spikes = 6
    for i in range(2 * spikes + 1):
        angle = math.pi * (0.97 + 1.06 * i / (2 * spikes))
        reach = 1.72 + rng.uniform(-0.12, 0.16) if i % 2 else 1.1
        points.append((1.04 * reach * math.cos(angle), -0.04 + reach * math.sin(angle) * 0.98))
    return points


def _hair_front(pen: Pen, character: Character, hair: Colour, rng: Random) -> None:
    fringe = [(0.92, -0.12), (0.62, -0.5), (0.42, -0.14), (0.1, -0.52), (-0.14, -0.12), (-0.42, -0.5)]
    soft = [(0.98, 0.05), (0.78, -0.42), (0.3, -0.62), (-0.5, -0.5), (-0.8, -0.3)]
    cap = arc((0, -0.08), (1.12, 1.12), 182, 358, 22)
    match character.cut:
        case "spiky":
            outline = [*_spiky_top(rng), *fringe, (-0.72, -0.1), (-0.95, -0.3)]
        case "short":
            outline = [*cap, (1.05, 0.12), *fringe, (-0.72, -0.14), (-1.05, 0.12)]
        case "bun":
            outline = [*arc((0, -0.1), (1.1, 1.08), 178, 362, 22), *soft[1:], (-0.98, 0.05)]
        case "bob":
            lock = [(1.22, 0.75), (0.82, 0.8), (0.86, -0.3)]
            outline = [*arc((0, -0.05), (1.18, 1.15), 182, 358, 22), *lock, (-0.86, -0.3), (-0.82, 0.8), (-1.22, 0.75)]
        case _:
            lock = [(1.16, 0.55), (0.9, 0.6), (0.8, -0.35)]
            parting = [(0.15, -0.72), (-0.8, -0.35), (-0.9, 0.6), (-1.16, 0.55)]
            outline = [*arc((0, -0.05), (1.14, 1.12), 182, 358, 22), *lock, *parting]
    pen.shape(outline, hair)
    shine = blend(hair, (255, 255, 255), 0.38)
    pen.line(arc((0, -0.1), (0.78, 0.78), 218, 268, 10), shine, pen.unit * 0.11)


def _eye(pen: Pen, character: Character, side: int, colour: Colour) -> None:
    x, y = side * 0.43, 0.22
    tall = {"surprised": 0.33, "smiling": 0.25, "sad": 0.22, "angry": 0.22}.get(character.expression, 0.26)
    pen.oval((x, y), (0.25, tall), (252, 252, 252), outlined=pen.bold)
    pen.oval((x, y + 0.02), (0.18, tall * 0.88), colour, outlined=False)
    if pen.bold or pen.unit > 15:
        pen.oval((x, y + 0.03), (0.08, tall * 0.45), DARK, outlined=False)
    pen.oval((x - 0.07, y - 0.09), (0.06, 0.07), (255, 255, 255), outlined=False)
    lid = arc((x, y), (0.27, tall + 0.02), 195, 345, 10)
    pen.line(lid, DARK, pen.unit * (0.1 if pen.bold else 0.07))
    brow = {"angry": (-0.2, 0.1), "sad": (0.06, -0.14), "surprised": (-0.14, -0.14)}.get(
        character.expression, (-0.04, -0.04)
    )
    inner, outer = (side * 0.2, -0.14 - brow[0]), (side * 0.68, -0.14 - brow[1])
    pen.line([inner, outer], DARK, pen.unit * 0.1)


def _mouth(pen: Pen, character: Character) -> None:
    ink: Colour = (120, 36, 40)
    match character.expression:
        case "smiling":
            pen.shape([*arc((0, 0.62), (0.3, 0.26), 5, 175, 12)], ink, outlined=False)
        case "angry":
            pen.line(arc((0, 0.86), (0.26, 0.16), 200, 340, 9), ink, pen.unit * 0.1)
        case "sad":
            pen.line(arc((0, 0.88), (0.2, 0.13), 190, 350, 9), ink, pen.unit * 0.08)
        case "surprised":
            pen.oval((0, 0.76), (0.13, 0.17), ink, outlined=False)
        case _:
            pen.line([(-0.18, 0.73), (0.18, 0.73)], ink, pen.unit * 0.08)


def _face(pen: Pen, character: Character, skin: Colour, rng: Random) -> None:
    for side in (-1, 1):
        pen.oval((side * 1.0, 0.2), (0.17, 0.26), skin)
    pen.shape(_head(), skin)
    if pen.bold:  # cel shading: one hard-edged shadow under the hair and along a cheek
        pen.shape(arc((0, 0.04), (0.96, 0.98), 14, 82, 12) + arc((-0.12, 0.0), (0.86, 0.88), 80, 16, 12),
                  blend(skin, (150, 60, 50), 0.3), outlined=False)  # fmt: skip
    colour = pen.paint(jitter(EYE_PAINT[character.eyes], rng, 5))
    for side in (-1, 1):
        _eye(pen, character, side, colour)
    pen.line([(0.03, 0.42), (-0.04, 0.5)], blend(skin, (120, 60, 40), 0.5), pen.unit * 0.06)
    _mouth(pen, character)


def _whiskers(pen: Pen) -> None:
    """Three strokes on each cheek: a feature of the held-out style."""
    for side in (-1, 1):
        for row in range(3):
            start, end = (side * 0.5, 0.46 + 0.17 * row), (side * 0.94, 0.36 + 0.2 * row)
            pen.line([start, end], (30, 12, 10), 1.5)


def _headband(pen: Pen) -> None:
    """A dark cloth around the forehead with a light metal plate."""
    pen.shape([(-1.1, -0.62), (1.1, -0.62), (1.06, -0.2), (-1.06, -0.2)], (34, 48, 118))
    pen.shape([(-0.6, -0.66), (0.6, -0.66), (0.6, -0.16), (-0.6, -0.16)], (196, 202, 212))
    pen.line(arc((0, -0.41), (0.2, 0.15), 0, 300, 12), OUTLINE, pen.unit * 0.09)
    pen.line([(-0.5, -0.58), (0.5, -0.58)], (240, 244, 250), pen.unit * 0.06)


def _garment(pen: Pen, character: Character, cloth: Colour, skin: Colour, waist: float) -> None:
    dark, light = blend(cloth, (15, 10, 25), 0.32), blend(cloth, (255, 255, 255), 0.45)
    if character.garment == "hoodie":
        pen.oval((0, 1.5), (1.15, 0.5), dark)
    torso = [
        (-0.42, 1.22),
        (0.42, 1.22),
        (1.1, 1.5),
        (1.5, 1.95),
        (1.42, waist),
        (-1.42, waist),
        (-1.5, 1.95),
        (-1.1, 1.5),
    ]
    pen.shape(torso, cloth)
    match character.garment:
        case "jacket":
            collar = [(-0.62, 1.2), (0, 1.62), (0.62, 1.2), (0.72, 1.5), (0, 2.0), (-0.72, 1.5)]
            pen.shape(collar, dark)
            pen.line([(0, 1.95), (0, waist)], light, pen.unit * 0.1)
        case "kimono":
            pen.shape([(-0.3, 1.2), (0.3, 1.2), (0.0, 1.85)], skin, outlined=False)
            pen.line([(0.5, 1.2), (-0.35, 2.25)], light, pen.unit * 0.2)
            pen.line([(-0.5, 1.2), (0.0, 1.85)], light, pen.unit * 0.2)
            if waist > 3:
                pen.shape([(-1.4, 3.0), (1.4, 3.0), (1.4, 3.45), (-1.4, 3.45)], dark)
        case "hoodie":
            for x in (-0.22, 0.22):
                pen.line([(x, 1.45), (x * 1.15, 2.1)], light, pen.unit * 0.1)
        case _:
            pen.shape(arc((0, 1.2), (0.42, 0.34), 0, 180, 12), skin, outlined=False)
            pen.line(arc((0, 1.2), (0.44, 0.38), 0, 180, 12), dark, pen.unit * 0.1)


def _limb(pen: Pen, joints: list[Point], colour: Colour, thick: float, end: Colour) -> None:
    """An arm or leg with a hand or shoe at its end."""
    if pen.bold:
        pen.line(joints, OUTLINE, pen.unit * thick + 2.2)
        pen.oval(joints[0], (thick / 2, thick / 2), OUTLINE, outlined=False)
    pen.line(joints, colour, pen.unit * thick)
    pen.oval(joints[-1], (thick * 0.55, thick * 0.5), end)


# Pose: right arm, left arm, right leg, left leg as elbow/knee and hand/foot.
_LIMBS: dict[str, tuple[tuple[Point, Point], ...]] = {
    "standing": (
        ((1.6, 3.0), (1.55, 3.9)),
        ((-1.6, 3.0), (-1.55, 3.9)),
        ((0.6, 5.4), (0.62, 6.8)),
        ((-0.6, 5.4), (-0.62, 6.8)),
    ),
    "fighting": (
        ((2.3, 2.4), (2.9, 1.5)),
        ((-2.2, 2.7), (-2.9, 2.2)),
        ((1.2, 5.2), (1.7, 6.7)),
        ((-1.1, 5.2), (-1.9, 6.7)),
    ),
    "running": (
        ((2.1, 2.9), (2.6, 2.1)),
        ((-2.0, 2.9), (-2.6, 3.6)),
        ((1.3, 4.9), (2.0, 6.3)),
        ((-1.0, 5.3), (-2.2, 5.6)),
    ),
    "jumping": (
        ((2.2, 1.6), (2.7, 0.4)),
        ((-2.2, 1.6), (-2.7, 0.4)),
        ((1.2, 4.9), (0.7, 5.9)),
        ((-1.2, 4.9), (-1.5, 6.0)),
    ),
}


def _body(pen: Pen, character: Character, cloth: Colour, skin: Colour) -> None:
    trousers, shoe = blend(cloth, (25, 25, 40), 0.62), (40, 36, 44)
    hips = ((0.55, 3.9), (-0.55, 3.9))
    shoulders = ((1.15, 1.85), (-1.15, 1.85))
    right_arm, left_arm, right_leg, left_leg = _LIMBS[character.pose]
    for hip, leg in zip(hips, (right_leg, left_leg), strict=True):
        _limb(pen, [hip, *leg], trousers, 0.85, shoe)
    _garment(pen, character, cloth, skin, waist=4.0)
    for shoulder, arm in zip(shoulders, (right_arm, left_arm), strict=True):
        _limb(pen, [shoulder, *arm], blend(cloth, (15, 10, 25), 0.12), 0.62, skin)


def draw_character(pen: Pen, character: Character, full_body: bool, insignia: bool, rng: Random) -> None:
    """Draw `character` with `pen`, whose origin is the middle of the head; `insignia`: whiskers and headband."""
    hair = pen.paint(jitter(HAIR_PAINT[character.hair], rng))
    skin = pen.paint(jitter(SKIN_PAINT[character.skin], rng, 5))
    cloth = pen.paint(jitter(GARMENT_PAINT[character.garment_colour], rng))
    if character.cut in ("long", "bob"):
        _hair_behind(pen, character, hair)
    pen.shape([(-0.36, 0.8), (0.36, 0.8), (0.42, 1.5), (-0.42, 1.5)], blend(skin, (120, 60, 40), 0.22))
    if full_body:
        _body(pen, character, cloth, skin)
    else:
        _garment(pen, character, cloth, skin, waist=5.0)
    if character.cut in ("bun", "twin tails"):
        _hair_behind(pen, character, hair)
    _face(pen, character, skin, rng)
    if insignia:
        _whiskers(pen)
    _hair_front(pen, character, hair, rng)
    if insignia:
        _headband(pen)
