"""Copies by their pixels: how near a picture comes to a crop, or to a mirrored crop, of a training picture.

An embedding tells that a whole picture was copied. It changes when the copy is cropped or mirrored. Here small pictures
are compared. The crop is found first on a grid of crops of every training picture, then, for the nearest few, by
Gauss-Newton steps (Lucas and Kanade 1981, in the damped form of Levenberg and Marquardt). The value is the correlation
of the pixels, so that brightness and contrast do not matter. No fixed threshold tells a copy: pictures that are no
copies calibrate it (`memorization.copy_margin`). Crops of 70 % of the area and more are found; smaller ones may not be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.feature_set import Features, PixelSet, Vector, chunks
from naruto_core.scoring.memorization import Nearness

SIDE = 32  # pixels on a side of the small pictures that are kept
_PIXELS = 12  # on a side of the blurred pictures that are compared
_BLUR = 0.7  # standard deviation of the blur, in those pixels
_SIDES, _STEP = (1.0, 0.95, 0.9, 0.85), 0.05  # of the crops of the grid, and between their positions; shares of a side
_LEAST_SIDE = 0.8  # of an aligned crop
_NEAREST = 3  # plain or mirrored training pictures that are aligned with each picture
_ITERATIONS = 6
_CALIBRATING = 500  # pictures, where there are so many
_AT_ONCE = 1024  # training pictures that are compared at once
_DERIVATIVE = 0.004  # half the step of a numerical derivative

Single = NDArray[np.float32]
Crops = NDArray[np.float64]  # (n, 3): top, left and side, as shares of the picture's side


@dataclass(frozen=True, slots=True)
class Match:
    """For each of n pictures the largest correlation (n,), -1 to 1, and the row (n,) of that training picture."""

    correlation: Vector
    row: NDArray[np.intp]


def match_pixels(pictures: Features, training: Features, *, same: bool = False) -> Match:
    """The nearest crop or mirrored crop of a training picture, for each picture.

    `pictures` (n, 3072) and `training` (t, 3072) are 32 x 32 RGB pixels in rows, see `features.pixel_extractor`. With
    `same`, `pictures` are the first rows of `training`, and no picture is its own neighbour.
    """
    return _match(pictures, training, np.arange(len(pictures)) if same else np.full(len(pictures), -1))


def _match(pictures: Features, training: Features, own: NDArray[np.intp]) -> Match:
    """`match_pixels`, where picture i is not compared with the training picture in row `own[i]`; -1: with all."""
    if not len(pictures):
        return Match(np.zeros(0), np.zeros(0, dtype=np.intp))
    target = _normalized(_shrunk(_small(pictures), np.array([[0.0, 0.0, 1.0]])))
    near = _nearest_on_grid(target, training, own)
    aligned = np.stack([
        _align(target, _sources(training, near.row[:, k], near.mirrored[:, k]), near.crop[:, k])
        for k in range(near.row.shape[1])
    ])  # fmt: skip
    best, each = np.argmax(aligned, axis=0), np.arange(len(pictures))
    return Match(aligned[best, each], near.row[each, best])


def pixel_nearness(pixels: PixelSet, names: Sequence[str]) -> Nearness:
    """The drawn pictures' nearness to the training pictures called `names` (t).

    The held-out pictures calibrate it; where they are fewer than 500, so do training pictures, each compared with the
    other ones: a margin from few pictures is so cautious that it misses copies.
    """
    held_out, drawn = pixels.held_out[:_CALIBRATING], len(pixels.drawn)
    further = pixels.training[: _CALIBRATING - len(held_out)] if len(pixels.training) > 1 else pixels.training[:0]
    pictures = np.concatenate([pixels.drawn, held_out, further])  # together: the crops of the grid are made once
    own = np.concatenate([np.full(drawn + len(held_out), -1), np.arange(len(further))])
    match = _match(pictures, pixels.training, own)
    return Nearness(match.correlation[:drawn], match.correlation[drawn:], [names[int(r)] for r in match.row[:drawn]])


def _small(features: Features) -> Single:
    """Pictures (n, 32, 3, 32): rows, colours, columns, so that both axes are shrunk by products of matrices."""
    rows = np.concatenate([chunk.astype(np.float32) for chunk in chunks(features)])
    return np.ascontiguousarray(rows.reshape(-1, SIDE, SIDE, 3).transpose(0, 1, 3, 2))


def _weights(start: Vector, side: Vector) -> Single:
    """Matrices (n, 12, 32) that blur and shrink the pixels of a crop along one axis; none outside the crop counts."""
    first, extent = (x.astype(np.float32)[:, None, None] * SIDE for x in (start, side))
    cell, begin, end = extent / _PIXELS, first, first + extent
    pixel = np.arange(SIDE, dtype=np.float32)
    distance = pixel + 0.5 - (begin + cell * (np.arange(_PIXELS, dtype=np.float32)[:, None] + 0.5))
    inside = np.clip(np.minimum(pixel + 1, end) - np.maximum(pixel, begin), 0, 1)
    weights = inside * np.exp(-0.5 * (distance / (cell * _BLUR)) ** 2)
    return weights / weights.sum(axis=2, keepdims=True)


def _shrunk(pictures: Single, crops: Crops) -> Single:
    """Small blurred pictures (n, 36, 12) of crops (n, 3), or one crop (1, 3) of all, of pictures (n, 32, 3, 32).

    The 36 are 12 rows with 3 colours each.
    """
    n = len(pictures)
    down = _weights(crops[:, 0], crops[:, 2]) @ pictures.reshape(n, SIDE, 3 * SIDE)
    across = _weights(crops[:, 1], crops[:, 2]).transpose(0, 2, 1)
    if len(crops) == 1:  # a single product, instead of one for each picture
        return (down.reshape(-1, SIDE) @ across[0]).reshape(n, 3 * _PIXELS, _PIXELS)
    return np.asarray(down.reshape(n, 3 * _PIXELS, SIDE) @ across, dtype=np.float32)


def _normalized(pictures: Single) -> Single:
    """Rows (n, d) of mean 0 and length 1; zeros where a picture has one colour."""
    rows = pictures.reshape(len(pictures), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.where(length > 1e-3, rows / np.maximum(length, 1e-3), 0)


def _grid() -> Crops:
    """All crops (k, 3) of the grid."""
    crops: list[tuple[float, float, float]] = []
    for side in _SIDES:
        starts = np.linspace(0, 1 - side, round((1 - side) / _STEP) + 1).tolist()
        crops += [(top, left, side) for top in starts for left in starts]
    return np.array(crops)


@dataclass(frozen=True, slots=True)
class _Near:
    """For each of n pictures the k nearest on the grid: correlation (n, k), row, whether mirrored, crop (n, k, 3)."""

    correlation: Single
    row: NDArray[np.intp]
    mirrored: NDArray[np.bool_]
    crop: NDArray[np.float64]

    def best(self, other: "_Near") -> "_Near":
        """The k nearest of both."""
        correlation = np.concatenate([self.correlation, other.correlation], axis=1)
        order = np.argsort(-correlation, axis=1, kind="stable")[:, :_NEAREST]
        row = np.take_along_axis(np.concatenate([self.row, other.row], axis=1), order, axis=1)
        mirrored = np.take_along_axis(np.concatenate([self.mirrored, other.mirrored], axis=1), order, axis=1)
        crop = np.take_along_axis(np.concatenate([self.crop, other.crop], axis=1), order[..., None], axis=1)
        return _Near(np.take_along_axis(correlation, order, axis=1), row, mirrored, crop)


def _nearest_on_grid(target: Single, training: Features, own: NDArray[np.intp]) -> _Near:
    """The nearest training pictures, plain or mirrored, with their crops on the grid."""
    return reduce(
        _Near.best, (_nearest_of_part(target, training, start, own) for start in range(0, len(training), _AT_ONCE))
    )


def _nearest_of_part(target: Single, training: Features, start: int, own: NDArray[np.intp]) -> _Near:
    """The same of `_AT_ONCE` training pictures from `start` on."""
    plain, grid = _small(training[start : start + _AT_ONCE]), _grid()
    sources = np.concatenate([plain, plain[..., ::-1]])
    best = np.full((len(target), len(sources)), -np.inf, dtype=np.float32)
    crop_number = np.zeros(best.shape, dtype=np.uint8)
    for number, crop in enumerate(grid):
        similar = target @ _normalized(_shrunk(sources, crop[None])).T
        np.copyto(crop_number, number, where=similar > best)
        np.maximum(best, similar, out=best)
    row = np.flatnonzero((own >= start) & (own < start + len(plain)))
    for itself in (own[row] - start, own[row] - start + len(plain)):  # plain and mirrored
        best[row, itself] = -np.inf
    column = np.argsort(-best, axis=1, kind="stable")[:, :_NEAREST]
    crop = grid[np.take_along_axis(crop_number, column, axis=1)]
    correlation = np.take_along_axis(best, column, axis=1)
    return _Near(correlation, start + column % len(plain), column >= len(plain), crop)


def _sources(training: Features, rows: NDArray[np.intp], mirrored: NDArray[np.bool_]) -> Single:
    pictures = _small(training[rows])
    return np.where(mirrored[:, None, None, None], pictures[..., ::-1], pictures)


def _align(target: Single, sources: Single, crops: Crops) -> Vector:
    """The largest correlation (n,) of each target with a crop of its source near `crops` (n, 3)."""
    crops, current = crops.copy(), _normalized(_shrunk(sources, crops))
    best, damping = (target * current).sum(axis=1).astype(np.float64), np.full(len(crops), 0.01)
    slopes, nearer = np.empty((len(crops), current.shape[1], 3)), np.full(len(crops), True)
    for _ in range(_ITERATIONS):
        if nearer.any():  # where a crop stayed, so did its derivatives
            slopes[nearer] = _slopes(sources[nearer], crops[nearer])
        moved = _inside(crops + _step(slopes, target - current, damping))
        shrunk = _normalized(_shrunk(sources, moved))
        correlation = (target * shrunk).sum(axis=1).astype(np.float64)
        nearer = correlation > best
        crops[nearer], current[nearer], best[nearer] = moved[nearer], shrunk[nearer], correlation[nearer]
        damping = np.where(nearer, damping / 5, damping * 10)
    return best


def _slopes(sources: Single, crops: Crops) -> Crops:
    """The derivatives (n, 432, 3) of the normalized pixels of `crops` by top, left and side."""
    columns = [
        (_normalized(_shrunk(sources, crops + h)) - _normalized(_shrunk(sources, crops - h))) / (2 * _DERIVATIVE)
        for h in np.eye(3) * _DERIVATIVE
    ]
    return np.stack(columns, axis=2).astype(np.float64)


def _step(slopes: Crops, missing: Single, damping: Vector) -> Crops:
    """A Levenberg-Marquardt step (n, 3); `missing` is the target less the pixels of the crop."""
    transposed = slopes.transpose(0, 2, 1)
    squares, towards = transposed @ slopes, transposed @ missing.astype(np.float64)[..., None]
    diagonal = np.diagonal(squares, axis1=1, axis2=2)[:, :, None] * np.eye(3)
    step = np.linalg.solve(squares + damping[:, None, None] * diagonal + 1e-6 * np.eye(3), towards)
    return np.asarray(step[..., 0], dtype=np.float64)


def _inside(crops: Crops) -> Crops:
    """The nearest crops that lie inside the picture."""
    side = np.clip(crops[:, 2], _LEAST_SIDE, 1.0)
    return np.column_stack([np.clip(crops[:, :2], 0.0, (1 - side)[:, None]), side])
