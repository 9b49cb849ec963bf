"""Original bytes to training pixels: RGB, resized to cover the training size (or its aspect bucket), cropped."""

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


@dataclass(frozen=True, slots=True)
class Prepared:
    """One picture for training, with what SDXL is told about it.

    `pixels` is uint8 (height, width, 3) of the wanted size; `original_size` is (height, width) in pixels
    before resizing, upright; `crop` is (top, left) of the cut in pixels of the resized picture.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """How a view differs from the plain picture: mirrored, cut elsewhere (0 .. 1), in other colours (factors)."""

    mirrored: bool = False
    place: float | None = None
    colours: tuple[float, float, float] = (1.0, 1.0, 1.0)


PLAIN = View()


def draw_view(random_flip: bool, random_crop: bool, color_jitter: float, name: str, view: int) -> View:
    """The look of a picture's `view`, always the same for the same `name`; view 0 is the plain one."""
    if view == 0:
        return PLAIN
    chance = random.Random(f"{name} {view}")
    flip, place = chance.random() < 0.5, chance.random()
    colours = [1 + chance.uniform(-color_jitter, color_jitter) for _ in range(3)]
    return View(random_flip and flip, place if random_crop else None, (colours[0], colours[1], colours[2]))


def shuffle_caption(caption: str, name: str, view: int) -> str:
    """The comma-separated parts of `caption` in another order; view 0 leaves it as it is."""
    parts = [part.strip() for part in caption.split(",")]
    if view:
        random.Random(f"{name} {view} caption").shuffle(parts)
    return ", ".join(parts) if view else caption


def prepare(data: bytes, size: tuple[int, int], look: View = PLAIN) -> Prepared:
    """The picture in `data` at `size` (height, width); RecordDamaged when an ingested picture no longer reads."""
    try:
        image = decode(data).image
    except BrokenRecordError as broken:
        raise RecordDamaged(
            f"a stored picture can no longer be read ({broken}); ingest its dataset again to replace it."
        ) from None
    width, height = image.size
    resized = image.resize(_covering((height, width), size), Image.Resampling.LANCZOS)
    if look.mirrored:
        resized = ImageOps.mirror(resized)
    wide, high = resized.width - size[1], resized.height - size[0]
    place = 0.5 if look.place is None else look.place
    top, left = round(high * place), round(wide * place)
    cut = _coloured(resized.crop((left, top, left + size[1], top + size[0])), look.colours)
    return Prepared(np.array(cut, dtype=np.uint8), (height, width), (top, left))


def _covering(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a picture that just covers `size`; the side that sticks out is rounded down."""
    (height, width), (high, wide) = original, size
    if width * high <= height * wide:
        return wide, max(high, int(wide * height / width))
    return max(wide, int(high * width / height)), high


def _coloured(image: Image.Image, colours: tuple[float, float, float]) -> Image.Image:
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), colours, strict=True
    ):
        if factor != 1.0:
            image = enhance(image).enhance(factor)
    return image
