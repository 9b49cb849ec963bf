"""Stage 2: the text encoders are warmed up on text, then trained jointly with the UNet.

Joint training matters: with frozen encoders, half of a prompt had no effect.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from naruto_core.mini.pretraining.architecture import (
    LATENT_CHANNELS,
    LATENT_SIDE,
    POOLED,
    WIDTH_1,
    create_text_encoders,
    create_unet,
    scheduler,
)
from naruto_core.mini.pretraining.attribute_classifier import ATTRIBUTES, attribute_labels
from naruto_core.mini.pretraining.corpus import Annotation
from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.trainer import FitConfig, FitReport, fit, half_precision
from naruto_core.mini.pretraining.world import describe, with_filler

BATCH = 64
SNR_GAMMA = 5.0
ZEROED, EMPTIED = 0.06, 0.10  # shares of prompts replaced by zeros / by "" (up to this cumulative share)

Report = Callable[[FitReport], None]


@dataclass(frozen=True, slots=True)
class Encoders:
    """Two tokenizers and two text encoders, called as in SDXL's pipeline."""

    tokenizer_1: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    encoder_1: CLIPTextModel
    encoder_2: CLIPTextModelWithProjection

    def __call__(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states (B, 48, 160), pooled embedding of encoder 2 (B, 96), of encoder 1 (B, 64)."""
        first = self.encoder_1(self._ids(self.tokenizer_1, texts), output_hidden_states=True)
        second = self.encoder_2(self._ids(self.tokenizer_2, texts), output_hidden_states=True)
        hidden = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return hidden, second.text_embeds, first.pooler_output

    @staticmethod
    def _ids(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
        return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def new_encoders(tokenizer_1: CLIPTokenizer, tokenizer_2: CLIPTokenizer, seed: int) -> Encoders:
    torch.manual_seed(seed)
    first_ids, second_ids = cast(Any, tokenizer_1), cast(Any, tokenizer_2)  # the types of token ids are too wide
    pads = (first_ids.pad_token_id, second_ids.pad_token_id)
    first, second = create_text_encoders(len(tokenizer_1), first_ids.bos_token_id, first_ids.eos_token_id, pads)
    for model in (first, second):
        model.set_attn_implementation("eager")  # at 48 tokens its backward pass is faster on CPUs
    return Encoders(tokenizer_1, tokenizer_2, first, second)


def caption(annotation: Annotation, rng: Random) -> str:
    """A new caption for a picture: different words at every use."""
    assert annotation.scene is not None
    text = with_filler(describe(annotation.scene, rng), rng)
    if not annotation.flaw:
        return text
    extra = "" if rng.random() < 0.5 else ", low quality"
    return f"{text}, {annotation.flaw}{extra}" if rng.random() < 0.6 else f"{annotation.flaw}{extra}"


def warm_up_encoders(
    encoders: Encoders, annotations: list[Annotation], steps: int, seed: int, checkpoint: Path, on_report: Report
) -> None:
    """Warm up the encoders on text: predict the scene's attributes from the pooled embeddings."""
    torch.manual_seed(seed)
    heads = nn.ModuleDict({name: nn.Linear(WIDTH_1 + POOLED, len(words)) for name, words in ATTRIBUTES.items()})

    def loss(step: int) -> torch.Tensor:
        rng = Random(f"{seed}/read/{step}")
        chosen = [annotations[rng.randrange(len(annotations))] for _ in range(2 * BATCH)]
        with half_precision():
            _, pooled_2, pooled_1 = encoders([caption(annotation, rng) for annotation in chosen])
        pooled = torch.cat([pooled_1.float(), pooled_2.float()], dim=-1)
        labels = attribute_labels([annotation.scene for annotation in chosen if annotation.scene])
        return torch.stack([F.cross_entropy(heads[name](pooled), labels[name]) for name in ATTRIBUTES]).mean()

    modules = {"encoder_1": encoders.encoder_1, "encoder_2": encoders.encoder_2, "heads": heads}
    fit(FitConfig("reading", steps, 1.0e-3), modules, loss, checkpoint, on_report)


def _time_ids(annotations: list[Annotation]) -> torch.Tensor:
    """(B, 6): original height and width, crop top and left, target height and width."""
    return torch.tensor([[*p.original_size, *p.crop, SIZE, SIZE] for p in annotations], dtype=torch.float32)


def _min_snr_weight(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """min(SNR, gamma) / SNR for epsilon prediction (Hang et al. 2023, eq. 9), per timestep."""
    snr = alphas_cumprod / (1 - alphas_cumprod)
    return snr.clamp(max=SNR_GAMMA) / snr


def pretrain_unet(
    encoders: Encoders,
    latents: tuple[np.ndarray, np.ndarray],
    scaling_factor: float,
    annotations: list[Annotation],
    steps: int,
    seed: int,
    checkpoint: Path,
    on_report: Report,
    compiled: bool,
) -> UNet2DConditionModel:
    """A UNet trained with its text encoders on cached `latents` (means and deviations, N x 16 x 16 x 16)."""
    torch.manual_seed(seed)
    unet = create_unet()
    unet.set_attn_processor(AttnProcessor())
    run = torch.compile(unet) if compiled else unet
    alphas = scheduler().alphas_cumprod
    weights = _min_snr_weight(alphas)
    means, deviations = latents

    def loss(step: int) -> torch.Tensor:
        words, numbers = Random(f"{seed}/unet/{step}"), np.random.default_rng((seed, step))
        rows = np.sort(numbers.integers(len(annotations), size=BATCH))
        chosen = [annotations[row] for row in rows]
        shape = (2, BATCH, LATENT_CHANNELS, LATENT_SIDE, LATENT_SIDE)
        draw = torch.from_numpy(numbers.standard_normal(shape, dtype=np.float32))
        mean, deviation = (torch.from_numpy(np.array(part[rows], dtype=np.float32)) for part in (means, deviations))
        clean = (mean + deviation * draw[0]) * scaling_factor
        t = torch.from_numpy(numbers.integers(0, 1000, size=BATCH))
        signal = alphas[t].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * draw[1]

        drop = numbers.random(BATCH)
        texts = ["" if d < EMPTIED else caption(annotation, words) for annotation, d in zip(chosen, drop, strict=True)]
        keep = torch.from_numpy(drop >= ZEROED).float()
        with half_precision():
            hidden, pooled, _ = encoders(texts)
            condition = {"text_embeds": pooled * keep[:, None], "time_ids": _time_ids(chosen)}
            predicted = run(noisy, t, hidden * keep[:, None, None], added_cond_kwargs=condition).sample
        error = (predicted.float() - draw[1]).square().mean(dim=(1, 2, 3))
        return (error * weights[t]).mean()

    modules = {"unet": unet, "encoder_1": encoders.encoder_1, "encoder_2": encoders.encoder_2}
    fit(FitConfig("unet", steps, 1.0e-3), modules, loss, checkpoint, on_report)
    unet.set_default_attn_processor()
    return unet
