"""Parameter groups over flat vectors, learning-rate schedule and optimizers, as in the reference training script."""

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
class FlatParameters:
    """Weights and their gradient, both (N,); the parameters are views into them."""

    weights: torch.Tensor
    gradient: torch.Tensor


def flatten_parameters(parameters: Sequence[nn.Parameter]) -> FlatParameters:
    """Concatenate `parameters` (of one device and dtype) into one vector and make them views into it; gradients 0."""
    weights = torch.cat([p.detach().flatten() for p in parameters])
    flat = FlatParameters(weights, torch.zeros_like(weights))
    attach_views(parameters, flat)
    return flat


def attach_views(parameters: Sequence[nn.Parameter], flat: FlatParameters) -> None:
    """Make `parameters` trainable views into `flat`."""
    parts, gradients = split_views(flat.weights, parameters), split_views(flat.gradient, parameters)
    for p, part, gradient in zip(parameters, parts, gradients, strict=True):
        p.grad = None
        p.data, p.grad = part, gradient
        p.requires_grad_()


def split_views(vector: torch.Tensor, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Consecutive views into `vector` (N,) with the shapes of `like`."""
    parts = vector.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


class HalfCopy:
    """Half-precision copies of `parameters` for the forward and backward pass; the optimizer updates `master` (fp32).

    Half-precision weights would not learn: an update is smaller than the distance to the next number. The copies
    save a conversion of every weight at every use.
    """

    def __init__(self, master: FlatParameters, parameters: Sequence[nn.Parameter], dtype: torch.dtype) -> None:
        self._master = master
        self._weights = master.weights.to(dtype)
        self._gradient = torch.zeros_like(self._weights)
        self.copies = [part.detach().requires_grad_() for part in split_views(self._weights, parameters)]
        for copy, gradient in zip(self.copies, split_views(self._gradient, parameters), strict=True):
            copy.grad = gradient

    def collect_gradient(self) -> None:
        """Add the gradient of a backward pass to the master's, and reset it."""
        self._master.gradient.add_(self._gradient)
        self._gradient.zero_()

    def update(self) -> None:
        """Copy the master's weights."""
        self._weights.copy_(self._master.weights)


@dataclass(frozen=True, slots=True)
class ParameterGroup:
    """Parameters by name, their learning rate, and when they learn: `first_step` <= step < `stop_step`."""

    name: str
    parameters: dict[str, nn.Parameter]
    learning_rate: float
    first_step: int = 0
    stop_step: int | None = None

    def learns(self, step: int) -> bool:
        return self.first_step <= step and (self.stop_step is None or step < self.stop_step)


def parameter_groups(weights: Mapping[str, nn.Parameter], section: TrainingSection) -> list[ParameterGroup]:
    """`weights` by full name in groups: the UNet's, the encoders', the new tokens', and one for each unfreeze entry.

    Raises RecipeInvalid when an entry of `unfreeze` names no weights, or weights that would stop before they begin.
    """
    groups: list[ParameterGroup] = []
    remaining = dict(weights)
    for late in section.unfreeze:
        named = {name: remaining.pop(name) for name in list(remaining) if name.startswith(late.modules)}
        if not named:
            known = sorted({".".join(name.split(".")[:2]) for name in weights})
            raise RecipeInvalid(
                f"unfreeze: no weight begins with {late.modules!r}; weights are {', '.join(known)}, ..."
            )
        for group in _by_part(named, section):
            stop = group.stop_step
            if stop is not None and stop <= late.step:
                raise RecipeInvalid(
                    f"unfreeze: {group.name} below {late.modules!r} would learn from step {late.step} on, but they "
                    f"are frozen from step {stop} on: set an earlier step, or stop them later."
                )
            groups.append(ParameterGroup(late.modules, group.parameters, group.learning_rate, late.step, stop))
    return [*_by_part(remaining, section), *groups]


def _by_part(weights: Mapping[str, nn.Parameter], section: TrainingSection) -> list[ParameterGroup]:
    tokens = {name: p for name, p in weights.items() if name.endswith(".tokens")}
    unet = {name: p for name, p in weights.items() if name.startswith("unet.")}
    text = {name: p for name, p in weights.items() if name not in unet and name not in tokens}
    inversion = section.textual_inversion
    groups = [
        ParameterGroup("unet", unet, section.learning_rate),
        ParameterGroup("text_encoders", text, section.text_encoder_lr or 0.0, 0, section.text_encoder_stop_step),
        ParameterGroup(
            "tokens", tokens, inversion.learning_rate if inversion else 0.0, 0, inversion and inversion.pivot_step
        ),
    ]
    return [group for group in groups if group.parameters]


def learning_rate_factor(section: TrainingSection) -> Callable[[int], float]:
    """A function from the step to the learning rate's factor, 0 .. 1, by diffusers' schedules; it has no state."""
    from diffusers.optimization import get_scheduler

    constant_with_warmup = section.lr_scheduler == "constant" and section.lr_warmup_steps
    schedule = get_scheduler(
        "constant_with_warmup" if constant_with_warmup else section.lr_scheduler,
        torch.optim.SGD([torch.zeros(1)], lr=1.0),
        num_warmup_steps=section.lr_warmup_steps,
        num_training_steps=section.max_train_steps,
    )
    return schedule.lr_lambdas[0]


class GroupProdigy(Prodigy):
    """`prodigyopt.Prodigy` (Mishchenko & Defazio 2023, algorithm 4) for groups that start and stop learning.

    Groups share one estimate d, or have their own with `separate_d`. Groups that share a d must have equal learning
    rates (else RuntimeError). A group that starts late gets Adam's bias correction by its own number of steps; the
    library uses the first group's number, which makes the first steps of a late group up to 6.5 times too long.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], separate_d: bool = False) -> None:
        super().__init__(groups, decouple=True, use_bias_correction=True, safeguard_warmup=True)
        self.separate_d = separate_d

    def step(self, closure: None = None) -> None:  # noqa: ARG002 (the signature of every optimizer)
        """Move every parameter that has a gradient."""
        groups = self.param_groups
        try:
            for sharing in [[group] for group in groups] if self.separate_d else [groups]:
                self.param_groups = sharing  # the library estimates d over `param_groups`
                self._step(sharing)
        finally:
            self.param_groups = groups

    def _step(self, groups: Sequence[dict[str, Any]]) -> None:
        """One step of the library; a group that started later than the first has its own bias correction."""
        with ExitStack() as corrections:
            for group in groups:
                for p in (p for p in group["params"] if p.grad is not None):
                    if (age := self.state[p].get("step", 0)) != groups[0]["k"]:
                        corrections.enter_context(self._corrected(p, age, groups[0]))
            super().step()

    @contextmanager
    def _corrected(self, p: nn.Parameter, age: int, first: dict[str, Any]) -> Generator[None]:
        """Correct one step of `p`, taken inside the block: as for a parameter of `age` steps, not of `first`'s k.

        The ratio scales the whole step (weight decay included), and the share of `p` in the estimate of d.
        """
        ratio = _bias_correction(age, first["betas"]) / _bias_correction(first["k"], first["betas"])
        previous, state = p.detach().clone(), self.state[p]
        start = state.get("p0")
        if start is not None:
            state["p0"] = previous.lerp(start, ratio)
        yield
        p.data.copy_(previous.lerp_(p.data, ratio))
        if start is not None:
            state["p0"] = start


def _bias_correction(steps: int, betas: tuple[float, float]) -> float:
    """Adam's bias-correction factor for the step after `steps` steps (Kingma & Ba 2015)."""
    return (1 - betas[1] ** (steps + 1)) ** 0.5 / (1 - betas[0] ** (steps + 1))


def build_optimizer(
    section: TrainingSection, groups: Sequence[tuple[ParameterGroup, FlatParameters]]
) -> torch.optim.Optimizer:
    """One parameter group, of one vector, for each of `groups`; `prepare_step` gives the vectors their gradients.

    Raises DeviceUnfit when the recipe asks for the 8-bit optimizer and bitsandbytes is not installed.
    """
    # Weight decay is set in every group: prodigyopt prints a line when it gets the argument `weight_decay`.
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
    optimizer: torch.optim.Optimizer, groups: Sequence[tuple[ParameterGroup, FlatParameters]], step: int, factor: float
) -> list[nn.Parameter]:
    """Set learning rates (times `factor`) and gradients for `step`; returns the vectors of the groups that learn."""
    learning: list[nn.Parameter] = []
    for settings, (group, flat) in zip(optimizer.param_groups, groups, strict=True):
        settings["lr"] = group.learning_rate * factor
        (vector,) = settings["params"]
        vector.grad = flat.gradient if group.learns(step) else None
        if group.learns(step):
            learning.append(vector)
    return learning


def step_size_estimates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Prodigy's step-size estimates d by name, for logging; {} for other optimizers."""
    if not isinstance(optimizer, GroupProdigy):
        return {}
    first, *rest = optimizer.param_groups
    return {"d": first["d"]} | {f"d_{group['name']}": group["d"] for group in rest if optimizer.separate_d}
