"""Sample metrics, one number a picture: agreement with the prompt, style, nearness to training, blank, preference."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from naruto_core.artifacts import sha256_file
from naruto_core.domain import Variant
from naruto_core.errors import ModelUnusable
from naruto_core.scoring.memorization import nearest
from naruto_core.scoring.set_metric import MOST, Features, portions, unit_length

if TYPE_CHECKING:
    from PIL.Image import Image


def cosines(pictures: Features, texts: Features) -> NDArray[np.float64]:
    """Row-wise cosine, -1..1, of (n, d) picture and (n, d) text embeddings."""
    found = [
        (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        for a, b in zip(portions(pictures), portions(texts), strict=True)
    ]
    return np.concatenate(found) if found else np.zeros(0)


FLAT = 2.0  # standard deviation of grey, of 255, below which a picture is one colour
CUT_OFF = 0.99  # share of pixels that are black or white, from which nothing else is to be seen


def is_blank(picture: "Image") -> bool:
    """Whether a picture is of one colour, or nearly all black and white (a NaN is drawn as black)."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    return bool(grey.std() < FLAT or ((grey <= 1) | (grey >= 254)).mean() >= CUT_OFF)


Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Extra:
    """One metric's values (n,) by variant, row for row of its pictures, and what measured them."""

    extractor: str
    values: Mapping[Variant, Vector]


@dataclass(frozen=True, slots=True)
class LinearHead:
    """weight . x + bias of a picture's features x of length one (LAION's aesthetic predictor is of this form)."""

    id: str
    weight: Vector
    bias: float

    def __call__(self, features: Features) -> Vector:
        """A value (n,) for each row (n, d); ModelUnusable when the head was made for other features."""
        if features.shape[1] != len(self.weight):
            raise ModelUnusable(
                f"the aesthetic head reads {len(self.weight)} features and the pair extractor has {features.shape[1]}: "
                "name the extractor it was trained on."
            )
        return np.concatenate([unit_length(part) @ self.weight + self.bias for part in portions(features)])


def load_head(path: Path) -> LinearHead:
    """The head in a safetensors file with `weight` (1, d) and `bias` (1); ModelUnusable when it is none."""
    try:
        tensors = load_file(path)
        weight, bias = tensors["weight"].astype(np.float64), tensors["bias"].astype(np.float64)
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelUnusable(f"{path}: not a safetensors file with weight and bias of a linear head.") from error
    if weight.ndim != 2 or weight.shape[0] != 1 or bias.shape != (1,):
        raise ModelUnusable(f"{path}: a linear head has weight (1, d) and bias (1), not {weight.shape}, {bias.shape}.")
    return LinearHead(f"head:{sha256_file(path)[:16]}", weight[0], float(bias[0]))


def style_closeness(pictures: Features, reference: Features) -> Vector:
    """Cosine (n,), -1 to 1, of each picture to the middle of the reference (mean of features of length one)."""
    centre = np.sum([unit_length(part).sum(axis=0) for part in portions(reference)], axis=0)
    direction = centre / np.maximum(np.linalg.norm(centre), 1e-12)
    return np.concatenate([unit_length(part) @ direction for part in portions(pictures)])


def nearness(pictures: Features, training: Features) -> Vector:
    """Cosine (n,) to the nearest training picture."""
    return nearest(pictures, training)[0]


def nearness_of_new(new: Features | None, training: Features) -> Vector:
    """Cosine (n,) of pictures that were not trained on to the nearest training picture; of the first `MOST`.

    Where nothing was held out (None), of training pictures to the nearest other one.
    """
    if new is None:
        return nearest(training[:MOST], training, same=True)[0]
    return nearness(new[:MOST], training)
