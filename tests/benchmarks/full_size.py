"""SDXL base 1.0 at its full size with random weights: the published configurations, made in memory, no download.

The tokenizers are the miniature's, whose words are few: only ids below 990 of the 49,408 are ever asked for.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from naruto_core.recipe_sections import ModelSection

TOKENIZER = Path(__file__).parents[2] / "naruto_core" / "mini" / "weights" / "base" / "tokenizer"

# stabilityai/stable-diffusion-xl-base-1.0; what is not named is the libraries' default, as there
UNET: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
TEXT: dict[str, Any] = {  # CLIP ViT-L/14
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
TEXT_2: dict[str, Any] = {  # OpenCLIP ViT-bigG/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
VAE: dict[str, Any] = {  # madebyollin/sdxl-vae-fp16-fix, which half precision can hold
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "scaling_factor": 0.13025,
    "force_upcast": False,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def full_size_pipeline(dtype: torch.dtype, device: torch.device) -> StableDiffusionXLPipeline:
    """A frozen SDXL in `dtype` on `device`, as `naruto_core.sdxl.load_pipeline` would give it."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER, model_max_length=77)
    # the published configurations have CLIP's own ids; pooling happens at the first end-of-text token
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    scheduler: Any = EulerDiscreteScheduler.from_config(SCHEDULER)
    pipeline = StableDiffusionXLPipeline(
        vae=_made(lambda: AutoencoderKL.from_config(VAE), dtype, device),
        text_encoder=_made(lambda: CLIPTextModel(CLIPTextConfig(**TEXT, **ends)), dtype, device),
        text_encoder_2=_made(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2, **ends)), dtype, device),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_made(lambda: UNet2DConditionModel.from_config(UNET), dtype, device),
        scheduler=scheduler,
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_configurations(folder: Path) -> ModelSection:
    """The configurations of the full size in `folder`, without weights: what exports are held against."""
    with torch.device("meta"):
        models: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(UNET),
            "vae": AutoencoderKL.from_config(VAE),
        }
    for name, model in models.items():
        model.save_config(folder / name)
    CLIPTextConfig(**TEXT).save_pretrained(folder / "text_encoder")
    CLIPTextConfig(**TEXT_2).save_pretrained(folder / "text_encoder_2")
    return ModelSection(base=str(folder))


@torch.no_grad()
def _made(build: Callable[[], Any], dtype: torch.dtype, device: torch.device) -> Any:
    """The module of `build`, at once in `dtype` on `device`: a copy in full precision would take 14 GB."""
    with torch.device("meta"):
        module: nn.Module = build()
    nn.Module.to(module, dtype).to_empty(device=device)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            weight.normal_(std=weight[0].numel() ** -0.5)  # what goes in and what comes out are of one size
        else:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids"), name
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module.requires_grad_(False).eval()
