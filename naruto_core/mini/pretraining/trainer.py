"""The training loop of every pretraining stage: AdamW or Muon, warm-up and cosine schedule, EMA, checkpoints.

A stage is a function `loss(step) -> scalar tensor` that derives all random numbers from the step
number, so that a killed stage resumes to the same result.
"""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from naruto_core import devices
from naruto_core.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint

_OUTER = re.compile(r"embedding\.weight|(^|coder\.)conv_(in|out)\.weight")  # layers that meet tokens, pixels or latents


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
    """Steps and hyperparameters of a stage.

    With `matrix_rate`, Muon updates the hidden matrices and kernels at that rate, and AdamW all the rest.
    """

    stage: str
    steps: int
    learning_rate: float
    matrix_rate: float | None = None
    weight_decay: float = 0.01
    warmup_steps: int = 150
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    checkpoint_seconds: float = 60.0


def half_precision() -> AbstractContextManager[object]:
    """Inside the block, layers compute in bf16 where the CPU has instructions for it."""
    return devices.autocast("bf16", torch.device("cpu"))


def _rate_factor(step: int, config: FitConfig) -> float:
    """The learning rate's factor, 0..1: linear warm-up, then cosine to 2 %."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


class Muon(torch.optim.Optimizer):
    """Momentum whose every update is made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Five Newton-Schulz steps bring all singular values of the update near 1, so that each direction of a matrix learns
    at the same pace. A convolution's kernel (out, in, height, width) counts as a matrix of out rows; `torch.optim.Muon`
    refuses kernels.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (no closure)
        for group in self.param_groups:
            momentum = group["momentum"]
            for shape, parameters in _by_shape(group["params"]).items():
                gradients = torch.stack([cast(torch.Tensor, p.grad).reshape(shape) for p in parameters])
                slots = [self.state[p].setdefault("momentum", torch.zeros(shape)) for p in parameters]
                torch._foreach_lerp_(slots, list(gradients), 1 - momentum)
                updates = orthogonalise(gradients.lerp(torch.stack(slots), momentum))
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.add_(update.reshape(parameter.shape), alpha=-rate)


def _by_shape(parameters: list[nn.Parameter]) -> dict[tuple[int, int], list[nn.Parameter]]:
    """The parameters that have a gradient, by their shape as matrices: those of one shape are updated together."""
    shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            shapes.setdefault((len(parameter), parameter.numel() // len(parameter)), []).append(parameter)
    return shapes


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """U V^T, nearly, of each of `matrices` (B, rows, columns) = U S V^T: singular values end in 0.7..1.2."""
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        product = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * product + 2.0315 * product @ product) @ wide
    return wide.mT if matrices.shape[1] > matrices.shape[2] else wide


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
    optimizers = _optimizers(config, modules)
    averages = Averages(modules, config.ema_decay)
    start = _resume(checkpoint, modules, averages, optimizers) if checkpoint.exists() else 0

    began = saved = reported = time.monotonic()
    losses: list[torch.Tensor] = []
    for step in range(start, config.steps):
        value = loss(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * _rate_factor(step, config)
            optimizer.step()
        averages.update(step)
        losses.append(value.detach())
        now, last = time.monotonic(), step + 1 == config.steps
        if last or now - saved > config.checkpoint_seconds:
            _save(checkpoint, modules, averages, optimizers, step + 1)
            saved = now
        if last or now - reported > 10:
            left = (now - began) / (step + 1 - start) * (config.steps - step - 1)
            on_report(FitReport(config.stage, step + 1, config.steps, torch.stack(losses).mean().item(), left))
            losses, reported = [], now
    averages.copy_to_modules()


def _optimizers(config: FitConfig, modules: Mapping[str, nn.Module]) -> list[torch.optim.Optimizer]:
    """AdamW; before it Muon for the hidden matrices, where `config` wants it. Each group keeps its `full_rate`.

    Embeddings and the convolutions that meet pixels or latents are no hidden matrices (as Muon's authors say).
    """
    named = [(n, p) for module in modules.values() for n, p in module.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if config.matrix_rate and p.ndim >= 2 and not _OUTER.search(name)]
    hidden = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in hidden]
    adam = torch.optim.AdamW(rest, config.learning_rate, (0.9, 0.99), weight_decay=config.weight_decay, fused=True)
    optimizers: list[torch.optim.Optimizer] = [adam]
    if config.matrix_rate:
        optimizers.insert(0, Muon(matrices, config.matrix_rate))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return optimizers


def _save(
    path: Path,
    modules: Mapping[str, nn.Module],
    averages: Averages,
    optimizers: Sequence[torch.optim.Optimizer],
    step: int,
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    values: list[dict[str, Any]] = []
    for index, optimizer in enumerate(optimizers):
        slots, plain = pack_optimizer(optimizer)
        tensors |= {f"{index}/{name}": slot for name, slot in slots.items()}
        values.append(plain)
    tensors |= {f"model/{m}/{n}": t for m, module in modules.items() for n, t in module.state_dict().items()}
    tensors |= {f"average/{key}": value for key, value in averages.values.items()}
    write_checkpoint(path, {k: t.clone() for k, t in tensors.items()}, {"step": step, "optimizers": values})


def _resume(
    path: Path, modules: Mapping[str, nn.Module], averages: Averages, optimizers: Sequence[torch.optim.Optimizer]
) -> int:
    tensors, values = read_checkpoint(path)
    for name, module in modules.items():
        module.load_state_dict(_below(f"model/{name}/", tensors))
    averages.values = {key: tensors[f"average/{key}"] for key in averages.values}
    for index, (optimizer, plain) in enumerate(zip(optimizers, values["optimizers"], strict=True)):
        unpack_optimizer(optimizer, _below(f"{index}/", tensors), plain)
    return int(values["step"])


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
