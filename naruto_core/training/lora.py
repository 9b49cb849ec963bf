"""Low-rank adapters on the layers of SDXL (Hu et al. 2021): added by PEFT, computed in three products a layer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from naruto_core.adapter_file import PARTS, AdapterFile, adapter_weights, model_parts, split_key
from naruto_core.errors import ModelUnusable
from naruto_core.recipe_training import TrainingSection
from naruto_core.weight_check import portable_name

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from peft import LoraConfig


TEXT_TARGETS = ("k_proj", "out_proj", "q_proj", "v_proj")  # as diffusers' DreamBooth scripts; 176 modules in SDXL


def lora_config(section: TrainingSection, targets: Sequence[str]) -> "LoraConfig":
    """PEFT's settings for an adapter on the layers called `targets`."""
    from peft import LoraConfig

    return LoraConfig(
        r=section.rank,
        lora_alpha=section.lora_alpha or section.rank,
        lora_dropout=section.lora_dropout,
        use_dora=section.use_dora,
        use_rslora=section.use_rslora,
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )


def add_adapters(pipeline: "StableDiffusionXLPipeline", section: TrainingSection) -> None:
    """Add one adapter to the UNet, and to both text encoders where the recipe trains them; B is 0, A is random.

    Trainable weights are fp32 whatever the frozen ones are: updates are too small for half precision.
    """
    torch.manual_seed(section.seed)
    pipeline.unet.add_adapter(lora_config(section, section.lora_layers))
    if section.text_encoder_lr is not None:
        for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
            encoder.add_adapter(lora_config(section, TEXT_TARGETS))
    for parameter in trainable(pipeline).values():
        parameter.data = parameter.data.float()


def load_initial(parts: Mapping[str, nn.Module], file: AdapterFile) -> None:
    """Set the adapter in `parts` to the weights of `file`; modules that the file lacks keep B = 0.

    Raises ModelUnusable, with the first module, for one that the recipe does not train, and for another rank.
    """
    weights = {key: (tensor, scale) for key, tensor, scale in adapter_weights(parts, "default")}
    for key, initial in file.scaled().items():
        part, module, role = split_key(key)
        if key not in weights:
            raise ModelUnusable(
                f"init_adapter {file.path} has {role} of {part}.{module}, which this recipe does not train: see "
                "training.lora_layers, training.text_encoder_lr and training.use_dora, or choose another file."
            )
        weight, scale = weights[key]
        if weight.shape != initial.shape:
            own, other = (shape[0 if role == "lora_A" else 1] for shape in (weight.shape, initial.shape))
            raise ModelUnusable(
                f"init_adapter {file.path} has rank {other} in {part}.{module}, and training.rank is {own}: set "
                f"training.rank={other}, or choose another file."
            )
        with torch.no_grad():
            weight.copy_(initial / scale if role == "lora_B" else initial)


def match_magnitudes(parts: Mapping[str, nn.Module], file: AdapterFile) -> None:
    """Set the magnitudes of a DoRA that `file` lacks to those of the weights with its update: it starts as `file`."""
    from peft.tuners.lora import LoraLayer

    for part, model in parts.items():
        for name, layer in model.named_modules():
            key = f"{part}.{portable_name(part, name)}"
            lacks = f"{key}.lora_B.weight" in file.tensors and f"{key}.lora_magnitude_vector.weight" not in file.tensors
            if not lacks or not isinstance(layer, LoraLayer) or "default" not in layer.lora_magnitude_vector:
                continue
            parts_of: Any = layer  # peft's layers are untyped
            with torch.no_grad():
                update = parts_of.lora_B["default"].weight @ parts_of.lora_A["default"].weight
                updated = parts_of.get_base_layer().weight.float() + layer.scaling["default"] * update
                parts_of.lora_magnitude_vector["default"].weight.copy_(updated.norm(dim=1))


def check_initial(section: TrainingSection, parts: Mapping[str, nn.Module], file: AdapterFile) -> None:
    """Check, with `parts` without weights, that the adapter of `section` can start from `file`; see `load_initial`."""
    targets = {"unet": section.lora_layers} | dict.fromkeys(PARTS[1:], TEXT_TARGETS)
    for name, part in parts.items():
        if name == "unet" or section.text_encoder_lr is not None:
            adapted: Any = part
            adapted.add_adapter(lora_config(section, targets[name]))
    load_initial(parts, file)


def trainable(pipeline: "StableDiffusionXLPipeline") -> dict[str, nn.Parameter]:
    """Every adapter weight by its full name, e.g. `unet.down_blocks.1...to_q.lora_A.default.weight`."""
    return {
        f"{part}.{name}": parameter
        for part, module in model_parts(pipeline).items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


@dataclass(slots=True)
class AdapterSwitch:
    """Whether the LowRankLayers add their update; disabled, they compute what the base model does."""

    enabled: bool = True

    @contextmanager
    def disabled(self) -> Generator[None]:
        """Inside the block the layers compute as in the base model."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True


class LowRankLayer(nn.Module, ABC):
    """`base` (frozen) and its low-rank update, scaled; the weights `down` and `up` come by `set_weights`."""

    def __init__(self, base: nn.Linear | nn.Conv2d, scale: float, dropout: float, switch: AdapterSwitch) -> None:
        super().__init__()
        self.base, self.scale, self.dropout, self.switch = base, scale, dropout, switch
        self._update: tuple[torch.Tensor, torch.Tensor] | None = (
            None  # in a tuple, so that it is no parameter of the module
        )

    def set_weights(self, down: torch.Tensor, up: torch.Tensor) -> None:
        """Set the weights to compute with, in the precision of `base`."""
        self._update = (down, up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        if not self.switch.enabled or self._update is None:
            return y
        return self.add_update(y, F.dropout(x, self.dropout, self.training) if self.dropout else x, *self._update)

    @abstractmethod
    def add_update(self, y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """`y`, the output of `base`, with the scaled update's output for the input `x`."""


class LoraLinear(LowRankLayer):
    """A linear layer with the update `up @ down`: `down` is (r, in), `up` (out, r)."""

    def add_update(self, y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        inner = F.linear(x, down)
        return torch.addmm(y.flatten(0, -2), inner.flatten(0, -2), up.t(), alpha=self.scale).view(y.shape)


class LoraConv2d(LowRankLayer):
    """A convolution with the update of LoCon (Yeh et al. 2024, arXiv 2309.14859).

    `down` (r, in, height, width) convolves as `base` does, `up` (out, r, 1, 1) mixes its channels.
    """

    base: nn.Conv2d

    def add_update(self, y: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        base = self.base
        inner = F.conv2d(x, down, stride=base.stride, padding=base.padding, dilation=base.dilation)
        return y + self.scale * F.conv2d(inner, up)


@dataclass(frozen=True, slots=True)
class LayerSwap:
    """A layer of PEFT and the LowRankLayer that replaces it; `down` and `up` are its A and B."""

    parent: nn.Module
    attribute: str
    original: nn.Module
    replacement: LowRankLayer
    down: nn.Parameter
    up: nn.Parameter

    def install(self) -> None:
        """Put the LowRankLayer in."""
        setattr(self.parent, self.attribute, self.replacement)

    def restore(self) -> None:
        """Put PEFT's layer back."""
        setattr(self.parent, self.attribute, self.original)


def replace_lora_layers(root: nn.Module, switch: AdapterSwitch) -> list[LayerSwap]:
    """Replace every plain LoRA layer below `root`, linear or a convolution, by a LowRankLayer; the replacements.

    A DoRA layer, whose update is not a product of two matrices, stays as it is.
    """
    from peft.tuners.lora import Conv2d, Linear

    swaps: list[LayerSwap] = []
    for path, layer in list(root.named_modules()):
        if not isinstance(layer, (Linear, Conv2d)) or layer.lora_variant:
            continue
        base: Any = layer.base_layer
        kind = LoraLinear if isinstance(base, nn.Linear) else LoraConv2d
        (name,) = layer.lora_A
        parent, _, attribute = path.rpartition(".")
        peft_dropout = layer.lora_dropout[name]
        dropout = peft_dropout.p if isinstance(peft_dropout, nn.Dropout) else 0.0
        replacement = kind(base, layer.scaling[name], dropout, switch)
        replacement.train(layer.training)
        down, up = (layer.get_parameter(f"{side}.{name}.weight") for side in ("lora_A", "lora_B"))
        swaps.append(LayerSwap(root.get_submodule(parent), attribute, layer, replacement, down, up))
        swaps[-1].install()
    return swaps


def set_lora_weights(swaps: Sequence[LayerSwap], working: Callable[[nn.Parameter], torch.Tensor]) -> None:
    """Give every LowRankLayer the working copies of its weights: `working(master)`."""
    for swap in swaps:
        swap.replacement.set_weights(working(swap.down), working(swap.up))
