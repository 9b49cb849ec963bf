"""Optimizers by the recipe's words, set as the reference training script sets them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from naruto_core.recipe import TrainingSection
from naruto_core.training.prodigy import FlatProdigy


def build_optimizer(
    section: TrainingSection, unet: Sequence[nn.Parameter], text: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """One group for the UNet's adapter and, when they are trained, one for the text encoders'."""
    groups: list[dict[str, Any]] = [{"params": list(unet), "lr": section.learning_rate}]
    if text:
        groups.append({"params": list(text), "lr": section.text_encoder_lr})
    if section.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=section.adam_betas, weight_decay=section.adam_weight_decay)
    return FlatProdigy(
        groups,
        betas=section.adam_betas,
        weight_decay=section.adam_weight_decay,
        separate_d=section.prodigy_separate_d,
    )


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> torch.Tensor:
    """Scale all gradients to a common norm of at most `max_norm`; the norm before, on the device."""
    if isinstance(optimizer, FlatProdigy):
        return optimizer.clip_gradients(max_norm)
    weights: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(weights, max_norm)


def gauges(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What an adaptive optimizer has to say for itself, on the device: Prodigy's step-size estimates d."""
    if not isinstance(optimizer, FlatProdigy):
        return {}
    first, *rest = optimizer.estimates()
    return {"d": first.clone()} | {f"d_{index}": d.clone() for index, d in enumerate(rest, 1) if optimizer.separate_d}
