"""Plane geometry for the drawn world: smooth outlines from few points, strokes of varying width, offsets.

Only sums, products and square roots of NumPy arrays are used (exactly rounded everywhere); sines come from `math`.
So a seed draws the same picture on every machine.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

Point = tuple[float, float]
# (x, y) is passed smoothly, (x, y, 1) is a corner.
Table = tuple[tuple[float, ...], ...]
Points = np.ndarray  # (N, 2), float64


def previous(rows: np.ndarray) -> np.ndarray:
    """For each row the row before it, for the first one the last; quicker than `np.roll`."""
    return np.concatenate([rows[-1:], rows[:-1]])


def following(rows: np.ndarray) -> np.ndarray:
    """For each row the row after it, for the last one the first."""
    return np.concatenate([rows[1:], rows[:1]])


@lru_cache(maxsize=256)
def even(count: int) -> np.ndarray:
    """`count` evenly spread numbers from 0 to 1."""
    numbers = np.linspace(0, 1, count)
    numbers.flags.writeable = False
    return numbers


@lru_cache(maxsize=64)
def _hermite(steps: int) -> tuple[np.ndarray, ...]:
    """The four cubic Hermite basis functions at `steps` parameters in 0..1, each (1, steps, 1)."""
    t = (np.arange(steps, dtype=np.float64) / steps)[None, :, None]
    return (1 + 2 * t) * (1 - t) * (1 - t), t * (1 - t) * (1 - t), t * t * (3 - 2 * t), t * t * (t - 1)


def smooth(table: Sequence[Sequence[float]], closed: bool = True, steps: int = 5) -> Points:
    """A cubic curve through the points of `table`, `steps` points for each; (N x steps, 2), open curves one more.

    Cardinal spline: the tangent at a point is half the way between its neighbours, and zero at a corner.
    """
    points = np.array([row[:2] for row in table], dtype=np.float64)
    corner = np.array([len(row) > 2 for row in table])
    after = following(points)
    tangents = (after - previous(points)) * 0.5
    if not closed:
        tangents[0], tangents[-1] = (points[1] - points[0]) * 0.5, (points[-1] - points[-2]) * 0.5
    tangents[corner] = 0.0
    of_point, of_tangent, of_next, of_next_tangent = _hermite(steps)
    curve = points[:, None] * of_point + tangents[:, None] * of_tangent
    curve += after[:, None] * of_next
    curve += following(tangents)[:, None] * of_next_tangent
    if closed:
        return curve.reshape(-1, 2)
    return np.concatenate([curve[:-1].reshape(-1, 2), points[-1:]])


@lru_cache(maxsize=256)
def _cached(table: Table, steps: int) -> Points:
    curve = smooth(table, True, steps)
    curve.flags.writeable = False
    return curve


def outline(table: Table, steps: int = 5) -> Points:
    """`smooth` for a constant closed table, computed once."""
    return _cached(table, steps)


def mirrored(half: Table) -> Table:
    """A symmetric closed table from its right half, which runs from the top to the bottom (both on the axis)."""
    left = tuple((-row[0], *row[1:]) for row in reversed(half[1:-1]))
    return (*half, *left)


def arc(centre: Point, radii: Point, start: float = 0, end: float = 360, points: int = 24) -> Points:
    """Points on an ellipse from `start` to `end` degrees, clockwise from the right."""
    return _unit_arc(start, end, points) * np.array(radii) + np.array(centre)


@lru_cache(maxsize=256)
def _unit_arc(start: float, end: float, points: int) -> Points:
    angles = [math.radians(start + (end - start) * i / (points - 1)) for i in range(points)]
    return np.array([(math.cos(a), math.sin(a)) for a in angles])


def turned(points: Points, degrees: float, centre: Point = (0.0, 0.0)) -> Points:
    """`points` turned clockwise by `degrees` around `centre`."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = points[:, 0] - centre[0], points[:, 1] - centre[1]
    return np.stack([x * c - y * s + centre[0], x * s + y * c + centre[1]], axis=1)


def _normals(directions: np.ndarray) -> np.ndarray:
    length = np.sqrt(directions[:, 0] * directions[:, 0] + directions[:, 1] * directions[:, 1])
    return np.stack([directions[:, 1], -directions[:, 0]], axis=1) / np.maximum(length, 1e-9)[:, None]


def ribbon(points: Points, widths: Sequence[float]) -> Points:
    """The outline of a stroke along `points`, whose width goes through `widths` (evenly spread)."""
    along = np.interp(even(len(points)), even(len(widths)), widths)
    directions = np.concatenate([points[1:2] - points[:1], points[2:] - points[:-2], points[-1:] - points[-2:-1]])
    offsets = _normals(directions) * (along / 2)[:, None]
    return np.concatenate([points + offsets, (points - offsets)[::-1]])


# A thicker outline away from the light, which comes from the upper left.
_AWAY_FROM_LIGHT = np.array([0.45, 0.75])


def outset(points: Points, amount: float, variation: float = 0.0) -> Points:
    """A closed outline moved outwards by `amount`; `variation` (0..1) makes it thicker away from the light."""
    after = following(points)
    edges = _normals(after - points)
    area = float((points[:, 0] * after[:, 1] - after[:, 0] * points[:, 1]).sum())
    edges = edges if area > 0 else -edges
    joint = edges + previous(edges)
    square = (joint * joint).sum(axis=1)
    mitre = joint * (2.0 / np.maximum(square, 0.55))[:, None]
    weight = amount * (1.0 + variation * (mitre * _AWAY_FROM_LIGHT).sum(axis=1))
    return points + mitre * np.maximum(weight, amount * 0.35)[:, None]
