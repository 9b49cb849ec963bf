"""How much memory each phase of a training needs, said before it starts, and a split that fits.

Weights and optimizer states are counted exactly, activations as autograd would keep them. What kernels need in
passing is an allowance. The effective batch is the recipe's whatever the split: a batch of four is four
accumulated batches of one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from naruto_core import devices, sdxl
from naruto_core.errors import DeviceUnfit
from naruto_core.recipe import GenerationSection, ModelSection
from naruto_core.recipe_training import TrainingSection
from naruto_core.training.activations import text_activations, unet_activations, with_lean_lora
from naruto_core.training.lora import TEXT_TARGETS

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

GIB = 2**30
ALLOWANCE = 0.6 * GIB  # libraries and their workspaces; a CUDA context alone is about 0.4
IN_PASSING = 1.15  # on activations: gradients that flow back while they are still there
LEARNT_BYTES = (
    4 * 6 + 2 * 2
)  # a weight that learns: fp32 itself, gradient and four of Prodigy's; half copy and gradient
WIDE = 6  # of the VAE's largest activation, so many exist at once while it encodes or decodes


@dataclass(frozen=True, slots=True)
class Plan:
    """`section` with the split that was chosen, and bytes for each phase."""

    section: TrainingSection
    needs: dict[str, int]
    available: int

    @property
    def words(self) -> str:
        """E.g. "memory  encode: 6.9, train: 8.4, sample: 9.0, save: 6.6 GiB (estimated), of 14.6 GiB; batch 4 x 1"."""
        phases = ", ".join(f"{name}: {need / GIB:.1f}" for name, need in self.needs.items())
        split = f"batch {self.section.train_batch_size} x {self.section.gradient_accumulation_steps}"
        again = ", activations recomputed" if self.section.gradient_checkpointing else ""
        return f"memory     {phases} GiB (estimated), of {self.available / GIB:.1f} GiB; {split}{again}"


def plan_memory(
    model: ModelSection, section: TrainingSection, drawing: GenerationSection, device: torch.device, available: int
) -> Plan:
    """The recipe's own split, or with `fit_memory` the fastest one that fits into `available` bytes.

    Raises DeviceUnfit, with the figures, when none does.
    """
    parts = _Parts(model, section, device)
    plans = [Plan(split, parts.needs(split, drawing), available) for split in splits(section)]
    for plan in plans:
        if max(plan.needs.values()) <= available:
            return plan
    least = min(plans, key=lambda plan: max(plan.needs.values()))
    phase = max(least.needs, key=lambda name: least.needs[name])
    hint = "" if section.fit_memory else " (training.fit_memory=true looks for a smaller split)"
    raise DeviceUnfit(
        f"this training needs {least.needs[phase] / GIB:.1f} GiB to {phase}, and the device has "
        f"{available / GIB:.1f} GiB: lower training.resolution, training.train_batch_size or "
        f"generation.resolution, or use a larger device{hint}."
    )


def splits(section: TrainingSection) -> Iterator[TrainingSection]:
    """The ways to make the effective batch, fastest first: few large batches, nothing computed twice."""
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


class _Parts:
    """The base model without its weights: what it would be, on the meta device."""

    def __init__(self, model: ModelSection, section: TrainingSection, device: torch.device) -> None:
        self.device, self.dtype = device, devices.half(section.mixed_precision) or torch.float32
        loaded = sdxl.describe_parts(model)
        self.unet: UNet2DConditionModel = loaded["unet"]
        self.vae: AutoencoderKL = loaded["vae"]
        self.encoders: list[Any] = [loaded["text_encoder"], loaded["text_encoder_2"]]
        self.stored = devices.weights_dtype(section.mixed_precision, device).itemsize
        config: Any = self.vae.config
        self.of_vae = 4 if config.force_upcast else self.stored  # bytes of a number, see `sampling.vae_dtype`
        self.learnt = with_lean_lora(self.unet, section, section.lora_layers, self.dtype)
        if section.text_encoder_lr is not None:
            self.learnt += sum(with_lean_lora(e, section, TEXT_TARGETS, self.dtype) for e in self.encoders)

    def needs(self, section: TrainingSection, drawing: GenerationSection) -> dict[str, int]:
        """Bytes at the worst moment of each phase."""
        unet, vae, text = _weights(self.unet), _weights(self.vae), sum(_weights(e) for e in self.encoders)
        vae = vae * self.of_vae
        everything = (unet + text) * self.stored + vae
        largest = max(stage.resolution for stage in section.resolutions)
        learns_text = section.text_encoder_lr is not None or section.textual_inversion is not None
        kept = (unet + (text if learns_text else 0)) * self.stored
        kept += vae if section.style_loss and section.style_loss.features == "decoder" else 0
        states = self.learnt * LEARNT_BYTES
        found = {
            "encode": everything + self._vae(largest),
            "train": kept + states + self._activations(section, largest, learns_text) * IN_PASSING,
            "sample": everything + self._vae(drawing.resolution),
            "save": kept + states + self.learnt * 4,
        }
        return {phase: int(need + ALLOWANCE) for phase, need in found.items()}

    def _activations(self, section: TrainingSection, resolution: int, learns_text: bool) -> float:
        pictures = section.train_batch_size + (section.prior.class_batch_size if section.prior else 0)
        tokens, side = self.encoders[0].config.max_position_embeddings, resolution // self._scale
        fused = self.device.type == "cuda"
        total = unet_activations(self.unet, pictures, side, tokens, section.gradient_checkpointing, fused)
        return total + (sum(text_activations(e, pictures, tokens) for e in self.encoders) if learns_text else 0)

    @property
    def _scale(self) -> int:
        config: Any = self.vae.config
        return 2 ** (len(config.block_out_channels) - 1)

    def _vae(self, resolution: int) -> int:
        """What the VAE needs in passing for one picture: its widest activation is at full resolution."""
        config: Any = self.vae.config
        return WIDE * resolution * resolution * max(config.block_out_channels[:2]) * self.of_vae


def _weights(module: nn.Module) -> int:
    """The frozen weights of `module`."""
    return sum(p.numel() for name, p in module.named_parameters() if "lora_" not in name)
