"""The training loop of every pretraining stage: AdamW, warm-up and cosine schedule, EMA, checkpoints.

A stage is a function `loss(step) -> scalar tensor` that derives all random numbers from the step
number, so that a killed stage resumes to the same result.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from naruto_core.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint


@dataclass(frozen=True, slots=True)
class FitReport:
    """Progress of a stage: units done and in all, mean loss since the last report (None: no training), seconds left."""

    stage: str
    step: int
    steps: int
    loss: float | None
    seconds_left: float
    unit: str = "step"


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Steps and hyperparameters of a stage."""

    stage: str
    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup_steps: int = 150
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    checkpoint_seconds: float = 60.0


def _rate_factor(step: int, config: FitConfig) -> float:
    """The learning rate's factor, 0..1: linear warm-up, then cosine to 2 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


class Averages:
    """Exponential moving average of every parameter (Karras-style ramp for the first steps)."""

    def __init__(self, modules: Mapping[str, nn.Module], decay: float) -> None:
        self.decay = decay
        self.modules = modules
        self.values = {key: p.detach().clone() for key, p in self._named()}

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [(f"{m}/{n}", p) for m, module in self.modules.items() for n, p in module.named_parameters()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 10))
        named = self._named()
        torch._foreach_lerp_([self.values[k] for k, _ in named], [p.data for _, p in named], 1 - decay)

    @torch.no_grad()
    def copy_to_modules(self) -> None:
        for key, parameter in self._named():
            parameter.copy_(self.values[key])


def fit(
    config: FitConfig,
    modules: Mapping[str, nn.Module],
    loss: Callable[[int], torch.Tensor],
    checkpoint: Path,
    on_report: Callable[[FitReport], None],
) -> None:
    """Train `modules` in place on `loss`; afterwards they have the averaged weights.

    Resumes from `checkpoint` if it exists; the file stays after the last step.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay, fused=True
    )
    averages = Averages(modules, config.ema_decay)
    start = _resume(checkpoint, modules, averages, optimizer) if checkpoint.exists() else 0

    began = saved = reported = time.monotonic()
    losses: list[torch.Tensor] = []
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate_factor(step, config)
        value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        optimizer.step()
        averages.update(step)
        losses.append(value.detach())
        now, last = time.monotonic(), step + 1 == config.steps
        if last or now - saved > config.checkpoint_seconds:
            _save(checkpoint, modules, averages, optimizer, step + 1)
            saved = now
        if last or now - reported > 10:
            left = (now - began) / (step + 1 - start) * (config.steps - step - 1)
            on_report(FitReport(config.stage, step + 1, config.steps, torch.stack(losses).mean().item(), left))
            losses, reported = [], now
    averages.copy_to_modules()


def _save(
    path: Path, modules: Mapping[str, nn.Module], averages: Averages, optimizer: torch.optim.Optimizer, step: int
) -> None:
    tensors, values = pack_optimizer(optimizer)
    tensors |= {f"model/{m}/{n}": t for m, module in modules.items() for n, t in module.state_dict().items()}
    tensors |= {f"average/{key}": value for key, value in averages.values.items()}
    write_checkpoint(path, {k: t.clone() for k, t in tensors.items()}, {"step": step, "optimizer": values})


def _resume(path: Path, modules: Mapping[str, nn.Module], averages: Averages, optimizer: torch.optim.Optimizer) -> int:
    tensors, values = read_checkpoint(path)
    for name, module in modules.items():
        prefix = f"model/{name}/"
        module.load_state_dict({k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)})
    averages.values = {key: tensors[f"average/{key}"] for key in averages.values}
    unpack_optimizer(optimizer, tensors, values["optimizer"])
    return int(values["step"])
