"""Low-rank adapters on the layers of SDXL (Hu et al. 2021): added by PEFT, and collected by name."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from naruto_core.adapter_file import model_parts
from naruto_core.recipe_training import TrainingSection

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
    """Add one adapter to the UNet, and to both text encoders if they are to learn; B starts at zero, A at random.

    Trainable weights are fp32 whatever the frozen ones are: half-precision masters do not learn.
    """
    torch.manual_seed(section.seed)
    pipeline.unet.add_adapter(lora_config(section, section.lora_layers))
    if section.text_encoder_lr is not None:
        for encoder in (pipeline.text_encoder, pipeline.text_encoder_2):
            encoder.add_adapter(lora_config(section, TEXT_TARGETS))
    for parameter in trainable(pipeline).values():
        parameter.data = parameter.data.float()


def trainable(pipeline: "StableDiffusionXLPipeline") -> dict[str, nn.Parameter]:
    """Every adapter weight by its full name, e.g. `unet.down_blocks.1...to_q.lora_A.default.weight`."""
    return {
        f"{part}.{name}": parameter
        for part, module in model_parts(pipeline).items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }
