"""Preprocessing of training pictures: aspect buckets, augmentation views, resizing and cropping."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageOps

from naruto_core.dataset.records import BrokenRecordError, decode
from naruto_core.errors import RecordDamaged


@lru_cache(maxsize=32)
def buckets(resolution: int, step: int) -> tuple[tuple[int, int], ...]:
    """All bucket sizes (height, width) with sides of multiples of `step` and area <= resolution x resolution."""
    sizes: set[tuple[int, int]] = set()
    for short in range(max(step, math.ceil(resolution / 2 / step) * step), resolution + 1, step):
        long = min(resolution * resolution // short // step * step, 2 * resolution)
        sizes |= {(short, long), (long, short)}
    return tuple(sorted(sizes))


def bucket_of(width: int, height: int, resolution: int, step: int | None) -> tuple[int, int]:
    """The size (height, width) of the bucket with the nearest aspect ratio; a square for `step` None."""
    if step is None:
        return resolution, resolution
    shape = math.log(width / height)
    return min(buckets(resolution, step), key=lambda size: (abs(math.log(size[1] / size[0]) - shape), size))


@dataclass(frozen=True, slots=True)
class PreparedPicture:
    """One picture for training, with SDXL's size conditioning.

    `pixels` is uint8 (height, width, 3) of the requested size; `original_size` is (height, width) in pixels
    before resizing, upright; `crop` is (top, left) in pixels of the resized picture.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """The changes of a view: mirrored, crop position (0 .. 1; None: centre), factors of brightness, contrast, color."""

    mirrored: bool = False
    crop_position: float | None = None
    colours: tuple[float, float, float] = (1.0, 1.0, 1.0)


PLAIN = View()


def draw_view(random_flip: bool, random_crop: bool, color_jitter: float, name: str, view: int) -> View:
    """The random changes of view number `view`, always the same for the same `name`; view 0 has none."""
    if view == 0:
        return PLAIN
    rng = random.Random(f"{name} {view}")
    flip, position = rng.random() < 0.5, rng.random()
    colours = [1 + rng.uniform(-color_jitter, color_jitter) for _ in range(3)]
    return View(random_flip and flip, position if random_crop else None, (colours[0], colours[1], colours[2]))


def shuffle_caption(caption: str, name: str, view: int, *, keep_first: bool = False) -> str:
    """The comma-separated parts of `caption` in random order for `view`; view 0 is unchanged.

    `keep_first`: the first part, which has the instance prompt, stays the first.
    """
    if not view:
        return caption
    parts = [part.strip() for part in caption.split(",")]
    first, others = (parts[:1], parts[1:]) if keep_first else ([], parts)
    random.Random(f"{name} {view} caption").shuffle(others)
    return ", ".join([*first, *others])


def prepare(data: bytes, size: tuple[int, int], view: View = PLAIN) -> PreparedPicture:
    """The picture in `data` resized and cropped to `size` (height, width). Raises RecordDamaged for a damaged file."""
    try:
        image = decode(data).image
    except BrokenRecordError as broken:
        raise RecordDamaged(
            f"a stored picture can no longer be read ({broken}); ingest its dataset again to replace it."
        ) from None
    width, height = image.size
    resized = image.resize(_covering_size((height, width), size), Image.Resampling.LANCZOS)
    if view.mirrored:
        resized = ImageOps.mirror(resized)
    wide, high = resized.width - size[1], resized.height - size[0]
    position = 0.5 if view.crop_position is None else view.crop_position
    top, left = round(high * position), round(wide * position)
    cropped = _adjust_colours(resized.crop((left, top, left + size[1], top + size[0])), view.colours)
    return PreparedPicture(np.array(cropped, dtype=np.uint8), (height, width), (top, left))


def _covering_size(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of the smallest picture that covers `size`; the longer side is rounded down."""
    (height, width), (high, wide) = original, size
    if width * high <= height * wide:
        return wide, max(high, int(wide * height / width))
    return max(wide, int(high * width / height)), high


def _adjust_colours(image: Image.Image, colours: tuple[float, float, float]) -> Image.Image:
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), colours, strict=True
    ):
        if factor != 1.0:
            image = enhance(image).enhance(factor)
    return image
