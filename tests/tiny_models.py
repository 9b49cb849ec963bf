"""Tiny networks with random weights in the file formats of the real ones: DINOv2, CLIP and BLIP for questions."""

from pathlib import Path

import torch
from torch import nn
from transformers import BlipConfig, BlipForQuestionAnswering, CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

_TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
_WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] yes no red hair night person ? [DEC]".split()


def write_dinov2(folder: Path) -> None:
    _save(Dinov2Model(Dinov2Config(**_TOWER, image_size=28, patch_size=14)), folder)


def write_clip(folder: Path) -> None:
    """With CLIP's own number of tokens, as PickScore has it."""
    picture = _TOWER | {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=_TOWER | {"vocab_size": 49408}, vision_config=picture, projection_dim=8)
    _save(CLIPModel(config), folder)


def write_blip(folder: Path) -> None:
    """With a vocabulary of a few words."""
    text = _TOWER | {"vocab_size": len(_WORDS), "bos_token_id": 12, "sep_token_id": 3, "eos_token_id": 3}
    text |= {"pad_token_id": 0, "encoder_hidden_size": 16, "max_position_embeddings": 32}
    _save(BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=_TOWER | {"image_size": 32})), folder)
    (folder / "vocab.txt").write_text("\n".join(_WORDS) + "\n")


def _save(model: nn.Module, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that outputs differ between pictures
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)
