"""The trainer, held against diffusers' own pipeline, against its formulas, and against interruption."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional as F

from naruto_core import sdxl
from naruto_core.checkpoint import write_checkpoint
from naruto_core.domain import StepRecord
from naruto_core.errors import DatasetUnusable, RecordDamaged
from naruto_core.mini.measure import drawings
from naruto_core.recipe_training import TrainingSection
from naruto_core.training.batches import CLASS_STREAM, TrainingData, draw_batch, rows_of
from naruto_core.training.conditioning import encode_texts, time_ids
from naruto_core.training.examples import Captioned, Examples, encode_examples
from naruto_core.training.loop import _Run, train_adapter
from naruto_core.training.lora import trainable, write_adapter
from naruto_core.training.loss import NoiseSchedule, denoising_loss
from naruto_core.training.validation import validation_loss
from tests.naruto_core.conftest import CPU

PROMPT = "a naruto anime character"
PICTURES, SCENES = drawings("naruto", 12, seed=3)
NAMES = [f"picture-{i}" for i in range(12)]


def _section(**changes: object) -> TrainingSection:
    values = {
        "instance_prompt": PROMPT,
        "resolution": 64,
        "train_batch_size": 2,
        "max_train_steps": 6,
        "mixed_precision": "fp32",
        "seed": 5,
    }
    return TrainingSection.model_validate(values | changes)


PRIOR = {"class_prompts": ["a person"], "num_class_images": 12, "class_batch_size": 3, "prior_loss_weight": 0.5}


def _captioned(name: str) -> Captioned:
    index = int(name.split("-")[1])
    return Captioned(name, f"with {SCENES[index].characters[0].hair} hair", PICTURES[index], (64, 64), (0, 0))


def _ignore(_: object) -> None: ...


@pytest.fixture
def encoded(load_miniature, tmp_path: Path) -> tuple[object, Examples]:
    pipeline = load_miniature()
    return pipeline, encode_examples(pipeline, NAMES, _captioned, PROMPT, tmp_path / "cache", _ignore)


@pytest.mark.parametrize("text", ["Naruto fighting in the rain", "", "a person " * 60])
def test_conditioning_equals_the_pipelines_encode_prompt_bit_for_bit(load_miniature, text: str):
    pipeline = load_miniature()
    hidden, _, pooled, _ = pipeline.encode_prompt(text, do_classifier_free_guidance=False)
    ours = encode_texts(pipeline, [text])
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


def test_time_ids_equal_the_pipelines(load_miniature):
    pipeline = load_miniature()
    size = pipeline.text_encoder_2.config.projection_dim
    theirs = pipeline._get_add_time_ids((640, 512), (8, 0), (64, 64), torch.float32, size)
    assert theirs.tolist() == [time_ids((640, 512), (8, 0), 64)]


def test_latents_captions_and_crops_of_a_picture_stay_together(encoded):
    pipeline, examples = encoded
    for index in (0, 5, 11):
        captioned = _captioned(NAMES[index])
        pixels = torch.from_numpy(captioned.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        assert torch.allclose(examples.mean[index], expected[0], atol=1e-6)
        assert examples.texts[index] == f"{PROMPT}, {captioned.caption}"
        assert torch.equal(examples.hidden[index], encode_texts(pipeline, [examples.texts[index]]).hidden[0])


def test_a_stopped_encoding_goes_on_with_the_next_shard(load_miniature, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("naruto_core.training.examples.SHARD", 4)
    pipeline, read = load_miniature(), []

    def failing(name: str) -> Captioned:
        if name == "picture-9":
            raise KeyboardInterrupt
        return _captioned(name)

    def counting(name: str) -> Captioned:
        read.append(name)
        return _captioned(name)

    with pytest.raises(KeyboardInterrupt):
        encode_examples(pipeline, NAMES, failing, PROMPT, tmp_path, _ignore)
    resumed = encode_examples(pipeline, NAMES, counting, PROMPT, tmp_path, _ignore)
    assert read == NAMES[8:]
    assert len(resumed) == 12


def test_a_latent_that_is_not_a_number_is_refused_with_the_pictures_name(load_miniature, tmp_path: Path):
    pipeline = load_miniature()
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.fill_(float("inf"))
    with pytest.raises(DatasetUnusable, match="picture-0"):
        encode_examples(pipeline, NAMES[:1], _captioned, PROMPT, tmp_path, _ignore)


def test_an_epoch_shows_every_picture_once_in_an_order_of_its_own():
    first, second = rows_of(7, 0, 12, 12), rows_of(7, 12, 12, 12)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert rows_of(7, 10, 4, 12) == (*first[10:], *second[:2])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_target_and_weights_equal_diffusers(prediction: str):
    theirs = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    ours = NoiseSchedule(theirs.alphas_cumprod, prediction)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 6, 8, 16, 16, generator=generator)
    t = torch.tensor([0, 10, 200, 500, 900, 999])
    assert torch.allclose(ours.add_noise(clean, noise, t), theirs.add_noise(clean, noise, t), atol=1e-6)
    target = noise if prediction == "epsilon" else theirs.get_velocity(clean, noise, t)
    assert torch.allclose(ours.target(clean, noise, t), target, atol=1e-6)

    snr = compute_snr(theirs, t)
    weight = snr.clamp(max=5.0) / (snr if prediction == "epsilon" else snr + 1)
    predicted = torch.randn(6, 8, 16, 16, generator=generator)
    expected = (F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3)) * weight).mean()
    assert torch.allclose(denoising_loss(ours, predicted, clean, noise, t, 5.0), expected, rtol=1e-5)


class _Killed(Exception): ...


def _train(
    pipeline: object, examples: Examples, section: TrainingSection, checkpoint: Path, die_after: int | None = None
) -> list[StepRecord]:
    """All step records; with `die_after`, raises _Killed as soon as that many steps are in the checkpoint."""
    steps: list[StepRecord] = []

    def remember(new: list[StepRecord]) -> None:
        steps.extend(new)
        if die_after is not None and len(steps) > die_after:  # the step that is told is not yet in the checkpoint
            raise _Killed

    data = TrainingData(examples, examples if section.prior else None, examples if section.validation else None)
    train_adapter(pipeline, data, section, checkpoint, 0.0, "recipe/data", _ignore, remember)
    return steps


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("naruto_core.training.loop.REPORT_SECONDS", 0.0)


def test_training_lowers_the_loss_on_what_it_sees(encoded, tmp_path: Path):
    pipeline, examples = encoded
    section = _section(max_train_steps=80, train_batch_size=6, mixed_precision="bf16")

    def loss_on_fixed_noise() -> float:
        losses = []
        schedule = NoiseSchedule(pipeline.scheduler.alphas_cumprod, "epsilon")
        for step in range(1000, 1012):
            batch = draw_batch(examples, section.seed, section.train_batch_size, 1000, step)
            rows = torch.tensor(batch.rows)
            with torch.no_grad(), sdxl.autocast("bf16", CPU):
                predicted = pipeline.unet(
                    schedule.add_noise(batch.clean, batch.noise, batch.t),
                    batch.t,
                    examples.hidden[rows],
                    added_cond_kwargs={"text_embeds": examples.pooled[rows], "time_ids": examples.time_ids[rows]},
                ).sample
            losses.append(denoising_loss(schedule, predicted, batch.clean, batch.noise, batch.t, 5.0).item())
        return float(np.mean(losses))

    before = loss_on_fixed_noise()
    steps = _train(pipeline, examples, section, tmp_path / "checkpoint.safetensors")
    assert loss_on_fixed_noise() < 0.97 * before
    assert [record.step for record in steps] == list(range(80))
    assert steps[-1].gauges["d"] > 1e-6  # Prodigy has found a step size


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixed_precision": "bf16"},
        {"text_encoder_lr": 1.0, "prior": PRIOR},
        {"text_encoder_lr": 0.5, "prodigy_separate_d": True},
        {"optimizer": "adamw", "learning_rate": 1e-3, "lr_scheduler": "cosine", "gradient_accumulation_steps": 2},
    ],
)
def test_a_killed_training_ends_with_the_same_bytes(
    load_miniature, encoded, tmp_path: Path, changes: dict[str, object]
):
    _, examples = encoded
    section = _section(**changes)
    undisturbed = load_miniature()
    record = _train(undisturbed, examples, section, tmp_path / "a.safetensors")
    write_adapter(undisturbed, tmp_path / "a" / "pytorch_lora_weights.safetensors")

    with pytest.raises(_Killed):
        _train(load_miniature(), examples, section, tmp_path / "b.safetensors", die_after=3)
    resumed = load_miniature()
    rest = _train(resumed, examples, section, tmp_path / "b.safetensors")
    write_adapter(resumed, tmp_path / "b" / "pytorch_lora_weights.safetensors")
    assert rest == record[3:]
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_step_is_missing_from_the_record_whenever_the_kill_comes(
    load_miniature, encoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Between a checkpoint and the next report, too: what is in the checkpoint will not be done again."""
    _, examples = encoded
    saves: list[int] = []

    def save_and_die(path: Path, tensors: dict[str, torch.Tensor], values: dict[str, object]) -> None:
        write_checkpoint(path, tensors, values)
        saves.append(int(values["steps"]))
        if len(saves) == 3:
            raise _Killed

    monkeypatch.setattr("naruto_core.training.loop.REPORT_SECONDS", 1e9)
    monkeypatch.setattr("naruto_core.training.loop.write_checkpoint", save_and_die)
    steps: list[StepRecord] = []
    path = tmp_path / "c.safetensors"
    with pytest.raises(_Killed):
        train_adapter(load_miniature(), TrainingData(examples), _section(), path, 0.0, "a", _ignore, steps.extend)
    assert [record.step for record in steps] == list(range(saves[-1]))


def test_a_checkpoint_of_another_recipe_or_dataset_is_refused_with_both_names(load_miniature, encoded, tmp_path: Path):
    _, examples = encoded
    path = tmp_path / "c.safetensors"
    with pytest.raises(_Killed):
        _train(load_miniature(), examples, _section(), path, die_after=2)
    with pytest.raises(RecordDamaged, match=r"recipe/data.*not other/data"):
        train_adapter(load_miniature(), TrainingData(examples), _section(), path, 0.0, "other/data", _ignore, _ignore)


def test_batch_four_has_the_gradients_of_accumulation_four(load_miniature, encoded):
    _, examples = encoded
    gradients: list[dict[str, torch.Tensor]] = []
    for size, accumulation in ((4, 1), (1, 4)):
        pipeline = load_miniature()
        prior = PRIOR | {"class_batch_size": size}
        section = _section(train_batch_size=size, gradient_accumulation_steps=accumulation, prior=prior)
        run = _Run(pipeline, TrainingData(examples, examples), section)
        for micro_step in range(accumulation):
            run.backward(micro_step)
        gradients.append({name: p.grad for name, p in trainable(pipeline).items() if p.grad is not None})
    assert len(gradients[0]) == 96  # A and B of 48 modules
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-7), name


@pytest.mark.parametrize("text_encoder_lr", [None, 1.0])
def test_the_priors_gradients_are_those_of_the_weighted_sum_of_both_losses(
    load_miniature, encoded, tmp_path: Path, text_encoder_lr: float | None
):
    source, examples = encoded
    class_examples = encode_examples(source, NAMES[:5], _captioned, "", tmp_path / "class", _ignore)
    assert class_examples.texts[0] == _captioned(NAMES[0]).caption  # a class prompt stands alone
    section = _section(text_encoder_lr=text_encoder_lr, prior=PRIOR)
    pipeline = load_miniature()
    run = _Run(pipeline, TrainingData(examples, class_examples), section)
    losses = run.backward(3)
    ours = {name: p.grad for name, p in trainable(pipeline).items()}

    other = load_miniature()
    _Run(other, TrainingData(examples), section)  # the same adapter, drawn from the same seed
    schedule, total, expected = NoiseSchedule(other.scheduler.alphas_cumprod, "epsilon"), 0.0, []
    halves = ((examples, section.seed, 2, 1.0), (class_examples, section.seed + CLASS_STREAM, 3, 0.5))
    for half, seed, size, weight in halves:
        batch = draw_batch(half, seed, size, 1000, 3)
        rows = list(batch.rows)
        text = encode_texts(other, [half.texts[row] for row in rows])
        condition = {"text_embeds": text.pooled, "time_ids": half.time_ids[rows]}
        noisy = schedule.add_noise(batch.clean, batch.noise, batch.t)
        predicted = other.unet(noisy, batch.t, text.hidden, added_cond_kwargs=condition).sample
        snr = compute_snr(other.scheduler, batch.t)
        error = F.mse_loss(predicted, batch.noise, reduction="none").mean(dim=(1, 2, 3))
        expected.append((error * snr.clamp(max=5.0) / snr).mean())
        total = total + weight * expected[-1]
    total.backward()
    assert losses.tolist() == pytest.approx([float(e.detach()) for e in expected], rel=1e-5)
    theirs = {name: p.grad for name, p in trainable(other).items()}
    assert {name for name, g in ours.items() if g is None} == {name for name, g in theirs.items() if g is None}
    for name, gradient in theirs.items():  # none: the last layer of encoder 1, whose output nobody reads
        assert gradient is None or torch.allclose(ours[name], gradient, atol=1e-6), name


def test_the_validation_loss_is_a_function_of_the_weights_alone_and_changes_nothing(
    load_miniature, encoded, tmp_path: Path
):
    _, examples = encoded
    adapters: list[bytes] = []
    for validation in (None, {"validation_steps": 2, "num_validation_images": 12}):
        pipeline, section = load_miniature(), _section(max_train_steps=5, validation=validation)
        steps = _train(pipeline, examples, section, tmp_path / "checkpoint.safetensors")
        (tmp_path / "checkpoint.safetensors").unlink()
        write_adapter(pipeline, tmp_path / "a" / "pytorch_lora_weights.safetensors")
        adapters.append((tmp_path / "a" / "pytorch_lora_weights.safetensors").read_bytes())
    assert adapters[0] == adapters[1]
    measured = {step.step: step.gauges["validation_loss"] for step in steps if "validation_loss" in step.gauges}
    assert list(measured) == [1, 3, 4]  # after two, four and all five steps
    schedule = NoiseSchedule(pipeline.scheduler.alphas_cumprod, "epsilon")
    again = [float(validation_loss(pipeline, examples, schedule, "fp32")) for _ in range(2)]
    assert again == [measured[4]] * 2

    target, total = range(len(examples)), 0.0  # the same by hand, with diffusers' own forward process
    for row in target:
        noise = torch.randn((4, *examples.mean.shape[1:]), generator=torch.Generator().manual_seed(row))
        clean, t = examples.mean[row].expand_as(noise), torch.tensor([200, 400, 600, 800])
        condition = {"text_embeds": examples.pooled[[row] * 4], "time_ids": examples.time_ids[[row] * 4]}
        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        with torch.no_grad():
            predicted = pipeline.unet(
                scheduler.add_noise(clean, noise, t), t, examples.hidden[[row] * 4], added_cond_kwargs=condition
            ).sample
        total += float(F.mse_loss(predicted, noise))
    assert total / len(examples) == pytest.approx(measured[4], rel=1e-4)


def test_a_cosine_schedule_warms_up_and_falls(load_miniature, encoded):
    _, examples = encoded
    section = _section(
        optimizer="adamw", learning_rate=1e-3, lr_scheduler="cosine", lr_warmup_steps=2, max_train_steps=6
    )
    run = _Run(load_miniature(), TrainingData(examples), section)
    rates = [run.optimizer_step(step).learning_rate for step in range(6)]
    assert rates[:3] == pytest.approx([0.0, 5e-4, 1e-3])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 3e-4
