"""Dropout is off in validation and previews; a resumed fp16 run does not report an overflow in its first step."""

from pathlib import Path

import pytest
import torch

from naruto_core.training.lora import LoraLinear
from naruto_core.training.step import Trainer
from tests.naruto_core.training.pictures import data_of, encode, section_of


def test_dropout_is_off_in_validation_and_previews(load_miniature, tmp_path: Path):
    learning: list[str] = []
    pipeline = load_miniature()

    def on_preview(_steps: int, _weights: object) -> dict[str, float]:
        parts = (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
        learning.extend(name for part in parts for name, module in part.named_modules() if module.training)
        return {}

    examples = encode(load_miniature(), tmp_path, with_text=False)
    options = {"validation": {"validation_steps": 1}, "previews": {"preview_steps": 1}}
    section = section_of(lora_dropout=0.5, text_encoder_lr=1.0, **options)
    run = Trainer(pipeline, [data_of(examples, section)], section, {}, on_preview)
    with torch.no_grad():
        for weight in run.weights.named.values():
            weight.add_(0.05)
    assert run._validation(1) == run._validation(1)
    run._preview(1)
    assert not learning
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2)
    layers = [module for part in parts for module in part.modules() if isinstance(module, LoraLinear)]
    assert len(layers) == 76
    assert all(layer.training for layer in layers)  # and the steps after it have it again


def test_a_resumed_fp16_run_does_not_take_the_saved_scale_for_an_overflow(
    load_miniature, examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("naruto_core.devices.check_precision", lambda *_: None)  # fp16 on a CPU: slow, but it is there
    section = section_of(mixed_precision="fp16", train_batch_size=1)
    run = Trainer(load_miniature(), [data_of(examples, section)], section, {})
    run.optimizer_step(0)
    run.scaler.update(2.0**14)  # as after two overflows
    run.save(tmp_path / "checkpoint.safetensors", "recipe", 1)
    again = Trainer(load_miniature(), [data_of(examples, section)], section, {})
    again.resume(tmp_path / "checkpoint.safetensors", "recipe")
    assert "overflow" not in again.optimizer_step(1).gauges


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_validation_loss_is_of_the_averages_that_are_written_and_changes_nothing(
    load_tiny, tiny_examples, precision: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("naruto_core.devices.cpu_has_bf16", lambda: True)
    options = {"mixed_precision": precision, "optimizer": "adamw", "learning_rate": 0.05, "ema_decay": 0.9}
    section = section_of(validation={"validation_steps": 1}, **options)
    run = Trainer(load_tiny(precision), [data_of(tiny_examples, section)], section, {})
    measured = [float(run.optimizer_step(step).gauges["validation_loss"]) for step in range(3)]
    live = [flat.weights.clone() for flat in run.weights.flats]
    assert float(run._validation(3)["validation_loss"]) == measured[-1]
    assert all(torch.equal(flat.weights, own) for flat, own in zip(run.weights.flats, live, strict=True))
    averages = run.weights._averages
    for flat, average in zip(run.weights.flats, averages, strict=True):
        assert not torch.equal(flat.weights, average)
        flat.weights.copy_(average)
    for copy in run.weights._copies:
        copy.update()
    run.weights._averages = []
    assert float(run._validation(3)["validation_loss"]) == measured[-1]
