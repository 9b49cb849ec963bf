"""Pictures without content: what a broken sampler, a safety filter or an overflow leaves."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

FLAT = 2.0  # standard deviation of grey, of 255, below which a picture is one colour
CUT_OFF = 0.99  # share of pixels that are black or white, from which nothing else is to be seen


def is_blank(picture: "Image") -> bool:
    """Whether a picture is of one colour, or nearly all black and white (a NaN is drawn as black)."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    return bool(grey.std() < FLAT or ((grey <= 1) | (grey >= 254)).mean() >= CUT_OFF)
