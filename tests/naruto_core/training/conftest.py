"""Encoded pictures, made once per session; a new pipeline for every training; programs that train."""

import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest

from naruto_core import sdxl
from naruto_core.recipe_training import Precision
from naruto_core.training.latent_cache import Examples
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import captioned_tiny, encode, tiny_pipeline
from tests.preloaded import Preloaded, preloaded


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Twelve pictures, encoded by the miniature in fp32."""
    pipeline = sdxl.load_pipeline(MINIATURE, "fp32", CPU)
    return encode(pipeline, tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="session")
def _tiny_loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Precision], object]:
    folder = tmp_path_factory.mktemp("tiny") / "base"
    return cache(lambda precision: tiny_pipeline(folder, precision))


@pytest.fixture
def load_tiny(_tiny_loaded: Callable[[Precision], object]) -> Callable[..., object]:
    """A fresh pipeline at every call, of the tiny base: for what does not depend on what a model has learnt."""

    def load(precision: Precision = "fp32") -> object:
        return deepcopy(_tiny_loaded(precision))

    return load


@pytest.fixture(scope="session")
def tiny_examples(_tiny_loaded: Callable[[Precision], object], tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Twelve pictures, encoded by the tiny base in fp32."""
    return encode(_tiny_loaded("fp32"), tmp_path_factory.mktemp("tiny-examples"), picture=captioned_tiny)


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naruto_core.training.loop.REPORT_SECONDS", 0.0)


@pytest.fixture
def adapter_file(tmp_path: Path) -> Path:
    return tmp_path / "adapter" / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="session")
def programs() -> Iterator[Preloaded]:
    """What starts the modules of this folder in processes of their own, without the seconds that imports take."""
    pipeline = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    folder = "tests.naruto_core.training"
    own = (f"{folder}.stoppable", f"{folder}.launched", f"{folder}.largest_step")
    with preloaded([*own, "peft", "torch.distributed.launcher.api", pipeline], os.environ) as opened:
        yield opened
