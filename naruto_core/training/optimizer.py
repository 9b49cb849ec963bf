"""Optimizers by the recipe's words, set as the reference training script sets them.

A group that does not learn at a step has no gradient then: optimizers, the scaler of gradients and the norm that
they are clipped by all leave out a parameter without one.
"""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from prodigyopt import Prodigy
from torch import nn

from naruto_core.errors import DeviceUnfit
from naruto_core.recipe_training import TrainingSection
from naruto_core.training.flat import Flat
from naruto_core.training.groups import Group


class GroupProdigy(Prodigy):
    """`prodigyopt.Prodigy` (Mishchenko & Defazio 2023, algorithm 4) over groups that start and stop learning.

    Groups share one estimate d, or have one each with `separate_d`. Groups that share a d must have equal learning
    rates (RuntimeError). A group that starts late has Adam's bias correction by its own number of steps; the library
    corrects all groups by the first one's, which makes the first steps of a late group up to 6.5 times too long.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], separate_d: bool = False) -> None:
        super().__init__(groups, decouple=True, use_bias_correction=True, safeguard_warmup=True)
        self.separate_d = separate_d

    def step(self, closure: None = None) -> None:  # noqa: ARG002 (the signature of every optimizer)
        """Move every parameter that has a gradient."""
        groups = self.param_groups
        try:
            for sharing in [[group] for group in groups] if self.separate_d else [groups]:
                self.param_groups = sharing  # the library's estimate is of all groups that it sees
                self._step(sharing)
        finally:
            self.param_groups = groups

    def _step(self, groups: Sequence[dict[str, Any]]) -> None:
        """One step of the library; a group that is younger than the first one takes its own bias correction."""
        with ExitStack() as corrections:
            for group in groups:
                for p in (p for p in group["params"] if p.grad is not None):
                    if (age := self.state[p].get("step", 0)) != groups[0]["k"]:
                        corrections.enter_context(self._corrected(p, age, groups[0]))
            super().step()

    @contextmanager
    def _corrected(self, p: nn.Parameter, age: int, first: dict[str, Any]) -> Generator[None]:
        """Inside the block one step of `p`, whose rate is that of a parameter of `age` steps, not of `first`'s k.

        The rate is a factor of the whole step (weight decay included), and of `p`'s share in the estimate of d.
        """
        ratio = _bias_correction(age, first["betas"]) / _bias_correction(first["k"], first["betas"])
        before, state = p.detach().clone(), self.state[p]
        start = state.get("p0")
        if start is not None:
            state["p0"] = before.lerp(start, ratio)
        yield
        p.data.copy_(before.lerp_(p.data, ratio))
        if start is not None:
            state["p0"] = start


def _bias_correction(steps: int, betas: tuple[float, float]) -> float:
    """Adam's factor for the step after `steps` steps."""
    return (1 - betas[1] ** (steps + 1)) ** 0.5 / (1 - betas[0] ** (steps + 1))


def build_optimizer(section: TrainingSection, groups: Sequence[tuple[Group, Flat]]) -> torch.optim.Optimizer:
    """One parameter group, of one vector, for each of `groups`; `prepare_step` gives the vectors their gradients.

    Raises DeviceUnfit when the 8-bit optimizer is asked for and its library is not installed.
    """
    # Weight decay stands in every group: of its argument `weight_decay`, prodigyopt prints a line on standard output.
    adam: dict[str, Any] = {"betas": section.adam_betas, "weight_decay": section.adam_weight_decay}
    settings: list[dict[str, Any]] = [
        {"params": [nn.Parameter(flat.weights)], "lr": group.learning_rate, "name": group.name, **adam}
        for group, flat in groups
    ]
    if section.optimizer == "adamw":
        return torch.optim.AdamW(settings)
    if section.optimizer == "adamw8bit":
        return _adamw8bit()(settings)
    return GroupProdigy(settings, section.prodigy_separate_d)


def _adamw8bit() -> Any:
    try:
        return import_module("bitsandbytes.optim").AdamW8bit
    except ImportError:
        raise DeviceUnfit(
            "optimizer adamw8bit needs the package bitsandbytes, which is not installed: install it, or use adamw."
        ) from None


def prepare_step(
    optimizer: torch.optim.Optimizer, groups: Sequence[tuple[Group, Flat]], step: int, factor: float
) -> list[nn.Parameter]:
    """Set learning rates (times `factor`) and gradients for `step`; the vectors of the groups that learn then."""
    learning: list[nn.Parameter] = []
    for settings, (group, flat) in zip(optimizer.param_groups, groups, strict=True):
        settings["lr"] = group.learning_rate * factor
        (vector,) = settings["params"]
        vector.grad = flat.gradient if group.learns(step) else None
        if group.learns(step):
            learning.append(vector)
    return learning


def gauges(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Prodigy's step-size estimates d by name, for logging; nothing of other optimizers."""
    if not isinstance(optimizer, GroupProdigy):
        return {}
    first, *rest = optimizer.param_groups
    return {"d": first["d"]} | {f"d_{group['name']}": group["d"] for group in rest if optimizer.separate_d}
