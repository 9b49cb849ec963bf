"""Original bytes to training pixels: RGB, short side to the resolution, centre crop (Seed's preparation).

The rounding is that of torchvision's `Resize` and of the crop in diffusers' SDXL training scripts, so
that the micro-conditioning means the same here and there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from naruto_core.dataset.decoding import decode
from naruto_core.dataset.records import BrokenRecordError
from naruto_core.errors import RecordDamaged


@dataclass(frozen=True, slots=True)
class Prepared:
    """One square picture for training, with what SDXL is told about it.

    `pixels` is uint8 (resolution, resolution, 3); `original_size` is (height, width) in pixels before
    resizing, upright; `crop` is (top, left) of the square in pixels of the resized picture.
    """

    pixels: npt.NDArray[np.uint8]
    original_size: tuple[int, int]
    crop: tuple[int, int]


def prepare(data: bytes, resolution: int) -> Prepared:
    """The picture in `data` at `resolution`; raises RecordDamaged when an ingested picture no longer reads."""
    try:
        image = decode(data).image
    except BrokenRecordError as broken:
        raise RecordDamaged(
            f"a stored picture can no longer be read ({broken}); ingest its dataset again to replace it."
        ) from None
    width, height = image.size
    resized = image.resize(_covering(width, height, resolution), Image.Resampling.LANCZOS)
    top = round((resized.height - resolution) / 2)
    left = round((resized.width - resolution) / 2)
    square = resized.crop((left, top, left + resolution, top + resolution))
    return Prepared(np.array(square, dtype=np.uint8), (height, width), (top, left))


def _covering(width: int, height: int, resolution: int) -> tuple[int, int]:
    """(width, height) with the short side at `resolution`, the long side rounded down."""
    if width <= height:
        return resolution, int(resolution * height / width)
    return int(resolution * width / height), resolution
