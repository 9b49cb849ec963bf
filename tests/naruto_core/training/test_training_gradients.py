"""One step's loss and gradients beside plain PEFT, diffusers and autograd."""

from typing import get_args

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional as F

from naruto_core import sdxl
from naruto_core.recipe_training import ATTENTION, LoraLayer
from naruto_core.text_encoding import encode_texts
from naruto_core.training.batches import CLASS_STREAM, BatchStream, NoiseConfig, StyleData, draw_batch
from naruto_core.training.latent_cache import Examples
from naruto_core.training.lora import add_adapters, trainable
from naruto_core.training.loss import (
    LossWeighting,
    add_noise,
    denoising_loss,
    noise_scheduler,
    predict_clean,
    prediction_target,
)
from naruto_core.training.step import Trainer
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import BASE_PRIOR, NAMES, PRIOR, captioned, data_of, encode, section_of


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noise_target_weights_and_what_a_prediction_amounts_to_are_the_papers(load_miniature, prediction: str):
    """By DDPM's step, by formulas written out here, and on the very table that the pipeline's sampler draws with."""
    pipeline = load_miniature()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, prediction_type=prediction)
    ours = noise_scheduler(pipeline)
    theirs = DDPMScheduler.from_config(pipeline.scheduler.config)
    assert torch.equal(ours.alphas_cumprod, theirs.alphas_cumprod)
    generator = torch.Generator().manual_seed(0)
    clean, noise, predicted = torch.randn(3, 6, 8, 16, 16, generator=generator)
    t = torch.tensor([0, 10, 200, 500, 900, 999])
    alpha = theirs.alphas_cumprod[t].sqrt()[:, None, None, None]
    sigma = (1 - alpha.square()).sqrt()
    noisy = add_noise(ours, clean, noise, t)
    assert torch.allclose(noisy, alpha * clean + sigma * noise, atol=1e-6)
    target = prediction_target(ours, clean, noise, t)
    assert torch.allclose(target, noise if prediction == "epsilon" else alpha * noise - sigma * clean, atol=1e-6)
    denoised = predict_clean(ours, noisy, predicted, t)
    for row, step in enumerate(t):
        expected = theirs.step(predicted[row], step, noisy[row]).pred_original_sample
        assert torch.allclose(denoised[row], expected, rtol=1e-4, atol=1e-4)

    snr = theirs.alphas_cumprod[t] / (1 - theirs.alphas_cumprod[t])
    weight = snr.clamp(max=5.0) / (snr if prediction == "epsilon" else snr + 1)
    expected = (F.mse_loss(predicted, target, reduction="none").mean(dim=(1, 2, 3)) * weight).mean()
    ours_weight = LossWeighting(snr_gamma=5.0).weights(ours, t)
    assert torch.allclose(denoising_loss(predicted, target, ours_weight), expected, rtol=1e-5)


def test_a_zero_terminal_snr_leaves_numbers_that_can_be_divided_by(load_miniature):
    pipeline = load_miniature()
    pipeline.scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config, rescale_betas_zero_snr=True)
    scheduler = noise_scheduler(pipeline)
    assert float(scheduler.alphas_cumprod[-1]) < 1e-6
    assert float(LossWeighting(snr_gamma=5.0).weights(scheduler, torch.tensor([999]))) == 1.0


def _move(weights):
    """Away from where B is zero, which hides A's gradient and what the adapter says; the same every time."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(len(name))))


def _plain_gradients(pipeline, examples, class_examples, section, micro_steps):
    """Losses and gradients by PEFT's layers, diffusers' UNet and scheduler, and autograd alone."""
    add_adapters(pipeline, section)
    _move(trainable(pipeline))
    prior = section.prior
    halves = [(examples, section.seed, section.train_batch_size, 1.0)]
    if prior:
        halves.append((class_examples, section.seed + CLASS_STREAM, prior.class_batch_size, prior.prior_loss_weight))
    losses, total = [], 0.0
    for micro_step in micro_steps:
        for half, seed, size, weight in halves:
            batch = draw_batch(BatchStream([StyleData(half)], seed, size), NoiseConfig(seed, 1000), micro_step, CPU)
            text = encode_texts(pipeline, batch.texts)
            condition = {"text_embeds": text.pooled, "time_ids": batch.time_ids}
            scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
            noisy = scheduler.add_noise(batch.clean, batch.noise, batch.t)
            predicted = pipeline.unet(noisy, batch.t, text.hidden, added_cond_kwargs=condition).sample
            error = F.mse_loss(predicted, batch.noise, reduction="none").mean(dim=(1, 2, 3))
            if section.snr_gamma:
                snr = compute_snr(scheduler, batch.t)
                error = error * snr.clamp(max=section.snr_gamma) / snr
            losses.append(float(error.mean().detach()))
            total = total + weight * error.mean() / len(micro_steps)
    total.backward()
    return losses, {name: p.grad for name, p in trainable(pipeline).items()}


@pytest.fixture(scope="module")
def class_examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    """The pictures with their captions alone."""
    return encode(sdxl.load_pipeline(MINIATURE, "fp32", CPU), tmp_path_factory.mktemp("class"), "")


@pytest.mark.parametrize(  # every pair of choices once
    ("prior", "text_encoder_lr", "size", "snr_gamma", "layers"),
    [
        (None, None, 1, 5.0, ATTENTION),
        (None, 1.0, 4, None, ATTENTION),
        (PRIOR, None, 4, None, get_args(LoraLayer)),
        (PRIOR, 1.0, 1, 5.0, ATTENTION),
    ],
)
def test_loss_and_gradients_equal_plain_peft_and_autograd(
    load_miniature, examples, class_examples, prior, text_encoder_lr, size, snr_gamma, layers
):
    assert class_examples.texts[0] == captioned(NAMES[0]).caption  # a class prompt stands alone
    changes = {"text_encoder_lr": text_encoder_lr, "train_batch_size": size, "snr_gamma": snr_gamma}
    section = section_of(prior=prior, lora_layers=layers, **changes)
    run = Trainer(load_miniature(), [data_of(examples, section, class_examples)], section, {})
    _move(run.weights.named)
    losses = run.gradients[0].backward(3, 1.0)
    ours = {name: p.grad for name, p in run.weights.named.items()}
    expected, theirs = _plain_gradients(load_miniature(), examples, class_examples, section, [3])
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert ours.keys() == theirs.keys()
    if layers == ATTENTION:
        assert len(ours) == (96 if text_encoder_lr is None else 152)
    else:
        names = {name.partition(".lora_")[0].removeprefix("unet.") for name in ours}
        assert all(any(name.endswith(layer) for name in names) for layer in layers)
    reached = {name.split(".")[0] for name, gradient in ours.items() if gradient.any()}
    assert reached == ({"unet"} if text_encoder_lr is None else {"unet", "text_encoder", "text_encoder_2"})
    largest = max(float(g.abs().max()) for g in theirs.values() if g is not None)
    for name, gradient in theirs.items():  # none: the last layer of encoder 1, whose output nobody reads
        expected_gradient = torch.zeros_like(ours[name]) if gradient is None else gradient
        assert torch.allclose(ours[name], expected_gradient, rtol=1e-5, atol=1e-5 * largest), name


def test_batch_four_has_the_gradients_of_accumulation_four(load_miniature, examples):
    gradients: list[dict[str, torch.Tensor]] = []
    for size, accumulation in ((4, 1), (1, 4)):
        prior = PRIOR | {"class_batch_size": size}
        section = section_of(train_batch_size=size, gradient_accumulation_steps=accumulation, prior=prior)
        run = Trainer(load_miniature(), [data_of(examples, section)], section, {})
        run.accumulate(0)
        gradients.append({name: p.grad for name, p in run.weights.named.items()})
    assert len(gradients[0]) == 96  # A and B of 48 modules
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-7), name
    assert max(float(gradient.abs().max()) for gradient in gradients[0].values()) > 1e-4


def test_the_prior_without_pictures_holds_the_adapter_to_what_the_base_predicts(load_miniature, examples):
    """At first the adapter says nothing: its prediction is the base's, and the prior's loss is nought."""
    section = section_of(prior=BASE_PRIOR, train_batch_size=1)
    pipeline = load_miniature()
    run = Trainer(pipeline, [data_of(examples, section)], section, {})
    assert run.gradients[0].backward(0, 1.0).tolist()[1] < 1e-12
    _move(run.weights.named)
    prior_loss = float(run.gradients[0].backward(0, 1.0)[1])

    batch = draw_batch(run.gradients[0].prior, NoiseConfig(section.seed + CLASS_STREAM, 1000), 0, CPU)
    run.weights.finish()
    text = encode_texts(pipeline, ["a person", "a dog"])
    condition = {"text_embeds": text.pooled, "time_ids": batch.time_ids}
    noisy = DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(batch.clean, batch.noise, batch.t)
    with torch.no_grad():
        adapted = pipeline.unet(noisy, batch.t, text.hidden, added_cond_kwargs=condition).sample
        pipeline.unet.disable_adapters()
        base = pipeline.unet(noisy, batch.t, text.hidden, added_cond_kwargs=condition).sample
    snr = compute_snr(pipeline.scheduler, batch.t)
    expected = (F.mse_loss(adapted, base, reduction="none").mean(dim=(1, 2, 3)) * snr.clamp(max=5.0) / snr).mean()
    assert prior_loss == pytest.approx(float(expected), rel=1e-4)
    assert prior_loss > 1e-4


def test_half_precision_masters_do_not_learn_and_ours_are_full(
    load_tiny, tiny_examples, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("naruto_core.devices.cpu_has_bf16", lambda: True)
    section = section_of(mixed_precision="bf16")
    run = Trainer(load_tiny("bf16"), [data_of(tiny_examples, section)], section, {})
    record = run.optimizer_step(0)
    assert run.pipeline.unet.dtype is torch.bfloat16
    assert {p.dtype for p in run.weights.named.values()} == {torch.float32}
    assert np.isfinite(float(record.loss))
    updates = [p.detach() - p.detach().bfloat16().float() for p in run.weights.named.values()]
    assert max(float(u.abs().max()) for u in updates) > 0  # weights that half precision could not hold
