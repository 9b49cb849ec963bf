"""Drawing of a whole body: torso, arms with hands, legs with shoes, in four poses."""

import math
from dataclasses import dataclass

import numpy as np

from naruto_core.mini.pretraining.figure import Figure
from naruto_core.mini.pretraining.geometry import Points, smooth
from naruto_core.mini.pretraining.pen import Colour, blend


@dataclass(frozen=True, slots=True)
class Pose:
    """Angles in degrees (0 down, 90 to the right) of upper and lower limb, and the lift over the ground in legs."""

    right_arm: tuple[float, float]
    left_arm: tuple[float, float]
    right_leg: tuple[float, float]
    left_leg: tuple[float, float]
    lift: float = 0.0


POSES: dict[str, Pose] = {
    "standing": Pose((16, 6), (-16, -6), (5, 2), (-5, -2)),
    "fighting": Pose((72, 128), (-48, 72), (34, 6), (-38, -14)),
    "running": Pose((58, 138), (-62, -8), (52, -12), (-30, -82), 0.04),
    "jumping": Pose((128, 160), (-128, -160), (38, -22), (-36, -74), 0.14),
}
# From the side both arms hang from one shoulder, so that poses open less.
_SIDE: dict[str, Pose] = {
    "standing": Pose((8, 12), (-10, -4), (5, 2), (-4, -4)),
    "fighting": Pose((62, 108), (80, 150), (40, 4), (-34, -18)),
    "running": Pose((54, 132), (-62, -4), (58, -8), (-30, -88), 0.04),
    "jumping": Pose((140, 160), (104, 140), (52, -30), (-8, -78), 0.14),
}


@dataclass(frozen=True, slots=True)
class Joints:
    """A limb from its root over elbow or knee to hand or foot, in head radii."""

    root: tuple[float, float]
    middle: tuple[float, float]
    end: tuple[float, float]

    def curve(self) -> Points:
        return smooth([self.root, self.middle, self.end], closed=False, steps=7)


def _joints(root: tuple[float, float], length: float, angles: tuple[float, float]) -> Joints:
    (a, b), half = (math.radians(angle) for angle in angles), length / 2
    middle = (root[0] + half * math.sin(a), root[1] + half * math.cos(a))
    return Joints(root, middle, (middle[0] + half * math.sin(b), middle[1] + half * math.cos(b)))


def pose_of(figure: Figure) -> Pose:
    return (_SIDE if figure.profile else POSES)[figure.character.pose]


def hip_height(figure: Figure) -> float:
    return figure.proportions.neck + figure.proportions.torso


def _width(figure: Figure) -> float:
    return figure.proportions.shoulders * (0.72 if figure.profile else 1 - 0.4 * figure.turn)


def _hand(figure: Figure, arm: Joints, skin: Colour) -> None:
    """A fist with a thumb and two lines between fingers."""
    pen, size = figure.pen, 0.46 * figure.proportions.limb
    dx, dy = arm.end[0] - arm.middle[0], arm.end[1] - arm.middle[1]
    length = math.hypot(dx, dy) or 1.0
    dx, dy = dx / length, dy / length
    x, y = arm.end[0] + dx * size * 0.5, arm.end[1] + dy * size * 0.5
    thumb = 1 if figure.profile or arm.end[0] < 0 else -1
    pen.oval((x - dy * size * 0.75 * thumb, y + dx * size * 0.75 * thumb), (size * 0.42, size * 0.42), skin, 0.7)
    pen.oval((x, y), (size, size), skin, 0.8)
    for shift in (-0.2, 0.3):
        line = [(x - dy * size * shift + dx * size * s, y + dx * size * shift + dy * size * s) for s in (0.25, 0.95)]
        pen.stroke(line, pen.shadow(skin, 1.6), (0.04, 0.04))


def _arm(figure: Figure, root: tuple[float, float], angles: tuple[float, float], far: bool) -> None:
    pen, p = figure.pen, figure.proportions
    arm = _joints(root, p.arm, angles)
    cloth = pen.shadow(figure.cloth) if far else figure.cloth
    skin = pen.shadow(figure.skin) if far else figure.skin
    wide = 1.35 if figure.character.garment == "kimono" else 1.0
    curve = arm.curve()
    if figure.character.garment == "shirt":
        pen.limb(curve, (p.limb * 0.62, p.limb * 0.6, p.limb * 0.5), skin)
        _hand(figure, arm, skin)
        pen.limb(curve[:6], (p.limb * 0.9, p.limb * 0.95), cloth)
        return
    sleeve = pen.limb(curve, (p.limb * 0.95, p.limb * 0.86 * wide, p.limb * 0.8 * wide * wide), cloth)
    pen.clip(sleeve, [sleeve + np.array([0.14, 0.16])], pen.shadow(cloth))
    _hand(figure, arm, skin)


def _leg(figure: Figure, root: tuple[float, float], angles: tuple[float, float], far: bool) -> None:
    pen, p = figure.pen, figure.proportions
    leg = _joints(root, p.leg, angles)
    trousers = blend(figure.cloth, pen.paint((52, 54, 84)), 0.78)
    trousers = pen.shadow(trousers) if far else trousers
    _shoe(figure, leg)
    shape = pen.limb(leg.curve(), (p.limb * 1.3, p.limb * 1.12, p.limb * 0.9), trousers)
    pen.clip(shape, [shape + np.array([0.2, 0.1])], pen.shadow(trousers))


def _shoe(figure: Figure, leg: Joints) -> None:
    """A dark shoe with a light sole; it points to where the figure looks, or outwards."""
    pen, size = figure.pen, figure.proportions.limb
    x, y = leg.end
    lean = math.degrees(math.atan2(leg.end[0] - leg.middle[0], leg.end[1] - leg.middle[1]))
    outwards = 1 if figure.profile or figure.turn else (1 if leg.root[0] > 0 else -1)
    reach = 1.05 if figure.profile or figure.character.pose == "running" else 0.75
    table = ((-0.5, -0.25), (0.4, -0.3), (reach, 0.1), (reach + 0.05, 0.42, 1), (-0.55, 0.42, 1))
    c, s = math.cos(math.radians(-lean * 0.8)), math.sin(math.radians(-lean * 0.8))
    local = smooth(table) * np.array([outwards * size, size])
    shoe = np.stack([x + local[:, 0] * c - local[:, 1] * s, y + local[:, 0] * s + local[:, 1] * c], axis=1)
    pen.shape(shoe, pen.paint((58, 56, 74)))


def _torso(figure: Figure) -> Points:
    p, width = figure.proportions, _width(figure)
    top, hips, w = p.neck - 0.06, hip_height(figure), width
    low = hips + (0.0 if figure.character.garment == "kimono" else 0.22)
    half = [
        (0.34 * w, top - 0.06),
        (0.8 * w, top + 0.1),
        (w, top + 0.42),
        (0.82 * w, (top + hips) / 2),
        (0.86 * w, low),
    ]
    return smooth([*half, *((-x, y, 1) if y >= low else (-x, y) for x, y in reversed(half))])


def _details(figure: Figure, shape: Points) -> None:
    """Collar, zip, lapels or cords, and the belt, at the scale of a whole body."""
    pen, p, cloth = figure.pen, figure.proportions, figure.cloth
    base, hips, w = p.neck, hip_height(figure), _width(figure)
    x = 0.32 * w if figure.profile else figure.turn * 0.7
    line, light = blend(cloth, pen.ink(cloth), 0.85), pen.light(cloth, 1.4)
    match figure.character.garment:
        case "jacket":
            pen.stroke([(x, base + 0.1), (x * 1.2, (base + hips) / 2), (x, hips + 0.2)], line, (0.22, 0.22))
            pen.stroke([(x, base + 0.1), (x * 1.2, (base + hips) / 2), (x, hips + 0.2)], (226, 228, 234), (0.11, 0.11))
            collar = [
                (x - 0.5 * w, base - 0.22),
                (x, base + 0.28),
                (x + 0.5 * w, base - 0.22),
                (x + 0.44 * w, base + 0.2),
                (x, base + 0.56),
                (x - 0.44 * w, base + 0.2),
            ]
            pen.shape(collar, blend(cloth, (28, 30, 48), 0.6))
        case "kimono":
            for points in (
                ((x + 0.32, base - 0.1), (x - 0.1, base + 0.62)),
                ((x - 0.36, base - 0.1), (x, base + 0.5), (x + 0.5 * w, hips - 0.5)),
            ):
                pen.stroke(points, line, (0.3, 0.3))
                pen.stroke(
                    points, light if figure.character.garment_colour != "white" else (120, 134, 172), (0.17, 0.17)
                )
        case "hoodie":
            pen.shape(
                smooth(
                    (
                        (x - 0.56 * w, base - 0.2),
                        (x, base + 0.34),
                        (x + 0.56 * w, base - 0.2),
                        (x + 0.4 * w, base + 0.42),
                        (x - 0.4 * w, base + 0.42),
                    )
                ),
                pen.shadow(cloth),
            )
            for side in (-0.17, 0.17):
                pen.stroke([(x + side, base + 0.42), (x + side, base + 0.95)], (244, 244, 244), (0.09, 0.09))
            pocket = [
                (x - 0.4 * w, hips - 0.62),
                (x + 0.4 * w, hips - 0.62),
                (x + 0.56 * w, hips - 0.1),
                (x - 0.56 * w, hips - 0.1),
            ]
            pen.clip(shape, [np.array(pocket)], pen.shadow(cloth, 0.8))
        case _:
            pen.clip(
                shape, [smooth(((x - 0.4 * w, base - 0.3), (x + 0.4 * w, base - 0.3), (x, base + 0.34)))], figure.skin
            )
    belt = pen.paint((96, 70, 52)) if figure.character.garment != "kimono" else pen.shadow(cloth, 2.0)
    height = 0.2 if figure.character.garment != "kimono" else 0.5
    y = hips + 0.1 if figure.character.garment != "kimono" else hips - 0.3
    band = [(-3, y - height), (3, y - height), (3, y), (-3, y)]
    if figure.character.garment in ("kimono", "shirt"):
        pen.clip(shape, [np.array(band)], belt)


def _skirt(figure: Figure, pose: Pose) -> None:
    """The lower half of a kimono."""
    pen, p, w = figure.pen, figure.proportions, _width(figure)
    hips, spread = hip_height(figure), 0.012 * (pose.right_leg[0] - pose.left_leg[0])
    low = hips + p.leg * (0.62 if figure.character.pose == "standing" else 0.42)
    skirt = [(0.8 * w, hips - 0.1), ((1.05 + spread) * w, low), (-(1.05 + spread) * w, low), (-0.8 * w, hips - 0.1)]
    pen.shape(skirt, figure.cloth)
    pen.clip(
        np.array(skirt),
        [np.array([(0.3 * w, hips), (3, hips), (3, low + 1), (0.5 * w, low + 1)])],
        pen.shadow(figure.cloth),
    )
    pen.stroke([(0.1 * w, hips), (0.34 * w, low)], blend(figure.cloth, pen.ink(figure.cloth), 0.8), (0.06, 0.06))


def draw_body(figure: Figure) -> None:
    """Everything below the neck of a full body picture."""
    pen, p, pose = figure.pen, figure.proportions, pose_of(figure)
    w, hips, shoulder_y = _width(figure), hip_height(figure), p.neck + 0.34
    hip_x = w * (0.16 if figure.profile else 0.46)
    shoulder_x = 0.0 if figure.profile else w * 0.9
    if figure.profile:
        _arm(figure, (-shoulder_x, shoulder_y), pose.left_arm, far=True)
    _leg(figure, (-hip_x, hips), pose.left_leg, far=figure.profile)
    _leg(figure, (hip_x, hips), pose.right_leg, far=False)
    if figure.character.garment == "kimono":
        _skirt(figure, pose)
    shape = _torso(figure)
    pen.shape(shape, figure.cloth)
    pen.clip(shape, [shape * np.array([0.6, 1.0]) + np.array([0.72 * w, 0.05])], pen.shadow(figure.cloth))
    _details(figure, shape)
    if not figure.profile:
        _arm(figure, (-shoulder_x, shoulder_y), pose.left_arm, far=False)
    _arm(figure, (shoulder_x, shoulder_y), pose.right_arm, far=False)


def ground_height(figure: Figure) -> float:
    """Head radii from the middle of the head to the soles of a figure that stands."""
    return hip_height(figure) + figure.proportions.leg + 0.42 * figure.proportions.limb
