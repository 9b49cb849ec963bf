"""An SDXL with random weights that loads in a blink: every class and layer name of the real one, two of each layer."""

import json
import shutil
from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from naruto_core.model_folder import make_portable

_TOKENS = ("vocab_size", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")  # the tokenizer's


def write_tiny_sdxl(folder: Path) -> Path:
    """The model as a pipeline folder; the same weights every time. Tokenizers are the miniature's."""
    torch.manual_seed(0)
    source = Path(str(resources.files("naruto_core.mini") / "weights/base"))
    of_mini = json.loads((source / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    text = {"num_hidden_layers": 2, "num_attention_heads": 2, **{key: of_mini[key] for key in _TOKENS}}
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=24,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16 + 6 * 4,
    )
    vae = AutoencoderKL(block_out_channels=(8,), latent_channels=4, norm_num_groups=4, sample_size=8)
    first = CLIPTextConfig(hidden_size=8, intermediate_size=16, projection_dim=8, **text)
    second = CLIPTextConfig(hidden_size=16, intermediate_size=32, projection_dim=16, hidden_act="gelu", **text)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=CLIPTokenizer.from_pretrained(source / "tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(source / "tokenizer_2"),
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_pretrained(source / "scheduler"),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    make_portable(folder)
    for part in ("tokenizer", "tokenizer_2"):
        shutil.copyfile(source / part / "tokenizer.json", folder / part / "tokenizer.json")
    return folder
