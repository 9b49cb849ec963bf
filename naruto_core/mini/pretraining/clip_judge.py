"""The judge: an open_clip model trained on the drawn world, including the held-out style.

The generator is never trained with its gradients. Its image tower gives the features of FID and KID in the
`mini` profile, both towers give the CLIP score. Trained contrastively (Radford et al. 2021).
"""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import CLIPTokenizer

from naruto_core.mini.pretraining.architecture import CONTEXT
from naruto_core.mini.pretraining.corpus import Annotation
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE, describe, with_filler

BATCH = 128
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
HELD_OUT_PHRASES = ("a naruto anime character", "naruto anime style", "naruto")


def architecture(vocab_size: int) -> dict[str, Any]:
    """open_clip's model_cfg: a slim ModifiedResNet and a four-layer text transformer."""
    return {
        "embed_dim": 192,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 20, "patch_size": None},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocab_size,
            "hf_tokenizer_name": "local",
            "width": 128,
            "heads": 4,
            "layers": 3,
        },
    }


def create_judge(vocab_size: int) -> open_clip.CLIP:
    """The judge with random weights."""
    config = architecture(vocab_size)
    return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])


def judge_caption(annotation: Annotation, rng: Random) -> str:
    """A caption that may name the held-out style, unlike the base model's captions."""
    assert annotation.scene is not None
    text = describe(annotation.scene, rng, drop=0.2)
    if annotation.scene.style == HELD_OUT_STYLE and rng.random() < 0.85:
        text = f"{rng.choice(HELD_OUT_PHRASES)} {text}"
    return with_filler(text, rng, chance=0.15)


def _augment(pixels: np.ndarray, numbers: np.random.Generator) -> torch.Tensor:
    pictures = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    pictures = torch.roll(pictures, [int(s) for s in numbers.integers(-2, 3, size=2)], (2, 3))
    if numbers.random() < 0.4:
        small = F.interpolate(pictures, scale_factor=float(numbers.uniform(0.6, 0.95)), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=64, mode="bilinear")
    return pictures


def train_judge(
    pixels: np.ndarray,
    annotations: list[Annotation],
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    checkpoint: Path,
    on_report: Callable[[FitReport], None],
) -> open_clip.CLIP:
    """Train a judge on `pixels` (uint8, N x 64 x 64 x 3) and new captions at every step."""
    torch.manual_seed(seed)
    judge = create_judge(len(tokenizer))

    def loss(step: int) -> torch.Tensor:
        numbers, words = np.random.default_rng((seed, step)), Random(f"{seed}/judge/{step}")
        rows = np.sort(numbers.choice(len(annotations), size=BATCH, replace=False))
        texts = [judge_caption(annotations[row], words) for row in rows]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16):
            image_features = judge.encode_image(_augment(pixels[rows], numbers), normalize=True)
            text_features = judge.encode_text(ids, normalize=True)
        logits = judge.logit_scale.exp().clamp(max=100) * image_features.float() @ text_features.float().T
        target = torch.arange(BATCH)
        return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))

    fit(FitConfig("judge", steps, 1.0e-3, weight_decay=0.05), {"judge": judge}, loss, checkpoint, on_report)
    return judge.eval()


def save_judge(judge: open_clip.CLIP, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the folder that open_clip loads by `local-dir:`: config, half-precision weights, tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": architecture(len(tokenizer)), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {name: tensor.half().contiguous() for name, tensor in judge.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
