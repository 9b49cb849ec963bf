"""Work is counted as it is known from formulas, and the shipped counts are what counting gives."""

import pytest
import torch
from torch import nn

from naruto_core.planning.flops import Adaptation, Architecture, Work, WorkCounter
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import ATTENTION
from naruto_core.single_file import SDXL_CONFIG
from tests.naruto_core.conftest import MINIATURE


def test_a_linear_layer_and_its_backward_pass_are_counted_as_the_formula_says():
    with torch.device("meta"):
        layer, inputs = nn.Linear(30, 50, bias=False), torch.zeros(20, 30, requires_grad=True)
    with WorkCounter() as forward:
        output = layer(inputs)
    assert forward.work == Work(2 * 20 * 30 * 50, 1)  # the transposed weight is a view
    with WorkCounter() as backward:
        output.sum().backward()
    assert backward.work.flops == 2 * forward.work.flops  # for the inputs and for the weights


def test_a_batch_starts_the_operations_of_one_and_repetition_starts_all():
    assert Work(3.0, 5).batch(4) == Work(12.0, 5)
    assert Work(3.0, 5).times(4) == Work(12.0, 20)
    assert Work(3.0, 5) + Work(1.0, 2) == Work(4.0, 7)


def test_training_takes_more_than_drawing_and_recomputing_at_most_one_more_forward_pass():
    networks = Architecture(MINIATURE)
    shipped = networks.unet(64), networks.training_pass(64, Adaptation(4, ATTENTION, False, False, False))
    networks._shipped = {}
    forward = networks.unet(64)
    kept, recomputed = (
        networks.training_pass(64, Adaptation(4, ATTENTION, False, False, checkpointing))
        for checkpointing in (False, True)
    )
    assert (forward, kept) == shipped
    assert 1.5 * forward.flops < kept.flops < 3 * forward.flops
    assert kept.flops < recomputed.flops < kept.flops + 1.05 * forward.flops


def test_the_shipped_counts_of_sdxl_are_the_published_size_and_what_counting_gives():
    networks = Architecture(ModelSection.model_validate({"base": SDXL_CONFIG}))
    assert networks.parameters["unet"] == 2_567_463_684
    assert networks.unet(1024).flops == pytest.approx(6.76e12, rel=0.01)
    shipped = networks.texts(), networks.decode(256)
    networks._shipped = {}
    assert (networks.texts(), networks.decode(256)) == shipped
