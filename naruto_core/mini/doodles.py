"""Pictures of nothing in particular, so that the VAE learns to see and not to recite.

SDXL's VAE has seen every kind of picture; one trained on a single drawn world blurs whatever
that world has not (hard outlines, saturated paint, small signs). So half of what ours sees is this.
"""

from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from naruto_core.mini.ink import OVERSAMPLING as K
from naruto_core.mini.ink import Colour


def _colour(rng: Random) -> Colour:
    if rng.random() < 0.25:  # blacks, whites and greys: outlines, paper, metal
        grey = rng.choice([rng.randrange(0, 50), rng.randrange(190, 256), rng.randrange(256)])
        return grey, grey, min(255, grey + rng.randrange(12))
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def _ground(size: int, rng: Random) -> Image.Image:
    first, second = np.array(_colour(rng)), np.array(_colour(rng))
    angle = rng.choice([0, 1, 2])
    ramp = np.linspace(0, 1, size * K)
    share = np.broadcast_to({0: ramp[:, None], 1: ramp[None], 2: np.full((1, 1), 0.5)}[angle], (size * K, size * K))
    return Image.fromarray((first * (1 - share[..., None]) + second * share[..., None]).astype(np.uint8))


def _blob(rng: Random, size: int) -> list[tuple[float, float]]:
    """A polygon: pointed, round or boxy, anywhere, of any size."""
    corners = rng.choice([3, 4, 5, 8, 12, 20, 30])
    x, y = rng.uniform(0, size) * K, rng.uniform(0, size) * K
    radius = rng.choice([0.03, 0.06, 0.12, 0.25, 0.4]) * size * K * rng.uniform(0.6, 1.5)
    rough = rng.choice([0.0, 0.1, 0.5])
    flat = rng.uniform(0.4, 1.0)
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False) + rng.uniform(0, 3)
    reach = [radius * (1 + rng.uniform(-rough, rough)) for _ in angles]
    return [(x + r * np.cos(a), y + flat * r * np.sin(a)) for a, r in zip(angles, reach, strict=True)]


def _signs(draw: ImageDraw.ImageDraw, rng: Random, size: int) -> None:
    """Something like writing: rows of small strokes."""
    ink, x, y = _colour(rng), rng.uniform(0, size * 0.6), rng.uniform(0, size * 0.9)
    for _ in range(rng.randrange(3, 14)):
        points = [((x + rng.uniform(0, 4)) * K, (y + rng.uniform(0, 6)) * K) for _ in range(rng.randrange(2, 4))]
        draw.line(points, fill=ink, width=rng.choice([2, 3, 4, 6]))
        x += rng.uniform(3, 6)


def doodle(rng: Random, size: int = 64) -> Image.Image:
    """A random RGB composition of fills, outlines, strokes, dots and signs, `size` pixels square."""
    canvas = _ground(size, rng)
    draw = ImageDraw.Draw(canvas)
    outline = _colour(rng) if rng.random() < 0.3 else (12, 12, 18)
    width = rng.choice([0, 0, 2, 3, 4, 5, 6])
    for _ in range(rng.randrange(2, 22)):
        match rng.choices(("blob", "stroke", "dots", "signs"), weights=(6, 3, 1, 1))[0]:
            case "blob":
                points = _blob(rng, size)
                draw.polygon(points, fill=_colour(rng))
                if width:
                    draw.line([*points, points[0], points[1]], fill=outline, width=width, joint="curve")
            case "stroke":
                points = [(rng.uniform(0, size) * K, rng.uniform(0, size) * K) for _ in range(rng.randrange(2, 5))]
                draw.line(points, fill=_colour(rng), width=rng.choice([2, 3, 4, 6, 10, 20]), joint="curve")
            case "dots":
                for _ in range(rng.randrange(4, 26)):
                    x, y, r = rng.uniform(0, size) * K, rng.uniform(0, size) * K, rng.uniform(0.4, 2) * K
                    draw.ellipse([x - r, y - r, x + r, y + r], fill=_colour(rng))
            case _:
                _signs(draw, rng, size)
    picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5))) if rng.random() < 0.12 else picture
