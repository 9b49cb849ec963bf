"""The reference script's Prodigy, over groups that start, stop and resume."""

import json
import math
from collections.abc import Callable, Sequence
from copy import deepcopy

import prodigyopt
import pytest
import torch
from torch import nn

from naruto_core.checkpoint import pack_optimizer, unpack_optimizer
from naruto_core.training.optimizer import (
    FlatParameters,
    GroupProdigy,
    ParameterGroup,
    build_optimizer,
    flatten_parameters,
    prepare_step,
    step_size_estimates,
)
from naruto_core.training.step import Trainer
from tests.naruto_core.training.pictures import data_of, section_of

NAMES = ("first", "stops", "late")
STOP, START = 30, 20  # when the second group stops and the third one starts


class _Run:
    """A small network in three groups, and the optimizer that training builds for it."""

    def __init__(self, dtype: torch.dtype = torch.float64, **section: object) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        parts = [nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 3)]
        self.net = nn.Sequential(*parts).to(dtype)
        self.section = section_of(adam_weight_decay=1e-2, **section)
        rates = (1.0, 0.5 if self.section.prodigy_separate_d else 1.0, 1.0)
        spans = ((0, None), (0, STOP), (START, None))
        self.groups: list[tuple[ParameterGroup, FlatParameters]] = []
        for name, layer, rate, (start, stop) in zip(NAMES, (0, 2, 4), rates, spans, strict=True):
            named = {f"{name}.{n}": p for n, p in self.net[layer].named_parameters()}
            self.groups.append(
                (ParameterGroup(name, named, rate, start, stop), flatten_parameters(list(named.values())))
            )
        self.optimizer = build_optimizer(self.section, self.groups)

    def backward(self, step: int) -> None:
        """Add the gradients of `step`."""
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step)).to(self.dtype)
        (self.net(x) - x[:, :3].sin() * x[:, 3:]).square().mean().backward()

    def go(self, first: int, last: int) -> None:
        """Do the steps from `first` until before `last`."""
        for step in range(first, last):
            self.backward(step)
            prepare_step(self.optimizer, self.groups, step, 1.0)
            self.optimizer.step()
            for _, flat in self.groups:
                flat.gradient.zero_()

    def weights(self) -> list[torch.Tensor]:
        return [flat.weights.clone() for _, flat in self.groups]

    def state(self, number: int) -> dict[str, object]:
        """A copy of what the optimizer keeps of group `number`."""
        return deepcopy(self.optimizer.state[self.optimizer.param_groups[number]["params"][0]])


def _equal(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_prodigy_over_flat_groups_equals_the_reference_scripts_over_single_tensors(
    dtype: torch.dtype, tolerance: float
):
    """In fp32 both differ by rounding: the way travelled is a small difference of large numbers at first."""
    ours, theirs = _Run(dtype), _Run(dtype)
    ours.groups = [
        (ParameterGroup(g.name, g.parameters, 1.0), flat) for g, flat in ours.groups
    ]  # all learn all the time
    published = prodigyopt.Prodigy(
        theirs.net.parameters(), weight_decay=1e-2, decouple=True, use_bias_correction=True, safeguard_warmup=True
    )
    for step in range(200):
        ours.go(step, step + 1)
        theirs.backward(step)
        published.step()
        published.zero_grad()
        assert step_size_estimates(ours.optimizer)["d"] == pytest.approx(published.param_groups[0]["d"], rel=tolerance)
    assert published.param_groups[0]["d"] > 1e-3  # it has left its first guess far behind
    for mine, their in zip(ours.net.parameters(), theirs.net.parameters(), strict=True):
        assert torch.allclose(mine, their, rtol=tolerance, atol=tolerance)


def test_the_library_prints_no_line_about_weight_decay(capsys: pytest.CaptureFixture[str]):
    run = _Run()
    assert {group["weight_decay"] for group in run.optimizer.param_groups} == {1e-2}
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("options", [{}, {"prodigy_separate_d": True}, {"optimizer": "adamw", "learning_rate": 1e-2}])
def test_a_group_that_has_stopped_or_not_started_keeps_its_weights_and_its_state(options: dict[str, object]):
    run = _Run(**options)
    start = run.weights()
    run.go(0, START)
    assert torch.equal(run.weights()[2], start[2])
    assert not run.state(2)
    run.go(START, STOP)
    before, state = run.weights(), run.state(1)
    run.go(STOP, STOP + 10)
    after, later_state = run.weights(), run.state(1)
    assert torch.equal(after[1], before[1])
    assert state.keys() == later_state.keys()
    assert all(torch.equal(torch.as_tensor(state[name]), torch.as_tensor(later_state[name])) for name in state)
    assert all(float((after[n] - before[n]).abs().max()) > 1e-6 for n in (0, 2))


def test_a_rate_of_zero_alone_would_not_freeze_prodigys_groups():
    """Why a frozen group has no gradient: the library goes on moving one with lr 0 by its momentum."""
    run = _Run()
    run.go(0, STOP)
    before = run.weights()[1]
    run.backward(STOP)
    prepare_step(run.optimizer, run.groups, 0, 1.0)
    run.optimizer.param_groups[1]["lr"] = 0.0
    run.optimizer.step()
    assert float((run.weights()[1] - before).abs().max()) > 1e-6


def test_a_late_groups_steps_are_as_long_as_if_it_were_the_first_and_so_is_its_share_in_d():
    """With constant gradients and a d that is held, a bias-corrected Adam moves every number by d at every step."""
    d, beta1, beta2 = 1e-4, 0.9, 0.999
    vectors = [nn.Parameter(torch.full((5,), 2.0, dtype=torch.float64)) for _ in range(2)]
    held = {"lr": 1.0, "betas": (beta1, beta2), "d": d, "d0": d, "d_max": d, "growth_rate": 1.0, "eps": 1e-30}
    optimizer = GroupProdigy([{"params": [vector], **held} for vector in vectors])
    gradients = [torch.tensor([3.0, -2.0, 0.5, -4.0, 1.0], dtype=torch.float64) * scale for scale in (1.0, 100.0)]
    numerator, starts = 0.0, (0, 1000)
    for step in range(1100):
        numerator *= math.sqrt(beta2)
        for vector, gradient, start in zip(vectors, gradients, starts, strict=True):
            vector.grad = gradient if step >= start else None
            if (age := step - start) >= 0:
                correction = math.sqrt(1 - beta2 ** (age + 1)) / (1 - beta1 ** (age + 1))
                numerator += d * correction * float(gradient.abs().sum()) * age * d  # it has travelled age * d
        optimizer.step()
        for group in optimizer.param_groups:  # the estimate of d itself is held where it was
            group.update(d=d, d_max=d)
    for vector, gradient, start in zip(vectors, gradients, starts, strict=True):
        assert torch.allclose(2.0 - vector.detach(), (1100 - start) * d * gradient.sign(), rtol=1e-6)
    assert optimizer.param_groups[0]["d_numerator"] == pytest.approx(numerator, rel=1e-6)


@pytest.mark.parametrize("options", [{"prodigy_separate_d": True}, {"optimizer": "adamw", "learning_rate": 1e-2}])
def test_a_group_without_a_shared_d_learns_as_under_an_optimizer_of_its_own(options: dict[str, object]):
    together, apart = _Run(**options), _Run(**options)
    alone = [build_optimizer(apart.section, [pair]) for pair in apart.groups]
    for step in range(100):
        together.go(step, step + 1)
        apart.backward(step)
        for pair, optimizer in zip(apart.groups, alone, strict=True):
            if pair[0].learns(step):
                prepare_step(optimizer, [pair], step, 1.0)
                optimizer.step()
        for _, flat in apart.groups:
            flat.gradient.zero_()
    assert _equal(together.weights(), apart.weights())
    if together.section.prodigy_separate_d:
        estimates = step_size_estimates(together.optimizer)
        assert list(estimates) == ["d", "d_stops", "d_late"]
        assert list(estimates.values()) == [step_size_estimates(optimizer)["d"] for optimizer in alone]
        assert len(set(estimates.values())) > 1
    else:
        assert step_size_estimates(together.optimizer) == {}


def test_groups_that_share_d_have_one_estimate_and_must_have_one_rate():
    run = _Run()
    run.go(0, 10)
    assert list(step_size_estimates(run.optimizer)) == ["d"]
    assert len({group["d"] for group in run.optimizer.param_groups}) == 1
    run.optimizer.param_groups[1]["lr"] = 0.5
    with pytest.raises(RuntimeError, match="different lr"):
        run.optimizer.step()
    assert len(run.optimizer.param_groups) == 3


@pytest.mark.parametrize("separate_d", [False, True])
@pytest.mark.parametrize("kill", [1, 15, 25, 35])
def test_a_state_put_back_goes_on_with_the_same_bits(kill: int, separate_d: bool):
    """Before and after a group starts, and after one has stopped."""
    whole, stopped, resumed = (_Run(torch.float32, prodigy_separate_d=separate_d) for _ in range(3))
    whole.go(0, 45)
    stopped.go(0, kill)
    tensors, values = pack_optimizer(stopped.optimizer)
    for flat, weights in zip((flat for _, flat in resumed.groups), stopped.weights(), strict=True):
        flat.weights.copy_(weights)
    unpack_optimizer(resumed.optimizer, {n: t.clone() for n, t in tensors.items()}, json.loads(json.dumps(values)))
    resumed.go(kill, 45)
    assert _equal(resumed.weights(), whole.weights())
    assert step_size_estimates(resumed.optimizer) == step_size_estimates(whole.optimizer)
    for number in range(3):
        mine, their = resumed.state(number), whole.state(number)
        assert all(torch.equal(torch.as_tensor(mine[name]), torch.as_tensor(their[name])) for name in their)


@pytest.fixture
def fp16(load_miniature, examples, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainer]:
    """Makes trainings with fp16's scaler, on this CPU."""
    monkeypatch.setattr("naruto_core.devices.check_precision", lambda *_: None)

    def make(**changes: object) -> Trainer:
        section = section_of(mixed_precision="fp16", train_batch_size=1, **changes)
        run = Trainer(load_miniature(), [data_of(examples, section)], section, {})
        monkeypatch.setattr(run, "accumulate", lambda _step: run.scaler.scale(torch.zeros(1)))
        for flat in run.weights.flats:
            flat.gradient.fill_(run.scaler.get_scale() * 1e-3)
        return run

    return make


@pytest.mark.parametrize("separate_d", [False, True])
def test_an_overflow_in_one_group_leaves_out_the_step_of_all(fp16: Callable[..., Trainer], separate_d: bool):
    unfreeze = [{"modules": "unet.up_blocks", "step": 2}, {"modules": "unet.mid_block", "step": 1}]
    run = fp16(prodigy_separate_d=separate_d, unfreeze=unfreeze)
    _, frozen, middle = run.weights.flats
    run.optimizer_step(0)
    for flat in run.weights.flats:
        flat.gradient.fill_(1.0)
    before, state = [flat.weights.clone() for flat in run.weights.flats], deepcopy(run.optimizer.state_dict())
    middle.gradient[7] = math.inf
    assert run.optimizer_step(1).gauges["overflow"] == 1.0
    assert _equal([flat.weights for flat in run.weights.flats], before)
    assert str(run.optimizer.state_dict()) == str(state)

    for flat in run.weights.flats:
        flat.gradient.fill_(1.0)
    frozen.gradient[7] = math.inf  # of a group that does not learn: no reason to leave out anything
    gauged = run.optimizer_step(1).gauges
    assert "overflow" not in gauged
    assert math.isfinite(float(gauged["grad_norm"]))
    moved = [not torch.equal(flat.weights, weights) for flat, weights in zip(run.weights.flats, before, strict=True)]
    assert moved == [True, False, True]


def test_gradients_are_clipped_to_a_common_norm_of_what_learns(fp16: Callable[..., Trainer]):
    run = fp16(unfreeze=[{"modules": "unet.up_blocks", "step": 2}], max_grad_norm=0.25)
    learning, _ = run.weights.flats
    seen: list[torch.Tensor] = []
    run.optimizer.register_step_pre_hook(lambda *_: seen.append(learning.gradient.clone()))
    norm = float(run.optimizer_step(0).gauges["grad_norm"])
    assert norm == pytest.approx(1e-3 * math.sqrt(learning.weights.numel()), rel=1e-4)
    assert float(seen[0].norm()) == pytest.approx(min(norm, 0.25), rel=1e-4)


def test_a_step_at_which_nothing_learns_yet_moves_nothing(fp16: Callable[..., Trainer]):
    run = fp16(unfreeze=[{"modules": "unet", "step": 1}])
    before = run.weights.flats[0].weights.clone()
    assert float(run.optimizer_step(0).gauges["grad_norm"]) == 0.0
    assert torch.equal(run.weights.flats[0].weights, before)
