"""Aspect buckets: a picture is cut to the shape nearest its own instead of to a square (NovelAI 2022).

Buckets have about the area of the square of the resolution, and sides that are multiples of `step`: kohya's
`bucket_reso_steps`. No side is shorter than half the resolution or longer than twice.
"""

import math
from functools import lru_cache


@lru_cache(maxsize=32)
def buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """All (height, width) of area at most resolution x resolution, the largest for each width."""
    found: set[tuple[int, int]] = set()
    for short in range(max(step, math.ceil(resolution / 2 / step) * step), resolution + 1, step):
        long = min(resolution * resolution // short // step * step, 2 * resolution)
        found |= {(short, long), (long, short)}
    return tuple(sorted(found))


def bucket_of(width: int, height: int, resolution: int, step: int | None) -> tuple[int, int]:
    """(height, width) of the bucket whose shape is nearest; the square without a `step`."""
    if step is None:
        return resolution, resolution
    shape = math.log(width / height)
    return min(buckets(resolution, step), key=lambda size: (abs(math.log(size[1] / size[0]) - shape), size))
