"""What a training step keeps for its backward pass, counted on tensors without memory.

PyTorch's meta device runs the very model, layer by layer, with shapes alone: what autograd would save is asked of
autograd itself instead of being guessed from parameter counts. Full-size SDXL takes about two seconds.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from naruto_core.recipe_training import TrainingSection
from naruto_core.training.lean import Switch, give_all, swap_in
from naruto_core.training.lora import lora_config

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

META = torch.device("meta")


class _FusedAttention(TorchFunctionMode):
    """On the meta device attention takes its plain form, which keeps every score; a GPU's fused one does not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is F.scaled_dot_product_attention and not (kwargs or {}).get("is_causal"):
            query, key, value = args[:3]
            return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]  # noqa: SLF001
        return func(*args, **(kwargs or {}))


class Saved:
    """Counts the bytes that autograd saves inside `counting`, every storage once; weights are not counted."""

    def __init__(self, module: nn.Module) -> None:
        self._seen = {_storage(p) for p in [*module.parameters(), *module.buffers()]}
        self.bytes = 0
        self._kept: list[torch.Tensor] = []

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        if (key := _storage(tensor)) not in self._seen:
            self._seen.add(key)
            self._kept.append(tensor)  # a storage that is freed gives its address to the next one
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    @contextmanager
    def counting(self) -> Generator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor):
            yield
        self._kept = []


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001 (on this device the only thing that tells storages apart)


def recomputing(saved: Saved) -> tuple[Callable[..., Any], Callable[[], int]]:
    """A stand-in for diffusers' checkpointing function, and the bytes of the largest block that is recomputed.

    Of a block that is computed again, only the inputs are kept; while it is, everything inside is there.
    """
    largest = 0

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        nonlocal largest
        for tensor in inputs:
            if isinstance(tensor, torch.Tensor):
                saved.add(tensor)
        inner = Saved(nn.Module())
        with inner.counting():
            output = block(*inputs)
        largest = max(largest, inner.bytes)
        return output

    return run, lambda: largest


def with_lean_lora(module: nn.Module, section: TrainingSection, targets: tuple[str, ...], dtype: torch.dtype) -> int:
    """Give `module` (on the meta device) the adapter that training would; the number of its weights."""
    adapted: Any = module
    adapted.requires_grad_(False)
    adapted.add_adapter(lora_config(section, targets))
    named = [p for p in module.parameters() if p.requires_grad]
    swaps = swap_in(module, Switch())
    give_all(swaps, lambda p: torch.empty(p.shape, device=META, dtype=dtype, requires_grad=True))
    nn.Module.to(module, dtype)
    return sum(p.numel() for p in named)


@lru_cache(maxsize=64)
def unet_activations(
    unet: "UNet2DConditionModel", batch: int, side: int, tokens: int, checkpointing: bool, fused: bool
) -> int:
    """Bytes kept for the backward pass of `unet` (on the meta device, adapted) over `batch` square latents.

    `fused`: attention that keeps no scores, as on a GPU.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    config: Any = unet.config
    unet.set_attn_processor(AttnProcessor2_0() if fused else AttnProcessor())  # as `prepare_unet` does
    saved = Saved(unet)
    unet.disable_gradient_checkpointing()
    largest: Callable[[], int] = lambda: 0  # noqa: E731
    if checkpointing:
        run, largest = recomputing(saved)
        unet.enable_gradient_checkpointing(run)
    unet.train()
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    options: dict[str, Any] = {"device": META, "dtype": unet.dtype}
    condition = {"text_embeds": torch.zeros(batch, width, **options), "time_ids": torch.zeros(batch, 6, device=META)}
    inputs = torch.zeros(batch, config.in_channels, side, side, **options)
    text = torch.zeros(batch, tokens, config.cross_attention_dim, **options)
    with saved.counting(), _FusedAttention() if fused else torch.enable_grad():
        unet(inputs, torch.zeros(batch, device=META), text, added_cond_kwargs=condition)
    return saved.bytes + largest()


def text_activations(encoder: nn.Module, batch: int, tokens: int) -> int:
    """Bytes kept for the backward pass of a text encoder (on the meta device, adapted) over `batch` texts."""
    saved = Saved(encoder)
    with saved.counting():
        encoder(torch.zeros(batch, tokens, device=META, dtype=torch.long), output_hidden_states=True)
    return saved.bytes
