"""Encoded pictures, made once per session; a new pipeline for every training."""

from pathlib import Path

import pytest

from naruto_core import sdxl
from naruto_core.training.latent_cache import Examples
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import encode


@pytest.fixture(scope="session")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """Twelve pictures, encoded by the miniature in fp32."""
    pipeline = sdxl.load_pipeline(MINIATURE, "fp32", CPU)
    return encode(pipeline, tmp_path_factory.mktemp("examples"))


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naruto_core.training.loop.REPORT_SECONDS", 0.0)


@pytest.fixture
def adapter_file(tmp_path: Path) -> Path:
    return tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
