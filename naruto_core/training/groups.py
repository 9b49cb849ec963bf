"""Which weights learn together, how fast, and from which step to which.

A group that does not learn at a step has no gradient then, so that the optimizer leaves it out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from naruto_core.errors import RecipeInvalid
from naruto_core.recipe_training import TrainingSection


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
