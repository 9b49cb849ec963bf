"""The finish of every style: how a drawing becomes a pencil sketch, pixel art, a watercolour, an oil painting or a print."""

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
    """Pencil: dark edges and hatched shadows on warm paper, with pale colours."""
    fine = _scaled(canvas, 2 * size)
    grey = fine.convert("L")
    edges = np.asarray(grey.filter(ImageFilter.FIND_EDGES), dtype=np.float32)
    edges[[0, 1, -2, -1], :] = 0  # the filter finds an edge at the border of the picture
    edges[:, [0, 1, -2, -1]] = 0
    tone = np.asarray(grey, dtype=np.float32)
    rows, columns = np.indices(tone.shape)
    period = size / 16
    hatch = ((rows + columns + 2 * _noise(rng, 2 * size, 12)) % period < period * 0.4) & (tone < 120)
    pencil = np.clip(1 - edges / 95, 0.22, 1) * np.where(hatch, 0.8, 1.0)
    paper = np.array([250, 246, 236], dtype=np.float32)
    washed = 0.44 * np.asarray(fine, dtype=np.float32) + 0.56 * paper
    drawn = washed * pencil[..., None] + 5 * _grain(rng, 2 * size)[..., None]
    return _picture(drawn).reduce(2)


def _pixel(canvas: Image.Image, size: int) -> Image.Image:
    """Half the resolution and 24 colours."""
    coarse = _scaled(canvas, size // 2).quantize(24, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return coarse.convert("RGB").resize((size, size), Image.Resampling.NEAREST)


def _watercolor(canvas: Image.Image, size: int, rng: Random) -> Image.Image:
    """Watercolour: flowing edges, dark rims of pigment, blotches, paper grain and a white margin."""
    picture = _scaled(canvas, size)
    soft = np.asarray(picture.filter(ImageFilter.GaussianBlur(size / 110)), dtype=np.float32)
    wide = np.asarray(picture.filter(ImageFilter.BoxBlur(size / 42)), dtype=np.float32)
    blotches = _noise(rng, size, 9)
    rim = np.clip(np.abs(soft - wide).mean(axis=2) - 6, 0, 30)
    wash = soft * 0.86 + 36 + blotches[..., None] * 13 - rim[..., None] * 0.9 + 3 * _grain(rng, size)[..., None]
    rows, columns = np.indices((size, size))
    edge = np.minimum.reduce([rows, columns, size - 1 - rows, size - 1 - columns]) * (128 / size)
    margin = np.clip((edge - 3 + _noise(rng, size, 14) * 2.5) / 4, 0, 1)[..., None]
    return _picture(wash * margin + 252 * (1 - margin))


def _box(values: np.ndarray, radius: int) -> np.ndarray:
    """Means of `values` (H, W, C) over windows of radius + 1 pixels, (H + radius, W + radius, C)."""
    side = radius + 1
    padded = np.pad(values, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    total = np.cumsum(np.cumsum(np.pad(padded, ((1, 0), (1, 0), (0, 0))), axis=0), axis=1)
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return windows / (side * side)


def _oil(canvas: Image.Image, size: int, rng: Random) -> Image.Image:
    """Oil: strokes of one colour (Kuwahara's filter on wavering edges), ridges of paint and a canvas."""
    pixels = np.asarray(_scaled(canvas, size), dtype=np.float64)
    rows, columns = np.indices((size, size))
    waver = size / 90
    rows = (rows + waver * _noise(rng, size, size // 6)).round().astype(int).clip(0, size - 1)
    columns = (columns + waver * _noise(rng, size, size // 6)).round().astype(int).clip(0, size - 1)
    pixels = pixels[rows, columns]
    radius = max(1, size // 64)
    grey = pixels.mean(axis=2, keepdims=True)
    means, squares = _box(np.concatenate([pixels, grey], axis=2), radius), _box(grey * grey, radius)
    variance = squares[..., 0] - means[..., 3] * means[..., 3]
    corners = [(slice(a, a + size), slice(b, b + size)) for a in (0, radius) for b in (0, radius)]
    best = np.argmin(np.stack([variance[corner] for corner in corners]), axis=0)
    painted = np.choose(best[..., None], [means[corner][..., :3] for corner in corners])
    height = _noise(rng, size, size // 3) + 0.02 * painted.mean(axis=2)
    ridge = np.clip(height - np.roll(height, (1, 1), (0, 1)), -2, 2)
    rich = (painted - 128) * 1.08 + 122 + np.array([6.0, 0.0, -8.0])
    return _picture(rich + 7 * ridge[..., None])


def _halftone(canvas: Image.Image, size: int) -> Image.Image:
    """A halftone print: few flat colours on cream paper, and a screen of dots that grow with the darkness."""
    fine = np.asarray(_scaled(canvas, 2 * size), dtype=np.float32)
    tone = fine.mean(axis=2)
    rows, columns = np.indices(tone.shape)
    period = size / 16  # two fine pixels are one pixel
    phase = 2 * np.pi / period
    screen = 0.5 + 0.25 * (np.cos(phase * (rows + columns)) + np.cos(phase * (rows - columns)))
    dots = screen > 0.25 + 0.62 * tone / 255
    levels = np.round(fine / 51) * 51
    paper = np.array([250, 240, 214], dtype=np.float32) / 255
    return _picture(levels * paper * np.where(dots, 0.62, 1.06)[..., None]).reduce(2)
