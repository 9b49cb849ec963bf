"""The miniature, loaded once for every test that needs a real SDXL pipeline."""

from collections.abc import Callable

import pytest
import torch

from naruto_core import sdxl
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import Precision

MINIATURE = ModelSection(base="package:naruto_core.mini/weights/base")
JUDGE = "package:naruto_core.mini/weights/judge"
CPU = torch.device("cpu")


@pytest.fixture
def load_miniature() -> Callable[..., object]:
    """A fresh pipeline at every call: tests put adapters into it."""

    def load(precision: Precision = "fp32") -> object:
        return sdxl.load_pipeline(MINIATURE, precision, CPU)

    return load
