"""The stages of pretraining, in order; each reads and writes files of a workspace.

A finished stage is not repeated; an interrupted stage resumes from its checkpoint.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from naruto_core.mini.pretraining.architecture import make_tokenizers, read_tokenizers, scheduler
from naruto_core.mini.pretraining.attribute_classifier import AttributeClassifier, Gallery, train_classifier
from naruto_core.mini.pretraining.clip_judge import save_judge, train_judge
from naruto_core.mini.pretraining.corpus import (
    Annotation,
    Maker,
    corpus,
    draw_base_picture,
    draw_clean_picture,
    draw_mixed_picture,
)
from naruto_core.mini.pretraining.trainer import FitReport, half_precision
from naruto_core.mini.pretraining.unet import new_encoders, pretrain_unet, warm_up_encoders
from naruto_core.mini.pretraining.vae import ENCODED_TOGETHER, encode_all, pretrain_vae, round_trip
from naruto_core.mini.pretraining.world import INKED_STYLE, STYLES

Report = Callable[[FitReport], None]


class PretrainPlan(BaseModel):
    """The numbers of pictures and steps of each stage, and the seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(11, ge=0)
    vae_pictures: int = Field(30_000, ge=100)
    vae_steps: int = Field(5_000, ge=1)
    base_pictures: int = Field(40_000, ge=100)
    reading_steps: int = Field(800, ge=1)
    unet_steps: int = Field(9_000, ge=1)
    judge_pictures: int = Field(20_000, ge=200)
    judge_steps: int = Field(1_000, ge=1)
    reader_steps: int = Field(1_500, ge=1)


def _compiled() -> bool:
    """Whether to use torch.compile, which needs a C++ compiler; results are the same without it, only slower."""
    return shutil.which("g++") is not None


def _workers() -> int:
    return os.cpu_count() or 1


def train_tokenizers(workspace: Path, prompts: Iterable[str]) -> None:
    """Train the tokenizers on the world's captions and the prompt suites."""
    if not (workspace / "tokenizer_2").exists():
        first, second = make_tokenizers(prompts)
        first.save_pretrained(workspace / "tokenizer")
        second.save_pretrained(workspace / "tokenizer_2")


def _corpus(folder: Path, make: Maker, count: int, seed: int, on_report: Report) -> tuple[np.ndarray, list[Annotation]]:
    """The corpus in `folder`; the progress of its drawing goes to `on_report`."""
    began, before = time.monotonic(), -1

    def on_drawn(done: int) -> None:
        nonlocal before
        if before < 0:  # what an earlier process drew
            before = done
            return
        rate = (time.monotonic() - began) / max(done - before, 1)
        on_report(FitReport(f"draw {folder.name}", done, count, None, rate * (count - done), "picture"))

    return corpus(folder, make, count, seed, _workers(), on_drawn)


def _mixed(workspace: Path, plan: PretrainPlan, on_report: Report) -> tuple[np.ndarray, list[Annotation]]:
    return _corpus(workspace / "mixed", draw_mixed_picture, plan.vae_pictures, plan.seed, on_report)


def train_vae(workspace: Path, plan: PretrainPlan, on_report: Report) -> None:
    """Train the VAE."""
    if not (workspace / "vae").exists():
        pixels, _ = _mixed(workspace, plan, on_report)
        vae = pretrain_vae(pixels, plan.vae_steps, plan.seed, workspace / "vae.safetensors", on_report, _compiled())
        vae.save_pretrained(workspace / "vae")


def _latents(workspace: Path, vae: AutoencoderKL, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and standard deviations of the latents of `pixels`, memory-mapped."""
    means, deviations = workspace / "latent-means.npy", workspace / "latent-deviations.npy"
    if not deviations.exists():
        for path, values in zip((means, deviations), encode_all(vae, pixels), strict=True):
            np.save(scratch := path.with_name(f"scratch-{path.name}"), values)
            scratch.replace(path)
    return np.load(means, mmap_mode="r"), np.load(deviations, mmap_mode="r")


def train_unet(workspace: Path, plan: PretrainPlan, on_report: Report) -> None:
    """Train the text encoders and the UNet: first the encoders alone, then both together."""
    if (workspace / "unet").exists():
        return
    pixels, annotations = _corpus(workspace / "world", draw_base_picture, plan.base_pictures, plan.seed + 1, on_report)
    vae = AutoencoderKL.from_pretrained(workspace / "vae")
    latents = _latents(workspace, vae, pixels)
    encoders = new_encoders(*read_tokenizers(workspace), plan.seed)
    reading, drawing = workspace / "reading.safetensors", workspace / "unet.safetensors"
    warm_up_encoders(encoders, annotations, plan.reading_steps, plan.seed, reading, on_report)
    factor = float(cast(Any, vae.config).scaling_factor)
    unet = pretrain_unet(
        encoders, latents, factor, annotations, plan.unet_steps, plan.seed, drawing, on_report, _compiled()
    )
    encoders.encoder_1.save_pretrained(workspace / "text_encoder")
    encoders.encoder_2.save_pretrained(workspace / "text_encoder_2")
    unet.save_pretrained(workspace / "unet")


def assemble(workspace: Path) -> StableDiffusionXLPipeline:
    """The trained models as a pipeline."""
    tokenizer_1, tokenizer_2 = read_tokenizers(workspace)
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL.from_pretrained(workspace / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(workspace / "text_encoder"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(workspace / "text_encoder_2"),
        tokenizer=tokenizer_1,
        tokenizer_2=tokenizer_2,
        unet=UNet2DConditionModel.from_pretrained(workspace / "unet"),
        scheduler=cast(Any, scheduler()),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )


def _gallery(workspace: Path, plan: PretrainPlan, on_report: Report) -> tuple[np.ndarray, list[Annotation]]:
    make = partial(draw_clean_picture, styles=STYLES)
    return _corpus(workspace / "gallery", make, plan.judge_pictures, plan.seed + 2, on_report)


def _foreign(workspace: Path, plan: PretrainPlan, on_report: Report) -> tuple[np.ndarray, np.ndarray]:
    """The VAE's corpus, and the rows of it that are random compositions or in the style that only the VAE sees."""
    pixels, annotations = _mixed(workspace, plan, on_report)
    rows = [i for i, a in enumerate(annotations) if a.scene is None or a.scene.style == INKED_STYLE]
    return pixels, np.array(rows)


def train_clip_judge(workspace: Path, plan: PretrainPlan, on_report: Report) -> None:
    """Train the judge, on every style and on foreign pictures; it shares no weights with the generator."""
    if not (workspace / "judge").exists():
        world, foreign = _gallery(workspace, plan, on_report), _foreign(workspace, plan, on_report)
        _, tokenizer = read_tokenizers(workspace)
        checkpoint = workspace / "judge.safetensors"
        judge = train_judge(world, foreign, tokenizer, plan.judge_steps, plan.seed, checkpoint, on_report)
        save_judge(judge, tokenizer, workspace / "judge")


def train_attribute_classifier(workspace: Path, plan: PretrainPlan, on_report: Report) -> AttributeClassifier:
    """Train or load the attribute classifier, which measures the base and the runs of the `mini` profile."""
    stored = workspace / "classifier" / "model.safetensors"
    if not stored.exists():
        pixels, annotations = _gallery(workspace, plan, on_report)
        gallery = Gallery(pixels, annotations, _decoded(workspace, pixels, on_report))
        checkpoint = workspace / "classifier.safetensors"
        classifier = train_classifier(gallery, plan.reader_steps, plan.seed, checkpoint, on_report)
        stored.parent.mkdir(exist_ok=True)
        save_file(classifier.state_dict(), stored)
    return load_attribute_classifier(workspace)


def _decoded(workspace: Path, pixels: np.ndarray, on_report: Report) -> np.ndarray:
    """The first pictures of the gallery, every fifth of their number, after a round trip of the VAE; memory-mapped."""
    path, count = workspace / "gallery-decoded.npy", len(pixels) // 5
    if not path.exists():
        vae, began = AutoencoderKL.from_pretrained(workspace / "vae"), time.monotonic()
        scratch = path.with_name(f"scratch-{path.name}")
        decoded = np.lib.format.open_memmap(scratch, "w+", np.uint8, (count, *pixels.shape[1:]))
        for start in range(0, count, ENCODED_TOGETHER):
            end = min(start + ENCODED_TOGETHER, count)
            with half_precision():
                pictures = round_trip(vae, pixels[start:end]).float()
            decoded[start:end] = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
            left = (time.monotonic() - began) / end * (count - end)
            on_report(FitReport("decode gallery", end, count, None, left, "picture"))
        decoded.flush()
        scratch.replace(path)
    return np.load(path, mmap_mode="r")


def load_attribute_classifier(workspace: Path) -> AttributeClassifier:
    """The trained attribute classifier of `workspace`."""
    classifier = AttributeClassifier()
    classifier.load_state_dict(load_file(workspace / "classifier" / "model.safetensors"))
    return classifier.eval()


def check_plan(workspace: Path, plan: PretrainPlan) -> None:
    """Record the plan in the workspace. Raises RecipeInvalid when the workspace has another plan."""
    stored = workspace / "plan.json"
    workspace.mkdir(parents=True, exist_ok=True)
    if stored.exists() and json.loads(stored.read_text()) != plan.model_dump():
        from naruto_core.errors import RecipeInvalid

        raise RecipeInvalid(
            f"{workspace} has another pretraining plan: finish that plan, or remove the folder to start again."
        )
    stored.write_text(plan.model_dump_json(indent=2) + "\n")
    torch.set_num_threads(_workers())
