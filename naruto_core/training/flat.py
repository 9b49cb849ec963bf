"""Many small weights as one long vector: what is done to all of them is one operation, not a thousand.

An adapter of full-size SDXL has 1,120 tensors. Zeroing, clipping, averaging and moving them one by one keeps a
GPU waiting for its next order most of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


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
