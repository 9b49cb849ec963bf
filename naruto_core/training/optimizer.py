"""Parameter groups over flat vectors, and the optimizers of a recipe, set as in the reference training script."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from prodigyopt import Prodigy
from torch import nn

from naruto_core.errors import DeviceUnfit, RecipeInvalid
from naruto_core.recipe_training import TrainingSection


@dataclass(frozen=True, slots=True)
class Flat:
    """Weights and their gradient, both (N,); the parameters they were made from are views into them."""

    weights: torch.Tensor
    gradient: torch.Tensor


def flatten(parameters: Sequence[nn.Parameter]) -> Flat:
    """One vector of all `parameters` (of one device and dtype), which become views into it; gradients are zero."""
    weights = torch.cat([p.detach().flatten() for p in parameters])
    flat = Flat(weights, torch.zeros_like(weights))
    attach(parameters, flat)
    return flat


def attach(parameters: Sequence[nn.Parameter], flat: Flat) -> None:
    """Make `parameters` (again) views into `flat`, learning."""
    parts, gradients = split(flat.weights, parameters), split(flat.gradient, parameters)
    for p, part, gradient in zip(parameters, parts, gradients, strict=True):
        p.grad = None
        p.data, p.grad = part, gradient
        p.requires_grad_()


def split(vector: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Views into `vector` of the shapes of `like`, one after the other."""
    parts = vector.split([one.numel() for one in like])
    return [part.view(one.shape) for part, one in zip(parts, like, strict=True)]


class HalfCopy:
    """Half-precision copies of `parameters` to compute with; what learns is the fp32 vector `master`.

    Half-precision weights do not learn: an update is smaller than the distance to the next number. The copies
    spare the conversion of every weight at every use, there and back.
    """

    def __init__(self, master: Flat, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        self._master = master
        self._weights = master.weights.to(dtype)
        self._gradient = torch.zeros_like(self._weights)
        self.copies = [part.detach().requires_grad_() for part in split(self._weights, parameters)]
        for copy, gradient in zip(self.copies, split(self._gradient, parameters), strict=True):
            copy.grad = gradient

    def gather(self) -> None:
        """Add what a backward pass has found to the master's gradient."""
        self._master.gradient.add_(self._gradient)
        self._gradient.zero_()

    def follow(self) -> None:
        """Take over the master's weights."""
        self._weights.copy_(self._master.weights)


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters by name, and when they learn: in steps `first_step` <= step < `stop_step`."""

    name: str
    parameters: dict[str, nn.Parameter]
    learning_rate: float
    first_step: int = 0
    stop_step: int | None = None

    def learns(self, step: int) -> bool:
        return self.first_step <= step and (self.stop_step is None or step < self.stop_step)


def group_weights(weights: Mapping[str, nn.Parameter], section: TrainingSection) -> list[Group]:
    """`weights` by full name in groups: the UNet's, the encoders', the new tokens', and each late one apart.

    Raises RecipeInvalid when an entry of `unfreeze` names no weights.
    """
    groups: list[Group] = []
    left = dict(weights)
    for late in section.unfreeze:
        named = {name: left.pop(name) for name in list(left) if name.startswith(late.modules)}
        if not named:
            known = sorted({".".join(name.split(".")[:2]) for name in weights})
            raise RecipeInvalid(f"unfreeze: no weights begin with {late.modules!r}; there are {', '.join(known)}, ...")
        for group in _by_part(named, section):
            stop = group.stop_step
            groups.append(Group(late.modules, group.parameters, group.learning_rate, late.step, stop))
    return [*_by_part(left, section), *groups]


def _by_part(weights: Mapping[str, nn.Parameter], section: TrainingSection) -> list[Group]:
    tokens = {name: p for name, p in weights.items() if name.endswith(".tokens")}
    unet = {name: p for name, p in weights.items() if name.startswith("unet.")}
    text = {name: p for name, p in weights.items() if name not in unet and name not in tokens}
    inversion = section.textual_inversion
    groups = [
        Group("unet", unet, section.learning_rate),
        Group("text_encoders", text, section.text_encoder_lr or 0.0, 0, section.text_encoder_stop_step),
        Group("tokens", tokens, inversion.learning_rate if inversion else 0.0, 0, inversion and inversion.pivot_step),
    ]
    return [group for group in groups if group.parameters]


def rate_factor(section: TrainingSection) -> Callable[[int], float]:
    """The learning rate's factor at a step, 0 .. 1: the schedules of diffusers, which need no memory of the past."""
    from diffusers.optimization import get_scheduler

    warm_constant = section.lr_scheduler == "constant" and section.lr_warmup_steps
    schedule = get_scheduler(
        "constant_with_warmup" if warm_constant else section.lr_scheduler,
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=section.lr_warmup_steps,
        num_training_steps=section.max_train_steps,
    )
    return schedule.lr_lambdas[0]


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
