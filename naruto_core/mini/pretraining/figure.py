"""A figure: a character with its colours, proportions and turn, as its parts are drawn."""

from dataclasses import dataclass
from random import Random

import numpy as np

from naruto_core.mini.pretraining.geometry import Points
from naruto_core.mini.pretraining.pen import Colour, Pen, jitter
from naruto_core.mini.pretraining.world import Character

_HAIR_PAINT: dict[str, Colour] = {
    "blond": (250, 208, 72),
    "red": (206, 52, 40),
    "black": (44, 42, 56),
    "pink": (246, 142, 184),
    "white": (234, 234, 242),
    "blue": (62, 104, 214),
    "green": (66, 160, 88),
    "brown": (128, 82, 50),
}
_EYE_PAINT: dict[str, Colour] = {
    "blue": (38, 120, 232),
    "green": (32, 168, 78),
    "red": (218, 28, 36),
    "brown": (136, 82, 40),
    "purple": (148, 66, 208),
    "black": (36, 34, 44),
}
_GARMENT_PAINT: dict[str, Colour] = {
    "orange": (244, 130, 32),
    "blue": (50, 88, 196),
    "red": (198, 40, 48),
    "green": (58, 142, 76),
    "black": (50, 48, 58),
    "white": (234, 234, 238),
    "purple": (128, 64, 176),
    "yellow": (242, 210, 66),
}
_SKIN_PAINT: tuple[Colour, ...] = ((254, 226, 196), (244, 204, 164), (212, 160, 118), (156, 108, 76))


@dataclass(frozen=True, slots=True)
class Proportions:
    """The proportions of a build: widths and lengths in head radii, `jaw` and `chin` relative to the average."""

    jaw: float
    chin: float
    eye: float
    shoulders: float  # half the width
    neck: float  # y of its base
    torso: float
    arm: float
    leg: float
    limb: float  # thickness


PROPORTIONS: dict[str, Proportions] = {
    "child": Proportions(1.04, 0.92, 1.12, 0.80, 1.30, 1.55, 1.75, 1.95, 0.50),
    "average": Proportions(1.0, 1.0, 1.0, 1.02, 1.42, 2.15, 2.45, 3.45, 0.56),
    "tall": Proportions(0.95, 1.08, 0.94, 1.18, 1.55, 2.7, 3.1, 4.7, 0.60),
}

_TURN = {"front": 0.0, "three-quarter": 0.30, "side": 0.0}


@dataclass(frozen=True, slots=True)
class Figure:
    """What the parts of a character are drawn from. A figure looks to the right; the pen mirrors it."""

    pen: Pen
    character: Character
    proportions: Proportions
    hair: Colour
    skin: Colour
    eyes: Colour
    cloth: Colour
    rng: Random

    @property
    def turn(self) -> float:
        """How far the middle of the face is from the middle of the head, in head radii."""
        return _TURN[self.character.view]

    @property
    def profile(self) -> bool:
        return self.character.view == "side"

    def warp(self, points: Points, radius: float = 1.2, share: float = 1.0) -> Points:
        """`points` on the front of a ball of `radius` moved by the figure's turn; the ball's edge stays."""
        if not self.turn:
            return points
        x = points[:, 0]
        moved = x + share * self.turn * np.maximum(0.0, 1 - (x / radius) * (x / radius))
        return np.stack([moved, points[:, 1]], axis=1)

    def lower_face(self, points: Points) -> Points:
        """`points` of the average face with the jaw and chin of the figure's build."""
        below = np.maximum(0.0, points[:, 1] - 0.1)
        width = 1 + (self.proportions.jaw - 1) * np.minimum(1.0, below * 1.5)
        return np.stack([points[:, 0] * width, points[:, 1] + below * (self.proportions.chin - 1)], axis=1)


def _spread(colour: str) -> float:
    """How much a colour varies: less for black and white, which would get a tint."""
    return 2.5 if colour in ("black", "white") else 7.0


def make_figure(pen: Pen, character: Character, rng: Random) -> Figure:
    return Figure(
        pen=pen,
        character=character,
        proportions=PROPORTIONS[character.build],
        hair=pen.paint(jitter(_HAIR_PAINT[character.hair], rng, _spread(character.hair))),
        skin=pen.paint(jitter(_SKIN_PAINT[character.skin], rng, 4)),
        eyes=pen.paint(jitter(_EYE_PAINT[character.eyes], rng, 5)),
        cloth=pen.paint(jitter(_GARMENT_PAINT[character.garment_colour], rng, _spread(character.garment_colour))),
        rng=rng,
    )
