"""Trading time for memory: activations that are thrown away and computed again (Chen et al. 2016)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def prepare_unet(unet: "UNet2DConditionModel", gradient_checkpointing: bool) -> None:
    """Make `unet` ready to be trained through."""
    from diffusers.models.attention_processor import AttnProcessor

    if unet.device.type == "cpu":  # the backward of fused attention takes about 40 % of a step there
        unet.set_attn_processor(AttnProcessor())
    if gradient_checkpointing:
        unet.enable_gradient_checkpointing(recompute)
    unet.train()


def recompute(block: Callable[..., Any], *inputs: Any) -> Any:
    """`block` of `inputs`, computed again in the backward pass.

    PyTorch's reentrant form runs no Python for every single tensor that autograd saves (10 % of a small step), but
    gradients reach the weights inside only through an input that has one; the first blocks' may have none.
    """
    if not torch.is_grad_enabled():
        return block(*inputs)
    reentrant = any(isinstance(one, torch.Tensor) and one.requires_grad for one in inputs)
    return checkpoint(block, *inputs, use_reentrant=reentrant)
