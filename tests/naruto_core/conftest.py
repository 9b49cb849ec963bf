"""The miniature, loaded once for every test that needs a real SDXL pipeline."""

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache

import pytest
import torch

from naruto_core import sdxl
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import Precision

MINIATURE = ModelSection(base="package:naruto_core.mini/weights/base")
JUDGE = "package:naruto_core.mini/weights/judge"
CPU = torch.device("cpu")


@lru_cache
def _loaded(precision: Precision) -> object:
    return sdxl.load_pipeline(MINIATURE, precision, CPU)


@pytest.fixture
def load_miniature() -> Callable[..., object]:
    """A fresh pipeline at every call, because tests put adapters into it: a copy, which takes a third of the time."""

    def load(precision: Precision = "fp32") -> object:
        return deepcopy(_loaded(precision))

    return load
