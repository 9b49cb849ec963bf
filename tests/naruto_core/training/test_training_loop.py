"""The training loop: it learns, it can be stopped anywhere, and it resumes to the same result."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from naruto_core.checkpoint import read_checkpoint, write_checkpoint
from naruto_core.domain import StepRecord
from naruto_core.errors import RecordDamaged, TrainingDiverged
from naruto_core.planning.device_speeds import measured_speed
from naruto_core.training.batches import NoiseConfig, StyleData, TrainingData, draw_batch
from naruto_core.training.checkpoint_selection import best_step, best_steps
from naruto_core.training.latent_cache import Examples
from naruto_core.training.loop import StopSignal, TrainingCallbacks, TrainingJob, train_adapter
from naruto_core.training.loss import denoising_loss
from naruto_core.training.memory import GIB
from naruto_core.training.step import Trainer
from naruto_core.training.weights import write_files
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import (
    ADAPTER,
    BASE_PRIOR,
    PRIOR,
    data_of,
    encode,
    ignore,
    numbers,
    section_of,
    train,
)
from tests.preloaded import Preloaded
from tests.small_disk import on_a_small_disk


class _Killed(Exception): ...


def _die_after(steps: int):
    def on_steps(records: list[StepRecord]) -> None:
        if len(records) > steps:  # the step that is reported is not yet in the checkpoint
            raise _Killed

    return on_steps


def test_training_lowers_the_loss_on_what_it_sees(load_miniature, examples: Examples, tmp_path: Path):
    pipeline = load_miniature("bf16")
    section = section_of(
        max_train_steps=24, train_batch_size=3, mixed_precision="bf16", optimizer="adamw", learning_rate=2e-3
    )
    probe = Trainer(load_miniature(), [data_of(examples, section)], section.model_copy(update={"seed": 99}), {})

    def loss_on_fixed_noise(unet: torch.nn.Module) -> float:
        losses = []
        for step in range(6):
            batch = draw_batch(probe.gradients[0].stream, NoiseConfig(99, 1000), step, CPU)
            noisy = probe.gradients[0].scheduler.add_noise(batch.clean, batch.noise, batch.t)
            condition = {"text_embeds": batch.text.pooled.to(unet.dtype), "time_ids": batch.time_ids}
            with torch.no_grad():
                predicted = unet(
                    noisy.to(unet.dtype), batch.t, batch.text.hidden.to(unet.dtype), added_cond_kwargs=condition
                ).sample
            weights = probe.gradients[0].weighting.weights(probe.gradients[0].scheduler, batch.t)
            losses.append(float(denoising_loss(predicted, batch.noise, weights)))
        return float(np.mean(losses))

    before = loss_on_fixed_noise(load_miniature().unet.to(pipeline.unet.dtype))
    steps, _ = train(pipeline, examples, section, tmp_path / "checkpoint.safetensors")
    assert loss_on_fixed_noise(pipeline.unet) < 0.9 * before
    assert [record.step for record in steps] == list(range(24))


TOKENS = {"textual_inversion": {"initializer_concept": "anime", "pivot_step": 4}}
EVERYTHING = {
    "text_encoder_lr": 1.0,
    "prior": PRIOR,
    "lora_dropout": 0.2,
    "caption_dropout": 0.3,
    "noise_offset": 0.05,
    "ema_decay": 0.9,
    "text_encoder_stop_step": 5,
    "unfreeze": [{"modules": "unet.up_blocks", "step": 2}],
    "style_loss": {"features": "decoder"},
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixed_precision": "bf16", **EVERYTHING},
        {"mixed_precision": "bf16", "use_dora": True, **TOKENS},
        {"text_encoder_lr": 0.5, "prodigy_separate_d": True, "prior": BASE_PRIOR},
        {"optimizer": "adamw", "learning_rate": 1e-3, "lr_scheduler": "cosine", "gradient_accumulation_steps": 2}
        | {"textual_inversion": {"train_lora": False, "learning_rate": 1e-2}},
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(load_tiny, tiny_examples, tmp_path: Path, changes):
    """The kill is after the fourth step, of which the record but not the checkpoint knows: as the disk is then."""
    section = section_of(**changes)
    tokens = {"TOK": "<s0><s1>"} if section.textual_inversion else {}
    undisturbed, path, left = load_tiny(section.mixed_precision), tmp_path / "a.safetensors", tmp_path / "b"

    def keep_checkpoint(records: list[StepRecord]) -> None:
        if len(records) == 4:
            shutil.copyfile(path, left.with_suffix(".safetensors"))

    record, weights = train(undisturbed, tiny_examples, section, path, keep_checkpoint, tokens=tokens)
    files = write_files(undisturbed, weights, tmp_path / "a")

    resumed = load_tiny(section.mixed_precision)
    rest, weights = train(resumed, tiny_examples, section, left.with_suffix(".safetensors"), tokens=tokens)
    write_files(resumed, weights, left)
    assert numbers(rest) == numbers(record)[3:]
    assert files
    for file in files:
        assert file.read_bytes() == (left / file.name).read_bytes()


def test_no_step_is_missing_from_the_record_whenever_the_kill_comes(load_tiny, tiny_examples, tmp_path, monkeypatch):
    """Between a checkpoint and the next report, too: what is in the checkpoint will not be done again."""
    saves: list[int] = []

    def save_and_die(path: Path, tensors: dict[str, torch.Tensor], values: dict[str, object]) -> None:
        write_checkpoint(path, tensors, values)
        saves.append(int(values["steps"]))
        if len(saves) == 3:
            raise _Killed

    monkeypatch.setattr("naruto_core.training.loop.REPORT_SECONDS", 1e9)
    monkeypatch.setattr("naruto_core.training.step.write_checkpoint", save_and_die)
    recorded: list[StepRecord] = []
    with pytest.raises(_Killed):
        train(
            load_tiny(),
            tiny_examples,
            section_of(),
            tmp_path / "c.safetensors",
            lambda records: recorded.extend(records[-1:]),
        )
    assert [record.step for record in recorded] == list(range(saves[-1]))


def test_asked_to_stop_by_a_signal_it_saves_the_step_it_has_done(programs: Preloaded, tmp_path: Path):
    program = programs.start("tests.naruto_core.training.stoppable", str(tmp_path), environment=os.environ)
    told: list[int] = []
    for line in program.output:
        if line.strip().isdecimal():  # libraries may say something too
            told.append(int(line))
            if told[-1] == 3:
                os.kill(program.pid, signal.SIGTERM)
    assert program.wait() == -signal.SIGTERM
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")[1]["steps"] == told[-1] >= 3


def test_a_request_to_stop_saves_the_step_and_a_checkpoint_of_another_run_is_refused_with_both_names(
    load_tiny, tiny_examples, tmp_path
):
    path, asked, section = tmp_path / "c.safetensors", iter([False, True]), section_of()

    def stop() -> None:
        raise _Killed

    callbacks = TrainingCallbacks(ignore, ignore, None, lambda: next(asked), stop)
    with pytest.raises(_Killed):
        train_adapter(
            load_tiny(),
            [data_of(tiny_examples, section)],
            TrainingJob(section, {}, path, 1e9, "recipe/data", callbacks),
        )
    assert read_checkpoint(path)[1]["steps"] == 2
    job = TrainingJob(section, {}, path, 0.0, "other/data", TrainingCallbacks(ignore, ignore))
    with pytest.raises(RecordDamaged, match=r"recipe/data.*not other/data"):
        train_adapter(load_tiny(), [data_of(tiny_examples, section)], job)


def test_a_loss_that_stays_non_finite_ends_the_training_and_the_last_good_checkpoint_stays(
    load_tiny, tiny_examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("naruto_core.training.step.MAX_NON_FINITE_STEPS", 3)
    section = section_of(optimizer="adamw", max_train_steps=40).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingDiverged, match=r"not finite for 3 steps in a row.*learning_rate") as stopped:
        train(load_tiny(), tiny_examples, section, tmp_path / "c.safetensors")
    assert "\n" not in str(stopped.value)


def test_the_validation_loss_is_a_function_of_the_weights_alone_and_changes_nothing(
    load_tiny, tiny_examples, tmp_path: Path
):
    from diffusers import DDPMScheduler
    from torch.nn import functional as F

    adapters: list[bytes] = []
    for validation in (None, {"validation_steps": 2, "num_validation_images": 12}):
        pipeline, section = load_tiny(), section_of(max_train_steps=5, validation=validation)
        steps, weights = train(pipeline, tiny_examples, section, tmp_path / "checkpoint.safetensors")
        (tmp_path / "checkpoint.safetensors").unlink()
        write_files(pipeline, weights, tmp_path / "a")
        adapters.append((tmp_path / "a" / ADAPTER).read_bytes())
    assert adapters[0] == adapters[1]
    measured = {step.step: step.gauges["validation_loss"] for step in steps if "validation_loss" in step.gauges}
    assert list(measured) == [1, 3, 4]  # after two, four and all five steps

    total = 0.0  # the same by hand, with diffusers' own forward process and PEFT's layers
    for row in range(len(tiny_examples)):
        mean = tiny_examples.mean.row(row)
        noise = torch.randn((4, *mean.shape), generator=torch.Generator().manual_seed(row))
        clean, t = mean.expand_as(noise), torch.tensor([200, 400, 600, 800])
        condition = {"text_embeds": tiny_examples.pooled[[row] * 4], "time_ids": tiny_examples.time_ids[[row] * 4]}
        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        with torch.no_grad():
            predicted = pipeline.unet(
                scheduler.add_noise(clean, noise, t), t, tiny_examples.hidden[[row] * 4], added_cond_kwargs=condition
            ).sample
        total += float(F.mse_loss(predicted, noise))
    assert total / len(tiny_examples) == pytest.approx(measured[4], rel=1e-4)


def test_a_clock_that_stands_still_ends_neither_a_training_nor_a_measurement_of_the_device(
    load_tiny, tiny_examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"time.{name}", lambda: 5.0)
    steps, _ = train(load_tiny(), tiny_examples, section_of(max_train_steps=2), tmp_path / "checkpoint.safetensors")
    assert [step.step for step in steps] == [0, 1]
    assert measured_speed("CPU", CPU, torch.float32, GIB).rate > 0


def test_a_preview_changes_nothing_and_its_metrics_belong_to_its_step(
    load_tiny, tiny_examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The callback does what drawing does: it freezes the weights and converts them to half precision."""
    monkeypatch.setattr("naruto_core.devices.cpu_has_bf16", lambda: True)
    adapters: list[bytes] = []
    for previews in (None, {"preview_steps": 2}):
        changes = {"mixed_precision": "bf16", "ema_decay": 0.5, "max_train_steps": 5, "previews": previews}
        pipeline, section = load_tiny("bf16"), section_of(**changes)

        def on_preview(steps: int, _weights: object, pipeline: object = pipeline) -> dict[str, float]:
            pipeline.unet.requires_grad_(False)
            for layer in pipeline.unet.modules():
                if isinstance(layer, torch.nn.Linear):
                    layer.bfloat16()
            return {"clip_score": float(steps)}

        steps, weights = train(
            pipeline, tiny_examples, section, tmp_path / "checkpoint.safetensors", on_preview=on_preview
        )
        (tmp_path / "checkpoint.safetensors").unlink()
        write_files(pipeline, weights, tmp_path / "a")
        adapters.append((tmp_path / "a" / ADAPTER).read_bytes())
    assert adapters[0] == adapters[1]
    assert {s.step: s.gauges["clip_score"] for s in steps if "clip_score" in s.gauges} == {1: 2.0, 3: 4.0, 4: 5.0}


def test_the_best_step_is_named_with_its_reason():
    def step(number: int, **gauges: float) -> StepRecord:
        return StepRecord(number, 0.1, 1.0, gauges)

    both = [step(9, validation_loss=0.2, clip_score=0.5), step(19, validation_loss=0.1, clip_score=0.4), step(29)]
    best = best_step([*both, step(39, validation_loss=0.15)])
    assert (best.steps, best.reason) == (20, "step 20, validation loss 0.1000, the lowest of 3 (last: 0.1500)")
    only_clip = [step(9, clip_score=0.5), step(19, clip_score=0.4)]
    assert best_step(only_clip).reason == "step 10, CLIP score 0.5000, the highest of 2 (last: 0.4000)"
    assert best_step([step(9, validation_loss=float("nan")), step(19, validation_loss=0.3)]) is None
    assert best_step([]) is None


def test_adapters_of_different_styles_are_not_compared_with_each_other():
    def step(number: int, loss: float) -> StepRecord:
        return StepRecord(number, 0.1, 1.0, {"validation_loss": loss})

    records = [step(9, 0.5), step(19, 0.6), step(29, 0.2), step(39, 0.1)]
    best = best_steps(records, ["main", "gothic"], 20)
    assert {name: step.steps for name, step in best.items()} == {"main": 10, "gothic": 20}
    assert best_steps(records[:3], ["main", "gothic"], 20).keys() == {"main"}


def test_stages_change_the_resolution_and_resume_in_the_right_one(load_tiny, tiny_examples, tmp_path: Path):
    from dataclasses import replace

    class Smaller:
        """The same latents at a quarter of the pixels."""

        def __init__(self, column: object) -> None:
            self.column = column

        def row(self, index: int) -> torch.Tensor:
            return self.column.row(index)[:, ::2, ::2]

    small = replace(tiny_examples, mean=Smaller(tiny_examples.mean), deviation=Smaller(tiny_examples.deviation))
    section = section_of(stages=[{"resolution": 32, "steps": 3}, {"resolution": 64, "steps": 3}])
    stages = [TrainingData(3, (StyleData(small),)), TrainingData(3, (StyleData(tiny_examples),))]
    seen: list[tuple[int, ...]] = []
    pipeline = load_tiny()
    pipeline.unet.register_forward_pre_hook(lambda _module, inputs: seen.append(tuple(inputs[0].shape[2:])))
    record, _ = train(pipeline, tiny_examples, section, tmp_path / "a.safetensors", stages=stages)
    assert seen == [(8, 8)] * 3 + [(16, 16)] * 3
    with pytest.raises(_Killed):
        train(load_tiny(), tiny_examples, section, tmp_path / "b.safetensors", _die_after(4), stages=stages)
    rest, _ = train(load_tiny(), tiny_examples, section, tmp_path / "b.safetensors", stages=stages)
    assert numbers(rest) == numbers(record)[4:]


def test_start_up_and_steps_need_no_more_memory_for_more_pictures(load_miniature, tmp_path: Path):
    """Ten times the pictures: what the process keeps for itself (not mapped files) stays."""
    pipeline = load_miniature()
    few = encode(pipeline, tmp_path / "few")
    memory = []
    for copies in (1, 60):
        many = [StyleData(few)] * copies
        data = TrainingData(6, tuple(many))
        run = Trainer(load_miniature(), [data], section_of(), {})
        for step in range(3):
            run.optimizer_step(step)
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        memory.append(int(lines["RssAnon"].split()[0]) / 1024)
    assert memory[1] - memory[0] < 100  # MiB: another pipeline, not sixty times the pictures


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a program in the foreground has it, whatever runs the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_waits_until_the_step_is_done_and_then_has_its_usual_effect(interruptible: None):
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            stop.raise_received()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored(interruptible: None):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is None
        stop.raise_received()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


FULL = """
import sys
from pathlib import Path
import torch
from naruto_core.artifacts import storage_errors
from naruto_core.checkpoint import read_checkpoint, write_checkpoint
from naruto_core.errors import StorageFailed
path = Path(sys.argv[1]) / "checkpoint.safetensors"
write_checkpoint(path, {"weights": torch.zeros(20_000)}, {"steps": 1})
try:
    with storage_errors(path):
        write_checkpoint(path, {"weights": torch.zeros(20_000)}, {"steps": 2})
except StorageFailed as error:
    print(error)
print(read_checkpoint(path)[1], len(list(path.parent.iterdir())))
"""


def test_a_disk_that_is_full_while_saving_leaves_the_last_good_checkpoint(tmp_path: Path):
    command = [*on_a_small_disk(tmp_path, 120), sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, left = done.stdout.splitlines()
    assert "the disk is full; free some space and run the same command again" in refused
    assert left == "{'steps': 1} 1"
