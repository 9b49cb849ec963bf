"""The memory plan: an estimate of each phase's memory before a training starts, and a batch size that fits."""

import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from naruto_core import devices, sdxl
from naruto_core.errors import DeviceUnfit
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.recipe_training import TrainingSection
from naruto_core.text_encoding import number_of_chunks
from naruto_core.training.lora import TEXT_TARGETS, AdapterSwitch, lora_config, replace_lora_layers, set_lora_weights

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel


META = torch.device("meta")


class FusedAttention(TorchFunctionMode):
    """Use fused attention on the meta device, as on a GPU; its default there would store every attention score."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is F.scaled_dot_product_attention and not (kwargs or {}).get("is_causal"):
            query, key, value = args[:3]
            return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, None, True)[0]  # noqa: SLF001
        return func(*args, **(kwargs or {}))


class ActivationCounter:
    """Counts the bytes of activations that autograd saves inside `counting`, each storage once, without weights."""

    def __init__(self, module: nn.Module) -> None:
        self._seen = {_storage(p) for p in [*module.parameters(), *module.buffers()]}
        self.bytes = 0
        self._alive: list[torch.Tensor] = []

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        if (key := _storage(tensor)) not in self._seen:
            self._seen.add(key)
            self._alive.append(tensor)  # a freed storage would give its address to the next one
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor

    @contextmanager
    def counting(self) -> Generator[None]:
        with torch.autograd.graph.saved_tensors_hooks(self.add, lambda tensor: tensor):
            yield
        self._alive = []


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001 (the only identity of a storage on this device)


def recompute_counter(saved: ActivationCounter) -> tuple[Callable[..., Any], Callable[[], int]]:
    """A replacement of diffusers' checkpointing function that counts, and the bytes of the largest recomputed block.

    A recomputed block stores its inputs only; while it is recomputed, all its activations exist.
    """
    largest = 0

    def run(block: Callable[..., Any], *inputs: Any) -> Any:
        nonlocal largest
        for tensor in inputs:
            if isinstance(tensor, torch.Tensor):
                saved.add(tensor)
        inner = ActivationCounter(nn.Module())
        with inner.counting():
            output = block(*inputs)
        largest = max(largest, inner.bytes)
        return output

    return run, lambda: largest


def add_meta_lora(module: nn.Module, section: TrainingSection, targets: tuple[str, ...], dtype: torch.dtype) -> int:
    """Add to `module` (on the meta device) the adapter that training adds; the number of the adapter's weights."""
    adapted: Any = module
    adapted.requires_grad_(False)
    adapted.add_adapter(lora_config(section, targets))
    named = [p for p in module.parameters() if p.requires_grad]
    swaps = replace_lora_layers(module, AdapterSwitch())
    set_lora_weights(swaps, lambda p: torch.empty(p.shape, device=META, dtype=dtype, requires_grad=True))
    nn.Module.to(module, dtype)
    return sum(p.numel() for p in named)


def unet_inputs(unet: "UNet2DConditionModel", batch: int, side: int, tokens: int) -> dict[str, Any]:
    """Inputs of `unet` on the meta device, for `batch` square latents of `side` and texts of `tokens`."""
    config: Any = unet.config
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    options: dict[str, Any] = {"device": META, "dtype": unet.dtype}
    condition = {"text_embeds": torch.zeros(batch, width, **options), "time_ids": torch.zeros(batch, 6, device=META)}
    return {
        "sample": torch.zeros(batch, config.in_channels, side, side, **options),
        "timestep": torch.zeros(batch, device=META),
        "encoder_hidden_states": torch.zeros(batch, tokens, config.cross_attention_dim, **options),
        "added_cond_kwargs": condition,
    }


@lru_cache(maxsize=64)
def unet_activations(
    unet: "UNet2DConditionModel", batch: int, side: int, tokens: int, checkpointing: bool, fused: bool
) -> int:
    """Bytes stored for the backward pass of `unet` (on the meta device, with adapter) over `batch` square latents.

    `side` is in latent pixels, `tokens` the text length. `fused`: attention that stores no scores, as on a GPU.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    unet.set_attn_processor(AttnProcessor2_0() if fused else AttnProcessor())  # as `prepare_unet` does
    saved = ActivationCounter(unet)
    unet.disable_gradient_checkpointing()
    largest: Callable[[], int] = lambda: 0  # noqa: E731
    if checkpointing:
        run, largest = recompute_counter(saved)
        unet.enable_gradient_checkpointing(run)
    unet.train()
    with saved.counting(), FusedAttention() if fused else torch.enable_grad():
        unet(**unet_inputs(unet, batch, side, tokens))
    return saved.bytes + largest()


def text_activations(encoder: nn.Module, batch: int, tokens: int) -> int:
    """Bytes stored for the backward pass of a text encoder (on the meta device, with adapter) over `batch` texts."""
    saved = ActivationCounter(encoder)
    with saved.counting():
        encoder(torch.zeros(batch, tokens, device=META, dtype=torch.long), output_hidden_states=True)
    return saved.bytes


GIB = 2**30
OVERHEAD_BYTES = 0.6 * GIB  # libraries and their workspaces; a CUDA context alone has about 0.4 GiB
BACKWARD_FACTOR = 1.15  # on activations: gradients exist beside them in the backward pass
BYTES_PER_TRAINABLE = (
    4 * 6 + 2 * 2
)  # fp32 weight, gradient and four states of Prodigy; half-precision copy and gradient
VAE_ACTIVATIONS = 6  # of the largest size that exist at once while the VAE encodes or decodes


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """`section` with the chosen batch size and accumulation; `needs` in bytes by phase, and the bytes `available`.

    `trainable` is the number of weights that learn.
    """

    section: TrainingSection
    needs: dict[str, int]
    available: int
    trainable: int

    @property
    def summary(self) -> str:
        """E.g. "memory  encode: 6.9, train: 8.4, sample: 9.0, save: 6.6 GiB (estimated), of 14.6 GiB; batch 4 x 1"."""
        phases = ", ".join(f"{name}: {need / GIB:.1f}" for name, need in self.needs.items())
        split = f"batch {self.section.train_batch_size} x {self.section.gradient_accumulation_steps}"
        checkpointing = ", gradient checkpointing" if self.section.gradient_checkpointing else ""
        return f"memory     {phases} GiB (estimated), of {self.available / GIB:.1f} GiB; {split}{checkpointing}"


def plan_memory(
    model: ModelSection, section: TrainingSection, drawing: GenerationSection, device: torch.device, available: int
) -> MemoryPlan:
    """The recipe's own batch, or with `fit_memory` the fastest split of it that fits into `available` bytes.

    Raises DeviceUnfit, with the estimate, when none fits.
    """
    parts = _Parts(model, section, device)
    plans: list[MemoryPlan] = []
    for split in splits(section):
        plan = MemoryPlan(split, parts.needs(split, drawing), available, parts.trainable)
        if max(plan.needs.values()) <= available:
            return plan
        plans.append(plan)
    least = min(plans, key=lambda plan: max(plan.needs.values()))
    phase = max(least.needs, key=lambda name: least.needs[name])
    hint = "" if section.fit_memory else " (training.fit_memory=true tries smaller batches with accumulation)"
    raise DeviceUnfit(
        f"this training needs {least.needs[phase] / GIB:.1f} GiB in phase {phase}, and the device has "
        f"{available / GIB:.1f} GiB: lower training.resolution, training.train_batch_size or "
        f"generation.resolution, or use a larger device{hint}."
    )


def splits(section: TrainingSection) -> Iterator[TrainingSection]:
    """Ways to make the effective batch, fastest first: large batches and no gradient checkpointing before others."""
    if not section.fit_memory:
        yield section
        return
    whole, prior = section.effective_batch_size, section.prior
    for batch in (size for size in range(whole, 0, -1) if whole % size == 0):
        of_class = prior.class_batch_size * batch / section.train_batch_size if prior else 0.0
        if of_class != int(of_class):
            continue
        changed: dict[str, Any] = {"train_batch_size": batch, "gradient_accumulation_steps": whole // batch}
        if prior:
            changed["prior"] = prior.model_copy(update={"class_batch_size": int(of_class)})
        for checkpointing in (False, True):
            yield section.model_copy(update=changed | {"gradient_checkpointing": checkpointing})


@lru_cache(maxsize=4)
def _adapted_unet(config: str, section: str, dtype: torch.dtype) -> "tuple[UNet2DConditionModel, int]":
    """The UNet of a configuration with the adapter of a training section, and the number of the adapter's weights.

    Both are JSON. Made once in a process, so that `unet_activations` counts once what a run plans twice.
    """
    from diffusers import UNet2DConditionModel

    with torch.device(META):
        unet: Any = UNet2DConditionModel.from_config(json.loads(config))
    read = TrainingSection.model_validate_json(section)
    return unet, add_meta_lora(unet, read, read.lora_layers, dtype)


def _adapter_options(section: TrainingSection) -> str:
    """A training section as JSON, of which only the options differ that `add_meta_lora` reads."""
    options = {"rank", "lora_alpha", "lora_layers", "lora_dropout", "use_dora", "use_rslora"}
    required = {"instance_prompt": "-", "resolution": 64}
    return json.dumps(required | section.model_dump(mode="json", include=options))


class _Parts:
    """The base model on the meta device, without memory for its weights."""

    def __init__(self, model: ModelSection, section: TrainingSection, device: torch.device) -> None:
        self.device, self.dtype = device, devices.half(section.mixed_precision, device) or torch.float32
        loaded = sdxl.describe_parts(model)
        self.unet: UNet2DConditionModel
        config: str = loaded["unet"].to_json_string()
        self.unet, self.trainable = _adapted_unet(config, _adapter_options(section), self.dtype)
        self.vae: AutoencoderKL = loaded["vae"]
        self.encoders: list[Any] = [loaded["text_encoder"], loaded["text_encoder_2"]]
        self.itemsize = devices.weights_dtype(section.mixed_precision, device).itemsize
        of_vae: Any = self.vae.config
        self.vae_itemsize = 4 if of_vae.force_upcast else self.itemsize  # bytes of a number, see `sampling.vae_dtype`
        if section.text_encoder_lr is not None:
            self.trainable += sum(add_meta_lora(e, section, TEXT_TARGETS, self.dtype) for e in self.encoders)

    def needs(self, section: TrainingSection, drawing: GenerationSection) -> dict[str, int]:
        """Peak bytes of each phase; `drawing` is the recipe's generation section."""
        unet, vae, text = _weights(self.unet), _weights(self.vae), sum(_weights(e) for e in self.encoders)
        vae = vae * self.vae_itemsize
        everything = (unet + text) * self.itemsize + vae
        largest = max(stage.resolution for stage in section.resolutions)
        drawn = (section.prior and section.prior.resolution, section.previews and section.previews.resolution)
        largest_drawn = max(drawing.resolution, *(side or 0 for side in drawn))
        learns_text = section.text_encoder_lr is not None or section.textual_inversion is not None
        resident = (unet + (text if learns_text else 0)) * self.itemsize
        resident += vae if section.style_loss and section.style_loss.features == "decoder" else 0
        states = self.trainable * BYTES_PER_TRAINABLE
        needs = {
            "encode": everything + self._vae(largest),
            "train": resident + states + self._activations(section, largest, learns_text) * BACKWARD_FACTOR,
            "sample": everything + self._vae(largest_drawn),
            "save": resident + states + self.trainable * 4,
        }
        return {phase: int(need + OVERHEAD_BYTES) for phase, need in needs.items()}

    def _activations(self, section: TrainingSection, resolution: int, learns_text: bool) -> float:
        pictures = section.train_batch_size + (section.prior.class_batch_size if section.prior else 0)
        tokens, side = self.encoders[0].config.max_position_embeddings, resolution // self._scale
        fused, chunks = self.device.type == "cuda", number_of_chunks(section.max_token_length)
        total = unet_activations(self.unet, pictures, side, chunks * tokens, section.gradient_checkpointing, fused)
        return total + (
            sum(text_activations(e, pictures * chunks, tokens) for e in self.encoders) if learns_text else 0
        )

    @property
    def _scale(self) -> int:
        config: Any = self.vae.config
        return 2 ** (len(config.block_out_channels) - 1)

    def _vae(self, resolution: int) -> int:
        """Bytes of the VAE's activations for one picture: the largest ones have full resolution."""
        config: Any = self.vae.config
        return VAE_ACTIVATIONS * resolution * resolution * max(config.block_out_channels[:2]) * self.vae_itemsize


def _weights(module: nn.Module) -> int:
    """The number of frozen weights of `module`."""
    return sum(p.numel() for name, p in module.named_parameters() if "lora_" not in name)
