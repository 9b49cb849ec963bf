"""Optimizers by the recipe's words, set as the reference training script sets them."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from naruto_core.recipe import TrainingSection


def build_optimizer(
    section: TrainingSection, unet: Sequence[nn.Parameter], text: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """One group for the UNet's adapter and, when they are trained, one for the text encoders'."""
    groups: list[dict[str, Any]] = [{"params": list(unet), "lr": section.learning_rate}]
    if text:
        groups.append({"params": list(text), "lr": section.text_encoder_lr})
    if section.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=section.adam_betas, weight_decay=section.adam_weight_decay)
    import prodigyopt

    prodigy: Any = prodigyopt.Prodigy  # its annotations name integers where it takes fractions

    with contextlib.redirect_stdout(io.StringIO()):  # it announces its weight decay on stdout
        return prodigy(  # Mishchenko & Defazio 2023
            groups,
            lr=section.learning_rate,
            betas=section.adam_betas,
            weight_decay=section.adam_weight_decay,
            decouple=True,
            use_bias_correction=True,
            safeguard_warmup=True,
        )


def gauges(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """What an adaptive optimizer has to say for itself: Prodigy's step-size estimate d."""
    first = optimizer.param_groups[0]
    return {"d": float(first["d"])} if "d" in first else {}
