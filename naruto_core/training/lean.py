"""A linear layer with its low-rank update in three matrix products: W x + b + scale * B A x (Hu et al. 2021).

PEFT's layer converts input and weights at every use and computes the update in full precision; under autocast
a step of full-size SDXL is 19,000 small operations, of which this leaves 7,000. PEFT stays at the borders: it
chooses the layers, draws the first weights and names them in the file.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F


@dataclass(slots=True)
class Switch:
    """Whether the adapter has a say; off, the layers are the base model's own."""

    on: bool = True

    @contextmanager
    def off(self) -> Generator[None]:
        """The base model inside the block."""
        self.on = False
        try:
            yield
        finally:
            self.on = True


class LeanLinear(nn.Module):
    """`base` (frozen) and the update `up @ down`, scaled; `down` (r, in) and `up` (out, r) are set by `give`."""

    def __init__(self, base: nn.Linear, scale: float, dropout: float, switch: Switch) -> None:
        super().__init__()
        self.base, self.scale, self.dropout, self.switch = base, scale, dropout, switch
        self._update: tuple[torch.Tensor, torch.Tensor] | None = None  # a tuple: not for whoever freezes the module

    def give(self, down: torch.Tensor, up: torch.Tensor) -> None:
        """The weights to compute with, in the precision of `base`."""
        self._update = (down, up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        if not self.switch.on or self._update is None:
            return y
        down, up = self._update
        inner = F.linear(F.dropout(x, self.dropout, self.training) if self.dropout else x, down)
        return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=self.scale).view(y.shape)


@dataclass(frozen=True, slots=True)
class Swap:
    """One adapted layer of PEFT's and what stands in its place; the names are those of its A and B."""

    parent: nn.Module
    attribute: str
    original: nn.Module
    lean: LeanLinear
    down: nn.Parameter
    up: nn.Parameter

    def install(self) -> None:
        """Put the lean layer in."""
        setattr(self.parent, self.attribute, self.lean)

    def restore(self) -> None:
        """Put PEFT's layer back."""
        setattr(self.parent, self.attribute, self.original)


def swap_in(root: nn.Module, switch: Switch) -> list[Swap]:
    """Put a lean layer in place of every plain LoRA linear layer below `root`, and say which.

    A DoRA layer, whose update is not a product of two matrices, stays as it is.
    """
    from peft.tuners.lora import Linear

    swaps: list[Swap] = []
    for path, layer in list(root.named_modules()):
        if not isinstance(layer, Linear) or layer.lora_variant or not isinstance(layer.base_layer, nn.Linear):
            continue
        (name,) = layer.lora_A
        place, _, attribute = path.rpartition(".")
        chance = layer.lora_dropout[name]
        dropout = chance.p if isinstance(chance, nn.Dropout) else 0.0
        lean = LeanLinear(layer.base_layer, layer.scaling[name], dropout, switch)
        lean.train(layer.training)
        down, up = (layer.get_parameter(f"{side}.{name}.weight") for side in ("lora_A", "lora_B"))
        swaps.append(Swap(root.get_submodule(place), attribute, layer, lean, down, up))
        swaps[-1].install()
    return swaps


def give_all(swaps: Sequence[Swap], working: Callable[[nn.Parameter], torch.Tensor]) -> None:
    """Hand every lean layer the working copies of its weights."""
    for swap in swaps:
        swap.lean.give(working(swap.down), working(swap.up))
