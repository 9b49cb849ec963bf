"""Our flat Prodigy beside the published one, and where it differs on purpose."""

import prodigyopt
import pytest
import torch
from torch import nn

from naruto_core.training.prodigy import FlatProdigy

SETTINGS = {"lr": 1.0, "betas": (0.9, 0.999), "weight_decay": 1e-2}


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16, bias=False), nn.Tanh(), nn.Linear(16, 3))


def _groups(net: nn.Sequential) -> list[dict[str, object]]:
    return [{"params": list(net[0].parameters())}, {"params": [*net[2].parameters(), *net[4].parameters()]}]


def _run(net: nn.Sequential, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(32, 6, generator=generator).to(net[0].weight.dtype)
        (net(x) - x[:, :3].sin() * x[:, 3:]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_two_hundred_steps_equal_prodigyopts_with_the_same_d(dtype: torch.dtype, tolerance: float):
    """In fp32 both differ by rounding: the way travelled is a small difference of large numbers at first."""
    ours, theirs = _net().to(dtype), _net().to(dtype)
    flat = FlatProdigy(_groups(ours), **SETTINGS)
    published = prodigyopt.Prodigy(_groups(theirs), use_bias_correction=True, safeguard_warmup=True, **SETTINGS)
    for start in range(0, 200, 20):
        _run(ours, flat, start, start + 20)
        _run(theirs, published, start, start + 20)
        assert [float(d) for d in flat.estimates()] == pytest.approx(
            [published.param_groups[0]["d"]] * 2, rel=tolerance
        )
    assert published.param_groups[0]["d"] > 1e-3  # it has left its first guess far behind
    for mine, their in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(mine, their, rtol=tolerance, atol=tolerance)


def test_a_group_with_lr_zero_is_frozen_and_the_published_one_is_not():
    nets, moved = (_net(), _net()), []
    for net, make in zip(nets, (FlatProdigy, prodigyopt.Prodigy), strict=True):
        optimizer = make(_groups(net), **SETTINGS)
        _run(net, optimizer, 0, 30)
        optimizer.param_groups[0]["lr"] = 0.0
        before = net[0].weight.detach().clone()
        _run(net, optimizer, 30, 40)
        moved.append(float((net[0].weight.detach() - before).abs().max()))
    assert moved[0] == 0.0
    assert moved[1] > 1e-6


def test_groups_with_a_d_of_their_own_are_as_two_optimizers():
    together, apart = _net(), _net()
    one = FlatProdigy(_groups(together), separate_d=True, **SETTINGS)
    first, second = (FlatProdigy([group], **SETTINGS) for group in _groups(apart))
    for step in range(60):
        _run(together, one, step, step + 1)
        x = torch.randn(32, 6, generator=torch.Generator().manual_seed(step))
        (apart(x) - x[:, :3].sin() * x[:, 3:]).square().mean().backward()
        for optimizer in (first, second):
            optimizer.step()
            optimizer.zero_grad()
    for mine, their in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(mine, their)
    assert float(one.estimates()[0]) != float(one.estimates()[1])


def test_different_rates_need_a_d_each():
    net = _net()
    groups = _groups(net)
    groups[1]["lr"] = 0.5
    optimizer = FlatProdigy(groups, **SETTINGS)
    with pytest.raises(ValueError, match="same lr"):
        _run(net, optimizer, 0, 1)
    other = FlatProdigy(_groups(net), separate_d=True, **SETTINGS)
    other.param_groups[1]["lr"] = 0.5
    _run(net, other, 0, 1)


def test_a_state_put_back_goes_on_with_the_same_bits():
    whole, stopped = _net(), _net()
    _run(whole, undisturbed := FlatProdigy(_groups(whole), **SETTINGS), 0, 40)
    before = FlatProdigy(_groups(stopped), **SETTINGS)
    _run(stopped, before, 0, 15)
    resumed = _net()
    after = FlatProdigy(_groups(resumed), **SETTINGS)
    with torch.no_grad():
        for mine, saved in zip(resumed.parameters(), stopped.parameters(), strict=True):
            mine.copy_(saved)
    after.load_state_dict(before.state_dict())
    _run(resumed, after, 15, 40)
    assert torch.equal(undisturbed.estimates()[0], after.estimates()[0])
    for mine, their in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, their)


def test_gradients_are_clipped_to_a_common_norm():
    net, other = _net(), _net()
    optimizer = FlatProdigy(_groups(net), **SETTINGS)
    for model in (net, other):
        (10 * model(torch.ones(4, 6)).square().mean()).backward()
    norm = optimizer.clip_gradients(0.1)
    assert float(norm) == pytest.approx(float(nn.utils.clip_grad_norm_(other.parameters(), 0.1)), rel=1e-6)
    for mine, their in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine.grad, their.grad, rtol=1e-5)
