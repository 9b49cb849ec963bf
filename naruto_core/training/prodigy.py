"""Prodigy (Mishchenko & Defazio 2023, algorithm 4) on one flat buffer a group, without asking the device to wait.

The published implementation walks over every parameter and reads two numbers back from each: on
SDXL's 1,120 adapter tensors that is tens of thousands of small operations and thousands of waits a
step. Here parameters and gradients of a group are views into one vector, so a step is about twenty
operations a group, and the estimate d stays on the device.

Two things differ on purpose: a group with lr 0 is frozen (the published one goes on moving it by its
stale momentum), and each group may have a d of its own.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from naruto_core.training.flat import Flat, flatten


class FlatProdigy(torch.optim.Optimizer):
    """Prodigy with decoupled weight decay, bias correction and safeguarded warm-up.

    `groups` as for any torch optimizer; parameters of a group share device and dtype, and are moved
    into a common buffer here. With a shared d all learning rates must be equal or 0 (ValueError);
    with `separate_d` they may differ.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        d0: float = 1e-6,
        eps: float = 1e-8,
        separate_d: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "d0": d0, "eps": eps, "k": 0}
        super().__init__(groups, defaults)
        self.separate_d = separate_d
        self._flats = [self._flatten(group) for group in self.param_groups]

    def _flatten(self, group: dict[str, Any]) -> Flat:
        parameters: list[nn.Parameter] = group["params"]
        flat, d0 = flatten(parameters), group["d0"]
        self.state[parameters[0]] = {
            "exp_avg": torch.zeros_like(flat.weights),
            "exp_avg_sq": torch.zeros_like(flat.weights),
            "s": torch.zeros_like(flat.weights),
            "p0": flat.weights.clone(),
            # d, its maximum, and the numerator of its estimate
            "estimate": torch.tensor([d0, d0, 0.0], dtype=torch.float64, device=flat.weights.device),
        }
        return flat

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: ARG002 (gradients stay views of their buffer)
        """Zero all gradients in place."""
        for flat in self._flats:
            flat.gradient.zero_()

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients so that their common norm is at most `max_norm`; the norm before, on the device."""
        norm = torch.stack([flat.gradient.norm() for flat in self._flats]).norm()
        for flat in self._flats:
            flat.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def estimates(self) -> list[torch.Tensor]:
        """Every group's d, on the device."""
        return [self._state(group)["estimate"][0] for group in self.param_groups]

    def _state(self, group: dict[str, Any]) -> dict[str, torch.Tensor]:
        return self.state[group["params"][0]]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's; torch would cast the estimates to the weights' precision on the way."""
        super().load_state_dict(state_dict)
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            estimate: torch.Tensor = state_dict["state"][saved["params"][0]]["estimate"]
            self._state(group)["estimate"] = estimate.to(group["params"][0].device, torch.float64, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every group whose lr is not 0."""
        if closure is not None:
            raise ValueError("FlatProdigy takes no closure")
        active = [pair for pair in zip(self.param_groups, self._flats, strict=True) if pair[0]["lr"] > 0]
        if not active:
            return
        if self.separate_d:
            for group, flat in active:
                self._move([(group, flat)])
            return
        if len({group["lr"] for group, _ in active}) > 1:
            raise ValueError("groups that share one d must have the same lr, or 0")
        self._move(active)
        estimate = self._state(active[0][0])["estimate"]
        for group in self.param_groups:
            self._state(group)["estimate"].copy_(estimate)

    def _move(self, pairs: list[tuple[dict[str, Any], Flat]]) -> None:
        """One step of groups that share a d: gather what the gradients say of it, then move by the d before."""
        first = pairs[0][0]
        (beta1, beta2), d0 = first["betas"], first["d0"]
        beta3 = math.sqrt(beta2)
        d, d_max, numerator = self._state(first)["estimate"].unbind()
        numerator, denominator = numerator * beta3, torch.zeros_like(numerator)
        rates: list[torch.Tensor] = []
        for group, flat in pairs:
            state, gradient, k = self._state(group), flat.gradient, group["k"] + 1
            # a group that was unfrozen late is as new as its own count of steps
            rates.append(d * group["lr"] * math.sqrt(1 - beta2**k) / (1 - beta1**k))
            travelled = torch.dot(gradient, state["p0"] - flat.weights)
            numerator = numerator + (d / d0) * rates[-1] * travelled
            state["exp_avg"].mul_(beta1).add_(gradient * (d * (1 - beta1)))
            state["exp_avg_sq"].mul_(beta2).add_(gradient.square() * (d * d * (1 - beta2)))
            state["s"].mul_(beta3).add_(gradient * (d * d / d0))
            denominator = denominator + state["s"].abs().sum()
            group["k"] = k
        known = denominator > 0  # before the first gradient there is nothing to estimate from
        found = torch.where(known, numerator / denominator, d)
        d_max = torch.maximum(d_max, found)
        for (group, flat), moving in zip(pairs, rates, strict=True):
            state, rate = self._state(group), torch.where(known, moving, 0.0)
            flat.weights.mul_(1 - group["weight_decay"] * rate)
            flat.weights.sub_(state["exp_avg"] * rate / (state["exp_avg_sq"].sqrt() + d_max * group["eps"]))
            state["estimate"].copy_(torch.stack([d_max, d_max, numerator]))
