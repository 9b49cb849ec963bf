"""Low-rank adapters on the attention layers (Hu et al. 2021): put in, collected, written.

PEFT does the layers; this room knows which modules SDXL's attention consists of, and the file
that vanilla `load_lora_weights` reads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from naruto_core.artifacts import atomic_folder
from naruto_core.checkpoint import settle_header
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


def _parts(pipeline: "StableDiffusionXLPipeline") -> dict[str, nn.Module]:
    return {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "text_encoder_2": pipeline.text_encoder_2}


def trainable(pipeline: "StableDiffusionXLPipeline") -> dict[str, nn.Parameter]:
    """Every adapter weight by its full name, e.g. `unet.down_blocks.1...to_q.lora_A.default.weight`."""
    return {
        f"{part}.{name}": parameter
        for part, module in _parts(pipeline).items()
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _metadata(module: nn.Module) -> dict[str, Any]:
    """The adapter's own description, in an order that does not depend on hashing."""
    config: dict[str, Any] = module.peft_config["default"].to_dict()  # type: ignore[union-attr, index]
    config["base_model_name_or_path"] = None  # a folder of this machine, which is nobody else's business
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def write_adapter(pipeline: "StableDiffusionXLPipeline", path: Path) -> None:
    """Write the adapter as `path` (`.../pytorch_lora_weights.safetensors`), in diffusers' format."""
    from diffusers import StableDiffusionXLPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    options: dict[str, Any] = {}
    for part, module in _parts(pipeline).items():
        if hasattr(module, "peft_config"):
            state = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
            options[f"{part}_lora_layers"] = {
                name: tensor.detach().to("cpu", torch.float32, copy=True) for name, tensor in state.items()
            }
            options[f"{part}_lora_adapter_metadata"] = _metadata(module)
    with atomic_folder(path.parent) as folder:
        StableDiffusionXLPipeline.save_lora_weights(folder, weight_name=path.name, **options)
        settle_header(folder / path.name)
