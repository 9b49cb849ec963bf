"""A BLIP of some thousand weights, drawn at random from a seed: it says something of its own about every picture."""

from pathlib import Path

import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC]".split()
WORDS = "a the person ninja with black blond red green hair eyes wearing kimono at night in rain snow".split()
_SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_SMALL |= {"projection_dim": 16, "initializer_range": 0.4}


def write_blip(folder: Path, seed: int = 0) -> Path:
    """The model in the layout of the hub's BLIP folders."""
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    signs = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = _SMALL | signs | {"vocab_size": len(SPECIAL) + len(WORDS), "encoder_hidden_size": 16}
    vision = _SMALL | {"image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text | {"max_position_embeddings": 64}, vision_config=vision, projection_dim=16)
    torch.manual_seed(seed)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    pictures = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(pictures, BertTokenizer(str(vocabulary))).save_pretrained(folder)
    return folder
