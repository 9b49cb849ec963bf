"""Optional sample metrics by networks that learnt what people like."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from naruto_core.artifacts import sha256_file
from naruto_core.domain import Variant
from naruto_core.errors import ModelUnusable
from naruto_core.scoring.measure import Features, portions, unit_length

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
