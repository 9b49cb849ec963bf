"""The judge: an open_clip model trained on the drawn world, including the held-out style, and on foreign pictures.

The generator is never trained with its gradients. Its image tower gives the features of the set metrics in the
`mini` profile, both towers give the CLIP score. Pictures of the world are contrasted with their captions (Radford et
al. 2021). Foreign pictures have no caption: two views of each are contrasted with views of other pictures (Chen et
al. 2020), so that the image tower also has features for drawings of other worlds.
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
from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit, half_precision
from naruto_core.mini.pretraining.vae import to_unit_range
from naruto_core.mini.pretraining.world import HELD_OUT_STYLE, describe, with_filler

BATCH = 96  # pictures of the world, with captions
FOREIGN_BATCH = 32  # foreign pictures; as many of the world are seen in two views, too
VIEW_WEIGHT = 0.5
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
HELD_OUT_PHRASES = ("a naruto anime character", "naruto anime style", "naruto")


def architecture(vocab_size: int) -> dict[str, Any]:
    """open_clip's model_cfg: a slim ModifiedResNet and a four-layer text transformer."""
    return {
        "embed_dim": 192,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 2, 1], "width": 20, "patch_size": None},
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
    pictures = to_unit_range(pixels)
    pictures = torch.roll(pictures, [int(s) for s in numbers.integers(-4, 5, size=2)], (2, 3))
    if numbers.random() < 0.4:
        small = F.interpolate(pictures, scale_factor=float(numbers.uniform(0.6, 0.95)), mode="bilinear", antialias=True)
        pictures = F.interpolate(small, size=SIZE, mode="bilinear")
    return pictures


def _view(pixels: np.ndarray, numbers: np.random.Generator) -> torch.Tensor:
    """A view of every picture: a part of 60 to 100 % of its width, perhaps mirrored, with a little noise."""
    side = int(numbers.integers(round(0.6 * SIZE), SIZE + 1))
    views: list[torch.Tensor] = []
    for picture in to_unit_range(pixels):
        top, left = (int(v) for v in numbers.integers(SIZE - side + 1, size=2))
        part = picture[:, top : top + side, left : left + side]
        views.append(part.flip(2) if numbers.random() < 0.5 else part)
    enlarged = F.interpolate(torch.stack(views), size=SIZE, mode="bilinear")
    return enlarged + float(numbers.uniform(0, 0.1)) * torch.from_numpy(
        numbers.standard_normal(enlarged.shape, dtype=np.float32)
    )


def _contrast(first: torch.Tensor, second: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE: row i of `first` belongs to row i of `second`; both are normalised, (B, D)."""
    logits, target = scale * first.float() @ second.float().T, torch.arange(len(first))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def train_judge(
    world: tuple[np.ndarray, list[Annotation]],
    foreign: tuple[np.ndarray, np.ndarray],
    tokenizer: CLIPTokenizer,
    steps: int,
    seed: int,
    checkpoint: Path,
    on_report: Callable[[FitReport], None],
) -> open_clip.CLIP:
    """Train a judge on `world` (pixels, uint8, N x 128 x 128 x 3, and annotations) with new captions at every step.

    `foreign` is another array of pixels and the rows of it (M,) that are shown without a caption.
    """
    torch.manual_seed(seed)
    judge = create_judge(len(tokenizer))
    image_tower: Any = judge.visual
    image_tower.to(memory_format=torch.channels_last)  # a quarter faster
    (pixels, annotations), (others, other_rows) = world, foreign

    def loss(step: int) -> torch.Tensor:
        numbers, words = np.random.default_rng((seed, step)), Random(f"{seed}/judge/{step}")
        rows = np.sort(numbers.choice(len(annotations), size=BATCH, replace=False))
        texts = [judge_caption(annotations[row], words) for row in rows]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        shown = np.concatenate([pixels[rows[::3]], others[np.sort(numbers.choice(other_rows, size=FOREIGN_BATCH))]])
        pictures = torch.cat([_augment(pixels[rows], numbers), _view(shown, numbers), _view(shown, numbers)])
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with half_precision():
            text_features = judge.encode_text(ids, normalize=True)
            features, first, second = judge.encode_image(pictures, normalize=True).split(
                [BATCH, len(shown), len(shown)]
            )
        scale = judge.logit_scale.exp().clamp(max=100)
        return _contrast(features, text_features, scale) + VIEW_WEIGHT * _contrast(first, second, scale)

    fit(FitConfig("judge", steps, 1.0e-3, weight_decay=0.05), {"judge": judge}, loss, checkpoint, on_report)
    image_tower.to(memory_format=torch.contiguous_format)
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
