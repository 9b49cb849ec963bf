"""Random compositions: pictures of many kinds for the VAE, none of them of the drawn world.

SDXL's VAE was trained on every kind of picture. A VAE that is trained on the drawn world only blurs what that world
lacks. So these have thin strokes, faces of another construction, hatching, writing, textures, smooth fields
as in photographs, halftones, soft and hard edges, and the artefacts of JPEG.
"""

import io
import math
from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]


def _colour(rng: Random) -> Colour:
    """Any colour; every fourth is black, white or grey, as in outlines, paper and metal."""
    if rng.random() < 0.25:
        grey = rng.choice([rng.randrange(0, 50), rng.randrange(190, 256), rng.randrange(256)])
        return grey, grey, min(255, grey + rng.randrange(12))
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _noise(numbers: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """A smooth random field (size, size) of about unit variance, with `cells` independent values on a side."""
    grid = numbers.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))


def _fractal(rng: Random, size: int) -> np.ndarray:
    """Noise of several octaves in 0..1, (size, size): the spectrum of a photograph, or rougher, or smoother."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    gain, cells = rng.uniform(0.3, 0.8), rng.choice([2, 3, 5])
    field, amplitude = np.zeros((size, size), dtype=np.float32), 1.0
    while cells <= size:
        field += amplitude * _noise(numbers, size, cells)
        cells, amplitude = cells * 2, amplitude * gain
    low, high = np.percentile(field, (2, 98))
    return np.clip((field - low) / max(float(high - low), 1e-6), 0, 1)


def _ramp(colours: list[Colour], share: np.ndarray) -> Image.Image:
    """Colours along `share` (0..1), interpolated."""
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(share, stops, [colour[i] for colour in colours]) for i in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def _flat_ground(rng: Random, size: int) -> Image.Image:
    return Image.new("RGB", (size, size), _colour(rng))


def _gradient(rng: Random, size: int) -> Image.Image:
    """Two to four colours, along a direction or around a point."""
    rows, columns = np.indices((size, size), dtype=np.float32) / size
    if rng.random() < 0.6:
        angle = rng.uniform(0, 2 * math.pi)
        share = 0.5 + (columns - 0.5) * math.cos(angle) + (rows - 0.5) * math.sin(angle)
    else:
        share = np.hypot(columns - rng.random(), rows - rng.random()) / rng.uniform(0.5, 1.2)
    return _ramp([_colour(rng) for _ in range(rng.randrange(2, 5))], np.clip(share, 0, 1))


def _clouds(rng: Random, size: int) -> Image.Image:
    """Fractal noise in a few colours: smooth, or in flat bands with hard edges."""
    field = _fractal(rng, size)
    if rng.random() < 0.4:
        levels = rng.randrange(2, 7)
        field = np.floor(field * levels * 0.999) / max(1, levels - 1)
    return _ramp([_colour(rng) for _ in range(rng.randrange(2, 6))], field)


def _photograph(rng: Random, size: int) -> Image.Image:
    """Fields with the spectrum of a photograph: light and dark in common, colours that vary more slowly."""
    light, warm = _fractal(rng, size), _fractal(rng, size)
    base, tint = np.array(_colour(rng)), np.array(_colour(rng)) - 128
    strength = rng.uniform(60, 220)
    pixels = base + strength * (light[..., None] - 0.5) + (warm[..., None] - 0.5) * tint * rng.uniform(0.3, 1.2)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _waves(rng: Random, size: int) -> Image.Image:
    """Stripes, rings or checks of a random period, with soft or hard edges, sometimes bent."""
    rows, columns = np.indices((size, size), dtype=np.float32)
    angle, period = rng.uniform(0, math.pi), 2 ** rng.uniform(1.2, 5)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    if rng.random() < 0.3:
        along = along + rng.uniform(2, 12) * (_fractal(rng, size) - 0.5)
    if rng.random() < 0.25:
        along = np.hypot(columns - rng.uniform(0, size), rows - rng.uniform(0, size))
    wave = np.sin(2 * math.pi * along / period)
    if rng.random() < 0.25:
        wave = wave * np.sin(2 * math.pi * (rows * math.cos(angle) - columns * math.sin(angle)) / period)
    return _ramp([_colour(rng), _colour(rng)], np.clip(0.5 + wave * rng.choice([0.5, 1.0, 4.0]), 0, 1))


def _halftone(rng: Random, size: int) -> Image.Image:
    """Dots on a grid, larger where a smooth field is darker."""
    rows, columns = np.indices((size, size), dtype=np.float32)
    period, angle = rng.uniform(3, 10), rng.uniform(0, math.pi / 2)
    u = (columns * math.cos(angle) + rows * math.sin(angle)) * 2 * math.pi / period
    v = (rows * math.cos(angle) - columns * math.sin(angle)) * 2 * math.pi / period
    dots = (np.cos(u) + np.cos(v)) / 4 + 0.5
    darkness = _fractal(rng, size) if rng.random() < 0.5 else np.clip(rows / size * rng.uniform(0.5, 1.5), 0, 1)
    return _ramp([_colour(rng), _colour(rng)], np.clip((darkness - dots) * period * 0.6 + 0.5, 0, 1))


_Ground = Callable[[Random, int], Image.Image]
_GROUNDS: tuple[_Ground, ...] = (_flat_ground, _gradient, _clouds, _photograph, _waves, _halftone)
_GROUND_WEIGHTS = (34, 24, 12, 14, 8, 8)


class _Sheet:
    """A drawing surface of `size` pixels, `scale` times finer while it is drawn."""

    def __init__(self, ground: Image.Image, scale: int, rng: Random) -> None:
        self.size, self.scale, self.rng = ground.width, scale, rng
        self.canvas = ground.resize((self.size * scale, self.size * scale), Image.Resampling.BICUBIC)
        self.draw = ImageDraw.Draw(self.canvas)
        self.ink = (12, 12, 18) if rng.random() < 0.65 else _colour(rng)
        self.outline = rng.choice([0.0, 0.0, 1.0, 1.3, 1.7, 2.2, 3.0, 4.0])  # pixels

    def point(self) -> Point:
        return self.rng.uniform(0, self.size), self.rng.uniform(0, self.size)

    def _placed(self, points: list[Point]) -> list[Point]:
        return [(x * self.scale, y * self.scale) for x, y in points]

    def line(self, points: list[Point], colour: Colour, width: float) -> None:
        self.draw.line(self._placed(points), fill=colour, width=max(1, round(width * self.scale)), joint="curve")

    def area(self, points: list[Point], colour: Colour, outline: float | None = None) -> None:
        self.draw.polygon(self._placed(points), fill=colour)
        width = self.outline if outline is None else outline
        if width:
            self.line([*points, points[0], points[1]], self.ink, width)

    def finished(self) -> Image.Image:
        return self.canvas.resize((self.size, self.size), Image.Resampling.LANCZOS)


def _ellipse(centre: Point, radii: Point, start: float = 0, end: float = 360, turn: float = 0) -> list[Point]:
    angles = [math.radians(start + (end - start) * i / 23) for i in range(24)]
    cos, sin = math.cos(turn), math.sin(turn)
    flat = [(radii[0] * math.cos(a), radii[1] * math.sin(a)) for a in angles]
    return [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in flat]


def _polygon(rng: Random, centre: Point, radius: float) -> list[Point]:
    """A polygon of any shape: regular, rough, star-like, flat."""
    corners, rough = rng.choice([3, 4, 5, 8, 12, 20, 30]), rng.choice([0.0, 0.1, 0.5])
    flat, turn = rng.uniform(0.4, 1.0), rng.uniform(0, 3)
    reach = [radius * (1 + rng.uniform(-rough, rough)) for _ in range(corners)]
    angles = [turn + 2 * math.pi * i / corners for i in range(corners)]
    return [
        (centre[0] + r * math.cos(a), centre[1] + flat * r * math.sin(a)) for a, r in zip(angles, reach, strict=True)
    ]


def _curve(rng: Random, start: Point, reach: float) -> list[Point]:
    """A quadratic Bezier curve from `start`."""
    middle, end = ((start[0] + rng.gauss(0, reach), start[1] + rng.gauss(0, reach)) for _ in range(2))
    steps = [i / 11 for i in range(12)]
    return [
        (
            (1 - t) ** 2 * start[0] + 2 * t * (1 - t) * middle[0] + t * t * end[0],
            (1 - t) ** 2 * start[1] + 2 * t * (1 - t) * middle[1] + t * t * end[1],
        )
        for t in steps
    ]


def _add_shape(sheet: _Sheet) -> None:
    rng = sheet.rng
    radius = rng.choice([0.03, 0.06, 0.12, 0.25, 0.4]) * sheet.size * rng.uniform(0.6, 1.5)
    sheet.area(_polygon(rng, sheet.point(), radius), _colour(rng))


def _add_strokes(sheet: _Sheet) -> None:
    """One to eight thin strokes near each other, like hair, whiskers or wrinkles."""
    rng = sheet.rng
    start, reach = sheet.point(), sheet.size * rng.choice([0.06, 0.12, 0.3])
    colour, width = (sheet.ink if rng.random() < 0.5 else _colour(rng)), rng.choice([1.0, 1.0, 1.5, 2.0, 3.0, 4.0, 7.0])
    for _ in range(rng.randrange(1, 9)):
        begin = (start[0] + rng.gauss(0, reach / 2), start[1] + rng.gauss(0, reach / 2))
        sheet.line(_curve(rng, begin, reach), colour, width)


def _add_hatching(sheet: _Sheet) -> None:
    """Parallel lines in a box, perhaps a second set across them."""
    rng, (x, y) = sheet.rng, sheet.point()
    length, gap = sheet.size * rng.uniform(0.1, 0.5), rng.uniform(2.5, 8)
    width, colour = rng.choice([1.0, 1.0, 1.5, 2.0]), _colour(rng)
    for turn in (rng.uniform(0, math.pi), rng.uniform(0, math.pi))[: rng.choice([1, 1, 2])]:
        cos, sin = math.cos(turn), math.sin(turn)
        for i in range(rng.randrange(3, 14)):
            left, top = x - i * gap * sin, y + i * gap * cos
            sheet.line([(left, top), (left + length * cos, top + length * sin)], colour, width)


def _add_writing(sheet: _Sheet) -> None:
    """Strokes in a row, similar to writing."""
    rng = sheet.rng
    colour, x, y = _colour(rng), rng.uniform(0, sheet.size * 0.6), rng.uniform(0, sheet.size * 0.9)
    height, width = rng.uniform(4, 14), rng.choice([1.0, 1.0, 1.5, 2.0])
    for _ in range(rng.randrange(3, 14)):
        points = [(x + rng.uniform(0, 0.7 * height), y + rng.uniform(0, height)) for _ in range(rng.randrange(2, 5))]
        sheet.line(points, colour, width)
        x += height * rng.uniform(0.7, 1.0)


def _add_dots(sheet: _Sheet) -> None:
    rng, largest = sheet.rng, sheet.rng.choice([1.0, 2.0, 4.0])
    colour = _colour(rng)
    for _ in range(rng.randrange(4, 26)):
        radius = rng.uniform(0.5, largest)
        sheet.area(_ellipse(sheet.point(), (radius, radius)), colour if rng.random() < 0.7 else _colour(rng), 0.0)


def _add_texture(sheet: _Sheet) -> None:
    """Another ground inside a polygon."""
    rng, extent = sheet.rng, sheet.canvas.size
    mask = Image.new("L", extent, 0)
    points = _polygon(rng, sheet.point(), sheet.size * rng.uniform(0.1, 0.5))
    ImageDraw.Draw(mask).polygon([(x * sheet.scale, y * sheet.scale) for x, y in points], fill=255)
    ground = rng.choices(_GROUNDS[1:], _GROUND_WEIGHTS[1:])[0](rng, sheet.size)
    sheet.canvas.paste(ground.resize(extent, Image.Resampling.BICUBIC), (0, 0), mask)


def _add_eye(sheet: _Sheet, centre: Point, radius: float, white: bool, iris: Colour, flat: float) -> None:
    """Rings, from the white of the eye to its light."""
    (x, y), rng = centre, sheet.rng
    if white:
        sheet.area(_ellipse(centre, (radius, radius * flat)), (250, 250, 252))
        sheet.area(_ellipse((x, y + 0.1 * radius), (0.62 * radius, 0.8 * radius * flat)), iris, 0.0)
    sheet.area(_ellipse((x, y + 0.1 * radius), (0.36 * radius, 0.45 * radius * flat)), (20, 16, 22), 0.0)
    if rng.random() < 0.7:
        sheet.area(_ellipse((x - 0.2 * radius, y - 0.2 * radius), (0.2 * radius, 0.2 * radius)), (255, 255, 255), 0.0)
    sheet.line(_ellipse(centre, (radius * 1.05, radius * flat), 195, 345), sheet.ink, rng.choice([1.0, 1.5, 2.5]))


def _add_face(sheet: _Sheet) -> None:
    """A head of random proportions with eyes, brows, nose, mouth and hair, all built from ellipses and curves."""
    rng, size = sheet.rng, sheet.size
    x, y = size * rng.uniform(0.25, 0.75), size * rng.uniform(0.3, 0.7)
    wide = size * rng.uniform(0.1, 0.36)
    tall = wide * rng.uniform(0.8, 1.4)
    hair, skin = _colour(rng), _colour(rng)
    if rng.random() < 0.7:
        sheet.area(_polygon(rng, (x, y - 0.3 * tall), wide * rng.uniform(1.1, 1.5)), hair)
    sheet.area(_ellipse((x, y), (wide, tall)), skin)
    gap, level, radius = wide * rng.uniform(0.3, 0.5), y + tall * rng.uniform(-0.2, 0.2), wide * rng.uniform(0.08, 0.3)
    white, iris, flat, slant = rng.random() < 0.7, _colour(rng), rng.uniform(0.5, 1.4), rng.uniform(-0.2, 0.2) * wide
    for side in (-1, 1):
        _add_eye(sheet, (x + side * gap, level), radius, white, iris, flat)
        inner = (x + side * 0.5 * gap, level - 1.5 * radius * flat - slant)
        outer = (x + side * 1.5 * gap, level - 1.5 * radius * flat + slant)
        sheet.line([inner, outer], sheet.ink if rng.random() < 0.5 else hair, rng.choice([1.0, 2.0, 3.0]))
    if rng.random() < 0.6:
        sheet.line(_curve(rng, (x, y + 0.1 * tall), 0.08 * wide), sheet.ink, rng.choice([1.0, 1.5, 2.0]))
    mouth, start = _ellipse((x, y + 0.55 * tall), (wide * rng.uniform(0.1, 0.4), tall * 0.12)), rng.choice([0, 180])
    if rng.random() < 0.4:
        sheet.area(mouth, rng.choice([(150, 40, 50), (255, 255, 255), (40, 20, 30)]))
    else:
        sheet.line(mouth[12:] if start else mouth[:12], sheet.ink, rng.choice([1.0, 1.5, 2.5]))
    if rng.random() < 0.6:  # a fringe
        for i in range(rng.randrange(2, 7)):
            left = x + wide * (i / 3 - 1)
            tip = (left + rng.uniform(0, 0.4) * wide, y - rng.uniform(0.0, 0.5) * tall)
            sheet.area([(left - 0.2 * wide, y - tall), tip, (left + 0.5 * wide, y - tall)], hair)


_LAYERS: tuple[Callable[[_Sheet], None], ...] = (
    _add_shape, _add_strokes, _add_face, _add_hatching, _add_writing, _add_dots, _add_texture,
)  # fmt: skip
_LAYER_WEIGHTS = (10, 8, 4, 2, 2, 2, 2)


def _degraded(picture: Image.Image, rng: Random) -> Image.Image:
    """`picture` as it is, or blurred, as a JPEG, with noise, or with few colours."""
    chance = rng.random()
    if chance < 0.08:
        return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 2.0)))
    if chance < 0.20:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randrange(25, 95))
        return Image.open(buffer).convert("RGB")
    if chance < 0.25:
        noise = np.random.default_rng(rng.randrange(1 << 30)).normal(0, rng.uniform(3, 14), (*picture.size, 3))
        return Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    if chance < 0.29:
        return picture.quantize(rng.randrange(4, 32), dither=Image.Dither.NONE).convert("RGB")
    if chance < 0.33:  # pixels of a coarser grid
        side = rng.choice([32, 43, 64])
        coarse = picture.resize((side, side), Image.Resampling.BOX)
        return coarse.resize(picture.size, Image.Resampling.NEAREST)
    return picture


def random_composition(rng: Random, size: int) -> Image.Image:
    """A random RGB composition, `size` pixels square: a ground, shapes, strokes, faces, signs and textures on it."""
    ground = rng.choices(_GROUNDS, _GROUND_WEIGHTS)[0](rng, size)
    if rng.random() < 0.08:  # the ground alone
        return _degraded(ground, rng)
    sheet = _Sheet(ground, rng.choice([1, 2, 3, 3, 4]), rng)
    for _ in range(rng.randrange(1, 16)):
        rng.choices(_LAYERS, _LAYER_WEIGHTS)[0](sheet)
    return _degraded(sheet.finished(), rng)
