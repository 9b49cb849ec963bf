"""Pictures that look alike: a 64-bit perceptual hash, and all pairs at most three bits apart.

The hash is pHash: the signs of an 8 x 8 block of low frequencies of the grey picture against their
median. Two hashes within three bits share at least one of four 16-bit bands, so that only pictures
that share a band are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_BITS = 3  # of 64; pictures at most so far apart are near duplicates
_GRID = 32  # pixels on a side of the grey thumbnail

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def _cosines(n: int) -> npt.NDArray[np.float64]:
    """The first eight rows of the DCT-II matrix, (8, n)."""
    return np.cos(np.pi / n * np.outer(np.arange(8), np.arange(n) + 0.5))


def perceptual_hash(image: Image.Image) -> str:
    """16 hex digits that hardly change when a picture is resized, recompressed or slightly recoloured."""
    grey = np.asarray(image.convert("L").resize((_GRID, _GRID), Image.Resampling.LANCZOS), dtype=np.float64)
    cosines = _cosines(_GRID)
    # rounded, so that the last bits of a processor's arithmetic never decide a sign
    waves = (cosines @ grey @ cosines.T).round(3)
    bits = (waves > np.median(waves)).ravel()
    return np.packbits(bits).tobytes().hex()


@dataclass(frozen=True, slots=True)
class Duplicates:
    """For n hashes in order: `earliest` (n,) is the first alike one before each, or -1; `any` (n,) is
    true where there is an alike one before or after."""

    earliest: Indices
    any: npt.NDArray[np.bool_]


def find_duplicates(hashes: Sequence[str]) -> Duplicates:
    """Which of `hashes` (16 hex digits each) are at most NEAR_BITS apart; memory grows with n, not n squared."""
    values = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)
    distinct, first, group, sizes = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    earliest = first.astype(np.int64)
    alike = sizes > 1
    for a, b in _near_pairs(distinct):
        np.minimum.at(earliest, a, first[b])
        np.minimum.at(earliest, b, first[a])
        alike[a] = alike[b] = True
    found = earliest[group]
    return Duplicates(np.where(found < np.arange(len(values)), found, -1), alike[group])


def _near_pairs(distinct: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of positions in `distinct` that are near; a pair may come up once for every band it shares."""
    for band in range(4):
        key = (distinct >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable").astype(np.int64)
        key = key[order]
        start = np.arange(len(order))
        # neighbours in the same band, then next but one, ...: every pair of a band comes up once
        for gap in count(1):
            start = start[start < len(order) - gap]
            start = start[key[start] == key[start + gap]]
            if not len(start):
                break
            a, b = order[start], order[start + gap]
            near = np.bitwise_count(distinct[a] ^ distinct[b]) <= NEAR_BITS
            yield a[near], b[near]
