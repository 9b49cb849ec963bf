"""Near duplicates: a 64-bit perceptual hash of pictures, and all pairs of hashes at most three bits apart.

The hash is pHash: an 8 x 8 block of low DCT frequencies of the grey picture, compared with their
median. Two hashes within three bits share at least one of four 16-bit bands, so that only pictures
that share a band are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR_BITS = 3  # of 64: the largest distance of near duplicates
_GRID = 32  # pixels on a side of the grey thumbnail

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


def _cosines(n: int) -> npt.NDArray[np.float64]:
    """The first eight rows of the DCT-II matrix, (8, n)."""
    return np.cos(np.pi / n * np.outer(np.arange(8), np.arange(n) + 0.5))


def perceptual_hash(image: Image.Image) -> str:
    """The pHash as 16 hex digits; it hardly changes when a picture is resized, recompressed or slightly recoloured."""
    grey = np.asarray(image.convert("L").resize((_GRID, _GRID), Image.Resampling.LANCZOS), dtype=np.float64)
    cosines = _cosines(_GRID)
    # rounded, so that floating-point differences of processors never change a bit
    waves = (cosines @ grey @ cosines.T).round(3)
    bits = (waves > np.median(waves)).ravel()
    return np.packbits(bits).tobytes().hex()


@dataclass(frozen=True, slots=True)
class Duplicates:
    """For n hashes: `earliest` (n,) is the index of the first near duplicate before each hash, or -1; `any` (n,) is
    true where a hash has a near duplicate before or after it."""

    earliest: Indices
    any: npt.NDArray[np.bool_]


def find_duplicates(hashes: Sequence[str]) -> Duplicates:
    """The near duplicates among `hashes` (16 hex digits each): at most NEAR_BITS apart. Memory is O(n)."""
    values = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=">u8").astype(np.uint64)
    distinct, first, group, sizes = np.unique(values, return_index=True, return_inverse=True, return_counts=True)
    earliest = first.astype(np.int64)
    alike = sizes > 1
    for a, b in _near_pairs(distinct):
        np.minimum.at(earliest, a, first[b])
        np.minimum.at(earliest, b, first[a])
        alike[a] = alike[b] = True
    first_of_group = earliest[group]
    return Duplicates(np.where(first_of_group < np.arange(len(values)), first_of_group, -1), alike[group])


def _near_pairs(distinct: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Pairs of indices of near hashes in `distinct`; a pair may be repeated for every band that it shares."""
    for band in range(4):
        key = (distinct >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable").astype(np.int64)
        key = key[order]
        start = np.arange(len(order))
        # neighbours of equal band, then next but one, ...: every pair of a band once
        for gap in count(1):
            start = start[start < len(order) - gap]
            start = start[key[start] == key[start + gap]]
            if not len(start):
                break
            a, b = order[start], order[start + gap]
            near = np.bitwise_count(distinct[a] ^ distinct[b]) <= NEAR_BITS
            yield a[near], b[near]
