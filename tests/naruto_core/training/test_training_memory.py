"""The memory planner: counted right, split right, refused with figures."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from flows.profiles import choose_recipe
from naruto_core.errors import DeviceUnfit
from naruto_core.sdxl import locate
from naruto_core.training.memory import (
    GIB,
    ActivationCounter,
    _Parts,
    plan_memory,
    recompute_counter,
    splits,
    unet_activations,
)
from naruto_core.training.step import Trainer
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import PRIOR, data_of, section_of
from tests.preloaded import Preloaded


@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_counted_without_memory_are_those_that_training_really_keeps(
    load_miniature, examples, checkpointing: bool
):
    section = section_of(gradient_checkpointing=checkpointing, mixed_precision="bf16", train_batch_size=3)
    run = Trainer(load_miniature("bf16"), [data_of(examples, section)], section, {})
    unet = run.pipeline.unet
    saved = ActivationCounter(unet)
    for parameter in run.weights.named.values():
        saved.add(parameter)
    for copies in run.weights._copies:
        saved.add(copies._weights)
    saved.bytes = 0
    largest = lambda: 0  # noqa: E731
    if checkpointing:
        again, largest = recompute_counter(saved)
        unet.enable_gradient_checkpointing(again)
    text = torch.zeros(3, 48, unet.config.cross_attention_dim, dtype=unet.dtype)
    condition = {"text_embeds": torch.zeros(3, 96, dtype=unet.dtype), "time_ids": torch.zeros(3, 6)}
    with saved.counting():
        unet(
            torch.zeros(3, unet.config.in_channels, 16, 16, dtype=unet.dtype),
            torch.zeros(3),
            text,
            added_cond_kwargs=condition,
        )
    parts = _Parts(MINIATURE, section, CPU)
    counted = unet_activations(parts.unet, 3, 16, 48, checkpointing, fused=False)
    assert counted == pytest.approx(saved.bytes + largest(), rel=0.03)


def test_the_weights_that_learn_are_counted_as_they_are(load_miniature, examples):
    section = section_of(text_encoder_lr=1.0, rank=8)
    run = Trainer(load_miniature(), [data_of(examples, section)], section, {})
    assert _Parts(MINIATURE, section, CPU).trainable == sum(p.numel() for p in run.weights.named.values())


def test_every_split_has_the_effective_batch_and_the_priors_share():
    section = section_of(
        train_batch_size=1, gradient_accumulation_steps=6, fit_memory=True, prior=PRIOR | {"class_batch_size": 2}
    )
    options = [
        (s.train_batch_size, s.gradient_accumulation_steps, s.prior.class_batch_size, s.gradient_checkpointing)
        for s in splits(section)
    ]
    assert options[:3] == [(6, 1, 12, False), (6, 1, 12, True), (3, 2, 6, False)]
    assert len(options) == 8
    own = section.model_copy(update={"fit_memory": False})
    assert list(splits(own)) == [own]


def test_a_vae_that_says_force_upcast_is_counted_in_full_precision(tmp_path: Path):
    """It is kept so wherever the others are in half precision: on a GPU."""
    recipe, needs = choose_recipe("mini"), list[dict[str, int]]()
    section = recipe.training.model_copy(update={"mixed_precision": "fp16"})
    folder = tmp_path / "base"
    shutil.copytree(locate(MINIATURE.base, None)[0], folder)
    config = folder / "vae" / "config.json"
    for upcast in (False, True):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"force_upcast": upcast}))
        model = recipe.model.model_copy(update={"base": str(folder)})
        needs.append(plan_memory(model, section, recipe.generation, torch.device("cuda"), 64 * GIB).needs)
    weights = sum(p.numel() for p in _Parts(MINIATURE, section, torch.device("cuda")).vae.parameters())
    for phase in ("encode", "sample"):
        assert needs[1][phase] - needs[0][phase] > 2 * weights  # and as much again of its activations
    assert needs[1]["train"] == needs[0]["train"]


def test_less_memory_makes_smaller_splits_and_too_little_is_refused_with_figures():
    recipe = choose_recipe("mini", overrides={"training.train_batch_size": 4, "training.prior": None})
    section = recipe.training.model_copy(update={"fit_memory": True})
    whole = plan_memory(recipe.model, section, recipe.generation, CPU, 64 * GIB)
    assert (whole.section.train_batch_size, whole.section.gradient_checkpointing) == (4, False)
    less = plan_memory(recipe.model, section, recipe.generation, CPU, whole.needs["train"] - 1)
    assert less.section.effective_batch_size == 4
    assert less.section.gradient_checkpointing or less.section.train_batch_size < 4
    assert max(less.needs.values()) < whole.needs["train"]
    long_texts = section.model_copy(update={"max_token_length": 225, "fit_memory": False})
    assert plan_memory(recipe.model, long_texts, recipe.generation, CPU, 64 * GIB).needs["train"] > whole.needs["train"]
    assert "train" in whole.summary
    assert "of 64.0 GiB; batch 4 x 1" in whole.summary
    with pytest.raises(
        DeviceUnfit, match=r"needs \d+\.\d GiB in phase \w+, and the device has 0.2 GiB: lower training.res"
    ):
        plan_memory(recipe.model, section, recipe.generation, CPU, int(0.2 * GIB))
    with pytest.raises(DeviceUnfit, match="fit_memory=true tries smaller batches"):
        plan_memory(recipe.model, recipe.training, recipe.generation, CPU, int(0.2 * GIB))


def test_a_step_really_takes_no_more_memory_than_was_planned(programs: Preloaded, tmp_path: Path):
    """In a process of its own: the most it ever used, less what it used before the training."""
    program = programs.start("tests.naruto_core.training.largest_step", str(tmp_path), environment=os.environ)
    assert program.output
    printed = program.output.read()
    assert program.wait() == 0, printed
    before, after, planned = (float(word) for word in printed.splitlines()[-1].split())
    assert 0.6 * planned < after - before < 2 * planned  # kernels' own scratch memory is an allowance of the plan
