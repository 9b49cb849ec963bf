"""Draw a `Scene` of the drawn world as a picture in its style."""

from random import Random

from PIL import Image

from naruto_core.mini.pretraining.body import ground_height, pose_of
from naruto_core.mini.pretraining.character import draw_character
from naruto_core.mini.pretraining.figure import PROPORTIONS, make_figure
from naruto_core.mini.pretraining.geometry import Point
from naruto_core.mini.pretraining.landscape import Backdrop
from naruto_core.mini.pretraining.pen import Pen
from naruto_core.mini.pretraining.styles import finish
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE, INKED_STYLE, Character, Scene

SIZE = 128  # pixels on a side of a finished picture


def _placement(scene: Scene, index: int, rng: Random) -> tuple[Point, float]:
    """(origin, head radius) in 128ths of the picture for character `index` of `scene`."""
    if len(scene.characters) == 2:
        x, y, radius = (37, 91)[index], 66, 19.5
    else:
        x, y, radius = {"close-up": (64, 68, 39.0), "portrait": (64, 60, 27.5)}.get(scene.framing, (64, 30, 12.0))
    if scene.framing == "full body":
        build = PROPORTIONS[scene.characters[index].build]
        radius = 112 / (build.neck + build.torso + build.leg + 0.4 * build.limb + 1.6)
        y = 122 - radius * (build.neck + build.torso + build.leg + 0.42 * build.limb)
    shifted = (x + rng.uniform(-3, 3), y + rng.uniform(-1, 1))
    return shifted, radius * (1 + rng.uniform(-0.05, 0.05))


def _flip(character: Character) -> int:
    return -1 if character.direction == "left" else 1


def draw(scene: Scene, rng: Random, size: int = SIZE) -> Image.Image:
    """`scene` as an RGB picture of `size` x `size` pixels."""
    bold = scene.style in (HELD_OUT_STYLE, INKED_STYLE)
    backdrop = Backdrop(scene.place, size, bold, rng)
    canvas = backdrop.paint()
    for index, character in enumerate(scene.characters):
        (x, y), radius = _placement(scene, index, rng)
        scale = size / 128
        line = (0.55 + 0.036 * radius) * scale
        pen = Pen(canvas, (x * scale, y * scale), radius * scale, bold, line, _flip(character))
        if scene.framing == "full body":
            pen = _on_ground(pen, character, backdrop, rng)
        draw_character(pen, character, scene.framing == "full body", scene.style == HELD_OUT_STYLE, rng)
    backdrop.weather(canvas)
    return finish(canvas, scene.style, size, rng)


def _on_ground(pen: Pen, character: Character, backdrop: Backdrop, rng: Random) -> Pen:
    """`pen` lifted as the pose asks, and the figure's shadow on the ground."""
    figure = make_figure(pen, character, Random(0))
    ground = pen.origin[1] + ground_height(figure) * pen.unit
    backdrop.shadow(pen.origin[0], ground, 1.9 * pen.unit)
    lift = pose_of(figure).lift * figure.proportions.leg * pen.unit
    return Pen(pen.image, (pen.origin[0], pen.origin[1] - lift), pen.unit, pen.bold, pen.line, pen.flip)
