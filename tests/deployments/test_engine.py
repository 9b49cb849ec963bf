"""The engine: one base model in memory at a time, and a reason for each picture that it could not draw."""

import logging
import queue

import pytest
import torch
from PIL.Image import Image

from deployments.service.engine import Engine, QueueItem
from deployments.service.metrics import Metrics
from deployments.service.model_cache import ModelCache
from deployments.service.model_registry import ModelSpec
from naruto_core import devices
from naruto_core.continuous_batching import Order
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.recipe_training import Precision
from tests.loaded_models import counting_models

MODEL = ModelSection(base="package:naruto_core.mini/weights/base")


def spec(precision: Precision) -> ModelSpec:
    """Specs of different precision have a base model each."""
    section = GenerationSection(
        suite="-", resolution=64, num_inference_steps=2, batch_size=1, mixed_precision=precision
    )
    return ModelSpec("base", MODEL, section)


@pytest.fixture
def engine() -> Engine:
    metrics = Metrics()
    return Engine(ModelCache(torch.device("cpu"), 1, 4, metrics), 64, metrics, fixed_size=True)


def draw(engine: Engine, *requests: tuple[Precision, float]) -> list[Image | str]:
    """A picture or a reason for each (precision, guidance), all queued at the same time."""
    results: queue.Queue[Image | str] = queue.Queue()
    items: list[QueueItem] = []
    for precision, guidance in requests:
        order = Order("a cat", 1, "", 2, guidance)
        items.append(QueueItem(spec(precision), 64, 64, order, lambda _: None, results.put, results.put))
    engine.submit(items)
    return [results.get(timeout=60) for _ in requests]


def test_a_model_is_freed_before_the_next_is_loaded_and_the_log_names_the_computed_precision(
    engine: Engine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    caplog.set_level(logging.INFO, "naruto.service")
    engine.start()
    with counting_models() as alive:
        drawn = draw(engine, ("fp32", 4.0), ("bf16", 4.0), ("fp32", 3.0))
        drawn += draw(engine, ("bf16", 4.0))
    assert engine.stop(30)
    assert all(isinstance(picture, Image) for picture in drawn)
    assert alive == [0, 0, 0, 0]
    loaded = [vars(record) for record in caplog.records if record.getMessage() == "loaded a base model"]
    assert [facts["precision"] for facts in loaded] == ["fp32"] * 4, "bf16 too, on a CPU that would emulate it"


def test_a_picture_that_overflows_fails_with_a_reason_and_the_next_is_drawn(engine: Engine):
    engine.start()
    reason, drawn = draw(engine, ("fp32", 1e38), ("fp32", 4.0))
    assert engine.stop(30)
    assert "the UNet's latents are not finite numbers: lower the guidance scale" in str(reason)
    assert isinstance(drawn, Image)
