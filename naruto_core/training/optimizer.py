"""Optimizers by the recipe's words, set as the reference training script sets them."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from naruto_core.errors import DeviceUnfit
from naruto_core.recipe_training import TrainingSection
from naruto_core.training.flat import Flat
from naruto_core.training.groups import Group
from naruto_core.training.prodigy import FlatProdigy


def build_optimizer(section: TrainingSection, groups: Sequence[tuple[Group, Flat]]) -> torch.optim.Optimizer:
    """One parameter group, of one vector, for each of `groups`.

    Raises DeviceUnfit when the 8-bit optimizer is asked for and its library is not installed.
    """
    settings: list[dict[str, Any]] = []
    for group, flat in groups:
        vector = nn.Parameter(flat.weights)
        vector.grad = flat.gradient
        settings.append({"params": [vector], "lr": group.learning_rate, "name": group.name})
    adam: dict[str, Any] = {"betas": section.adam_betas, "weight_decay": section.adam_weight_decay}
    if section.optimizer == "adamw":
        return torch.optim.AdamW(settings, **adam)
    if section.optimizer == "adamw8bit":
        return _adamw8bit()(settings, **adam)
    return FlatProdigy(settings, separate_d=section.prodigy_separate_d, **adam)


def _adamw8bit() -> Any:
    try:
        return import_module("bitsandbytes.optim").AdamW8bit
    except ImportError:
        raise DeviceUnfit(
            "optimizer adamw8bit needs the package bitsandbytes, which is not installed: install it, or use adamw."
        ) from None


def clip_gradients(flats: Sequence[Flat], max_norm: float) -> torch.Tensor:
    """Scale all gradients to a common norm of at most `max_norm`; the norm before, on the device."""
    norm = torch.stack([flat.gradient.norm() for flat in flats]).norm()
    for flat in flats:
        flat.gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def gauges(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What an adaptive optimizer has to say for itself, on the device: Prodigy's step-size estimates d."""
    if not isinstance(optimizer, FlatProdigy):
        return {}
    first, *rest = optimizer.estimates()
    named = zip(rest, optimizer.param_groups[1:], strict=True) if optimizer.separate_d else ()
    return {"d": first.clone()} | {f"d_{group['name']}": d.clone() for d, group in named}
