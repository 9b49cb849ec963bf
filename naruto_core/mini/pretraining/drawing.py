"""Draw a `Scene` of the drawn world as a picture in its style."""

from random import Random

from PIL import Image

from naruto_core.mini.pretraining.body import POSES, draw_body, ground_height, pose_of
from naruto_core.mini.pretraining.clothing import draw_garment, draw_neck
from naruto_core.mini.pretraining.face import draw_brows, draw_face, draw_whiskers
from naruto_core.mini.pretraining.figure import PROPORTIONS, make_figure
from naruto_core.mini.pretraining.geometry import Point
from naruto_core.mini.pretraining.hair import draw_back_hair, draw_front_hair, front_hair
from naruto_core.mini.pretraining.headband import draw_headband, draw_knot
from naruto_core.mini.pretraining.landscape import Backdrop
from naruto_core.mini.pretraining.pen import Pen
from naruto_core.mini.pretraining.styles import finish
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE, INKED_STYLE, Character, Scene

SIZE = 128  # pixels on a side of a finished picture


def _draw_character(pen: Pen, character: Character, full_body: bool, insignia: bool, rng: Random) -> None:
    """Draw `character` with `pen`, whose origin is the middle of the head; `insignia`: whiskers and headband."""
    figure = make_figure(pen, character, rng)
    hair = front_hair(figure)
    if character.cut in ("long", "bob"):
        draw_back_hair(figure)
    draw_neck(figure)
    (draw_body if full_body else draw_garment)(figure)
    if character.cut in ("bun", "twin tails"):
        draw_back_hair(figure)
    if insignia:
        draw_knot(figure)
    draw_face(figure, [hair])
    if insignia:
        draw_whiskers(figure)
    draw_front_hair(figure, hair)
    draw_brows(figure)
    if insignia:
        draw_headband(figure)


def _placement(scene: Scene, index: int, rng: Random) -> tuple[Point, float]:
    """(origin, head radius) in 128ths of the picture for character `index` of `scene`."""
    if len(scene.characters) == 2:
        x, y, radius = (34, 94)[index], 66, 19.0
    else:
        x, y, radius = {"close-up": (64, 68, 39.0), "portrait": (64, 58.5, 27.5)}.get(scene.framing, (64, 30, 12.0))
    if scene.framing == "full body":
        build = PROPORTIONS[scene.characters[index].build]
        soles = build.neck + build.torso + build.leg + 0.42 * build.limb
        top = 1.95 if scene.characters[index].cut in ("spiky", "bun") else 1.35
        radius = 116 / (soles + top + POSES[scene.characters[index].pose].lift * build.leg)
        y = 122 - radius * soles
    character = scene.characters[index]
    if character.view == "side" and len(scene.characters) == 1:
        x -= 0.16 * radius * _flip(character)  # the face, not the head, is in the middle
    shifted = (x + rng.uniform(-3, 3), y + rng.uniform(-1, 1))
    return shifted, radius * (1 + rng.uniform(-0.06, 0.04))


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
            pen = _on_ground(pen, character, backdrop)
        _draw_character(pen, character, scene.framing == "full body", scene.style == HELD_OUT_STYLE, rng)
    backdrop.weather(canvas)
    return finish(canvas, scene.style, size, rng)


def _on_ground(pen: Pen, character: Character, backdrop: Backdrop) -> Pen:
    """`pen` lifted as the pose asks, and the figure's shadow on the ground."""
    figure = make_figure(pen, character, Random(0))
    ground = pen.origin[1] + ground_height(figure) * pen.unit
    backdrop.shadow(pen.origin[0], ground, 1.9 * pen.unit)
    lift = pose_of(figure).lift * figure.proportions.leg * pen.unit
    return Pen(pen.image, (pen.origin[0], pen.origin[1] - lift), pen.unit, pen.bold, pen.line, pen.flip)
