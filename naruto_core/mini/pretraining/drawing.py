"""Draw a `Scene` of the drawn world as a picture in its style."""

from random import Random

import numpy as np
from PIL import Image, ImageFilter

from naruto_core.mini.pretraining.character import draw_character
from naruto_core.mini.pretraining.landscape import Backdrop
from naruto_core.mini.pretraining.pen import Pen, Point
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE, INKED_STYLE, Scene

SIZE = 128  # pixels on a side of a finished picture


def _pens(scene: Scene, size: int, rng: Random) -> list[tuple[Point, float]]:
    """(origin, head radius) in pixels for every character of `scene`."""
    unit = size / 64

    def around(x: float, y: float, radius: float) -> tuple[Point, float]:
        shifted = ((x + rng.uniform(-2, 2)) * unit, (y + rng.uniform(-1.5, 1.5)) * unit)
        return shifted, (radius + rng.uniform(-0.06, 0.06) * radius) * unit

    if len(scene.characters) == 2:
        return [around(18, 30, 9.5), around(46, 30, 9.5)]
    match scene.framing:
        case "close-up":
            return [around(32, 33, 18.5)]
        case "full body":
            return [around(32, 15, 6.6)]
        case _:
            return [around(32, 29, 13.0)]


def draw(scene: Scene, rng: Random, size: int = SIZE) -> Image.Image:
    """`scene` as an RGB picture of `size` x `size` pixels."""
    bold = scene.style in (HELD_OUT_STYLE, INKED_STYLE)
    backdrop = Backdrop(scene.place, size, bold, rng)
    canvas = backdrop.paint()
    for (origin, radius), character in zip(_pens(scene, size, rng), scene.characters, strict=True):
        pen = Pen(backdrop.draw, origin, radius, bold)
        draw_character(pen, character, scene.framing == "full body", scene.style == HELD_OUT_STYLE, rng)
    if scene.place == "rain":
        backdrop.rain_in_front(canvas)
    if scene.style == "sketch":
        return _sketch(canvas, size)
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return _finish(picture, scene.style, rng)


def _finish(picture: Image.Image, style: str, rng: Random) -> Image.Image:
    match style:
        case "pixel":
            return _pixel(picture)
        case "watercolor":
            return _watercolor(picture, rng)
        case _:
            return picture


def _sketch(canvas: Image.Image, size: int) -> Image.Image:
    """Pencil: soft dark edges on warm paper, with pale colours."""
    fine = canvas.resize((2 * size, 2 * size), Image.Resampling.LANCZOS)
    edges = np.asarray(fine.convert("L").filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    edges[[0, 1, -2, -1], :] = 0  # the filter finds an edge at the border of the picture
    edges[:, [0, 1, -2, -1]] = 0
    pencil = np.clip(1 - edges / 110, 0.25, 1)[..., None]
    paper = np.array([250, 247, 238], dtype=np.float32)
    washed = 0.42 * np.asarray(fine, dtype=np.float32) + 0.58 * paper
    drawn = Image.fromarray((washed * pencil).clip(0, 255).astype(np.uint8))
    return drawn.resize((size, size), Image.Resampling.LANCZOS)


def _pixel(picture: Image.Image) -> Image.Image:
    """Half the resolution and 20 colours; a quarter would hide the face."""
    half = (picture.width // 2, picture.height // 2)
    coarse = picture.resize(half, Image.Resampling.BOX).quantize(20, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return coarse.convert("RGB").resize(picture.size, Image.Resampling.NEAREST)


def _watercolor(picture: Image.Image, rng: Random) -> Image.Image:
    """Watercolour: soft edges, blotches, a white paper margin."""
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(picture.width / 52)), dtype=np.float32)
    blotches = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 1, (9, 9)).astype(np.float32)
    pooled = Image.fromarray(blotches).resize(picture.size, Image.Resampling.BICUBIC)
    wash = soft + np.asarray(pooled)[..., None] * 16 + 14
    rows, columns = np.indices(wash.shape[:2])
    edge = np.minimum.reduce([rows, columns, wash.shape[0] - 1 - rows, wash.shape[1] - 1 - columns])
    margin = np.clip((edge - 1 + np.asarray(pooled) * 1.5) / 4, 0, 1)[..., None]
    return Image.fromarray((wash * margin + 252 * (1 - margin)).clip(0, 255).astype(np.uint8))
