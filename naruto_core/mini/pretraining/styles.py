"""The finish of every style: from a drawing to a pencil sketch, pixel art, a watercolour, an oil painting, a print."""

from random import Random

import numpy as np
from PIL import Image, ImageFilter

Pixels = np.ndarray  # (H, W, 3), float32, 0..255


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _noise(rng: Random, size: int, cells: int) -> np.ndarray:
    """Smooth noise (size, size) of unit variance at its `cells` x `cells` nodes."""
    nodes = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 1, (cells, cells)).astype(np.float32)
    return np.asarray(Image.fromarray(nodes).resize((size, size), Image.Resampling.BICUBIC))


def _grain(rng: Random, size: int) -> np.ndarray:
    """The grain of paper or canvas, (size, size), of unit variance."""
    return np.random.default_rng(rng.randrange(1 << 30)).normal(0, 1, (size, size)).astype(np.float32)


def finish(canvas: Image.Image, style: str, size: int, rng: Random) -> Image.Image:
    """The canvas scaled down to `size` pixels, in `style`; styles without a finish are scaled down only."""
    match style:
        case "sketch":
            return _sketch(canvas, size, rng)
        case "pixel":
            return _pixel(canvas, size)
        case "watercolor":
            return _watercolor(canvas, size, rng)
        case "oil":
            return _oil(canvas, size, rng)
        case "halftone":
            return _halftone(canvas, size)
        case _:
            return _scaled(canvas, size)


def _scaled(canvas: Image.Image, size: int) -> Image.Image:
    """`canvas` with `size` pixels on a side, averaged."""
    return canvas.reduce(canvas.width // size)


def _sketch(canvas: Image.Image, size: int, rng: Random) -> Image.Image:
    """Pencil: lines where the picture is darker than its surroundings, hatched shadows, pale colours on warm paper."""
    fine = _scaled(canvas, 2 * size)
    grey = fine.convert("L")
    tone = np.asarray(grey, dtype=np.float32)
    around = np.asarray(grey.filter(ImageFilter.BoxBlur(size / 32)), dtype=np.float32)
    lines = np.clip((tone + 12) / (around + 12), 0.2, 1) ** 1.6
    rows, columns = np.indices(tone.shape)
    period = size / 16
    hatch = ((rows + columns + 2 * _noise(rng, 2 * size, 12)) % period < period * 0.4) & (tone < 128)
    pencil = lines * np.where(hatch, 0.8, 1.0)
    paper = np.array([252, 248, 238], dtype=np.float32)
    washed = 0.5 * np.asarray(fine, dtype=np.float32) + 0.5 * paper
    drawn = washed * pencil[..., None] + 7 * _grain(rng, 2 * size)[..., None]
    return _picture(drawn).reduce(2)


def _pixel(canvas: Image.Image, size: int) -> Image.Image:
    """Half the resolution, 11 levels of brightness, and few hues."""
    coarse = _scaled(canvas, size // 2).filter(ImageFilter.UnsharpMask(1, 45, 0)).convert("YCbCr")
    steps = np.array([25.5, 11.0, 11.0], dtype=np.float32)
    middle = np.array([0.0, 128.0, 128.0], dtype=np.float32)
    levels = ((np.asarray(coarse, dtype=np.float32) - middle) / steps).round() * steps + middle
    few = Image.fromarray(levels.clip(0, 255).astype(np.uint8), "YCbCr").convert("RGB")
    return few.resize((size, size), Image.Resampling.NEAREST)


def _watercolor(canvas: Image.Image, size: int, rng: Random) -> Image.Image:
    """Watercolour: transparent pigment of varying density with dark rims, on white paper with a ragged margin."""
    picture = _scaled(canvas, size)
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(size / 220)), dtype=np.float32)
    wide = np.asarray(picture.filter(ImageFilter.BoxBlur(size / 36)), dtype=np.float32)
    rim = np.clip(np.abs(soft - wide).mean(axis=2) - 5, 0, 40) / 40
    density = 0.8 + 0.13 * _noise(rng, size, 8) + 0.06 * _noise(rng, size, 30) + 0.22 * rim + 0.035 * _grain(rng, size)
    rows, columns = np.indices((size, size))
    edge = np.minimum.reduce([rows, columns, size - 1 - rows, size - 1 - columns]) * (128 / size)
    margin = np.clip((edge - 2.5 + _noise(rng, size, 24) * 1.5) / 3, 0, 1)
    vivid = soft + (soft - soft.mean(axis=2, keepdims=True)) * 0.25
    return _picture(252 - (252 - vivid) * (density * margin)[..., None])


def _box(values: np.ndarray, radius: int) -> np.ndarray:
    """Means of `values` (H, W, C) over windows of radius + 1 pixels, (H + radius, W + radius, C)."""
    side = radius + 1
    padded = np.pad(values, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    total = np.cumsum(np.cumsum(np.pad(padded, ((1, 0), (1, 0), (0, 0))), axis=0), axis=1)
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return windows / (side * side)


def _oil(canvas: Image.Image, size: int, rng: Random) -> Image.Image:
    """Oil: strokes of one colour (Kuwahara's filter), slanted ridges of thick paint, warm colours."""
    pixels = np.asarray(_scaled(canvas, size), dtype=np.float32)
    radius = max(1, size // 64)
    grey = pixels.mean(axis=2, keepdims=True)
    means, squares = _box(np.concatenate([pixels, grey], axis=2), radius), _box(grey * grey, radius)
    variance = squares[..., 0] - means[..., 3] * means[..., 3]
    corners = [(slice(a, a + size), slice(b, b + size)) for a in (0, radius) for b in (0, radius)]
    best = np.argmin(np.stack([variance[corner] for corner in corners]), axis=0)
    painted = np.choose(best[..., None], [means[corner][..., :3] for corner in corners])
    painted = 0.7 * painted + 0.3 * pixels
    ridges = _strokes(rng, size)
    rich = (painted - 128) * 1.1 + 124 + np.array([6.0, 1.0, -9.0])
    return _picture(rich * (1 + 0.05 * ridges[..., None]) + 3 * ridges[..., None])


def _strokes(rng: Random, size: int) -> np.ndarray:
    """The relief of brush strokes in two directions, (size, size), of about unit variance."""
    numbers = np.random.default_rng(rng.randrange(1 << 30))
    nodes = numbers.normal(0, 1, (size * 2 // 5, size // 6)).astype(np.float32)
    level = np.asarray(Image.fromarray(nodes).resize((size, size), Image.Resampling.BICUBIC))
    rows, columns = np.indices((size, size))
    rising = level[(rows + columns * 3 // 4) % size, (columns - rows // 3) % size]
    falling = level[(rows - columns // 2) % size, (columns + rows // 3) % size]
    return np.where(_noise(rng, size, 6) > 0, rising, falling)


def _halftone(canvas: Image.Image, size: int) -> Image.Image:
    """A halftone print: bright inks on cream paper, and a screen of dots that grow with the darkness."""
    fine = np.asarray(_scaled(canvas, 2 * size), dtype=np.float32)
    tone = fine.mean(axis=2)
    rows, columns = np.indices(tone.shape)
    phase = 2 * np.pi / (size / 16)  # a dot every four pixels, in rows of 45 degrees
    screen = 0.5 + 0.25 * (np.cos(phase * (rows + columns)) + np.cos(phase * (rows - columns)))
    dots = np.clip((screen - 0.3 - 0.5 * tone / 255) * 6, 0, 1)[..., None]
    bright = tone[..., None] + (fine - tone[..., None]) * 1.25
    paper = np.array([252, 244, 220], dtype=np.float32) / 255
    return _picture((bright * 0.88 + 42) * paper * (1 - 0.42 * dots)).reduce(2)
