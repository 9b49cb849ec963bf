"""What is exported of small recorded runs, and by hand what the weights are that it has to give."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors.torch import save_file

from flows.exports import export_endpoint, export_fused, export_hub
from naruto_core import sdxl
from naruto_core.artifacts import LORA_FILE, sha256_folder
from naruto_core.domain import FusedModel
from naruto_core.fusion import fuse_adapters, scaled_adapters
from naruto_core.generation import Job, Painter
from naruto_core.prompts import insert_tokens
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import TrainingSection
from tests.loaders.load import ADAPTED, portable
from tests.tasks.recorded_run import CPU, FIRST_SEED, Recorded, random_adapter, recorded_run, styles_of

ALL_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
INK = {"name": "ink", "dataset": {"source": "world:naruto?count=9"}, "instance_prompt": "an ink drawing"}
# each with a rank of 4 and, where nothing else is said, an alpha of 2
RUNS: dict[str, dict[str, object]] = {
    "lora": {"training.text_encoder_lr": 1.0},
    "rslora": {"training.lora_layers": ALL_LAYERS, "training.use_rslora": True, "training.lora_alpha": 3},
    "dora": {"training.lora_layers": ALL_LAYERS, "training.use_dora": True, "training.text_encoder_lr": 1.0},
    "styles": {"training.adapters": "per-style", "styles": [INK], "fusion.style_scales": {"ink": -0.4}},
    "tokens": {
        "training.text_encoder_lr": 1.0,
        "training.textual_inversion": {"token_abstraction": "person"},
        "styles": [INK | {"token_abstraction": "forest"}],
        "training.clip_skip": 1,
        "generation.clip_skip": 1,
        "training.max_token_length": 150,
        "generation.max_token_length": 150,
    },
}
GENERATED = ("lora", "styles", "tokens")
TEXTS = ("A person in the RAIN, isn't it? Naïve 42 !!", "a <s0><s1> person, <s0>.")


@dataclass(frozen=True)
class Exported:
    """The folders of one run: `hub` with both LoRA forms, and one model as `fused`, `half` and `endpoint`.

    `merged` is a file of what every adapted weight must be, e.g. `unet.mid_block...to_q.weight`.
    """

    recorded: Recorded
    hub: Path
    fused: Path
    half: Path
    endpoint: Path
    merged: Path
    scales: list[float] = field(default_factory=list[float])

    def diffusers_files(self) -> list[Path]:
        return [self.hub / style / LORA_FILE for style in styles_of(self.recorded.recipe)]

    def kohya_files(self) -> list[Path]:
        styles, name = styles_of(self.recorded.recipe), self.recorded.run.id
        files = [self.hub / (f"{name}-{style}.safetensors" if style else f"{name}.safetensors") for style in styles]
        return [file for file in files if file.is_file()]


@contextmanager
def exported_run(name: str, folder: Path) -> Iterator[Exported]:
    """The run `name` of `RUNS` trained, fused and exported below `folder`."""
    home = folder / name
    with recorded_run(home, RUNS[name], drawn=name in GENERATED) as recorded, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        run, recipe = recorded.run.id, recorded.recipe
        blends = scaled_adapters(home, recipe.fusion, recorded.adapters)
        place = recorded.layout.fused(run)
        fuse_adapters(sdxl.load_pipeline(recipe.model, "fp32", CPU), blends, place)
        model = FusedModel(run, recorded.layout.relative(place), sha256_folder(place), recipe.fusion.lora_scale)
        recorded.store.add_fused(model)
        trained = [random_adapter(recipe, seed) for seed, _ in enumerate(styles_of(recipe), FIRST_SEED)]
        scales = [recipe.fusion.style_scales.get(style, recipe.fusion.lora_scale) for style in styles_of(recipe)]
        save_file(merged_weights(recipe.training, trained, scales), home / "merged.safetensors")
        yield Exported(
            recorded,
            hub=export_hub(run, home / "out" / "hub"),
            fused=export_fused(run, home / "out" / "fused"),
            half=export_fused(run, home / "out" / "half", half=True),
            endpoint=export_endpoint(run, home / "out" / "endpoint"),
            merged=home / "merged.safetensors",
            scales=scales,
        )


def merged_weights(
    section: TrainingSection, trained: Sequence[StableDiffusionXLPipeline], scales: Sequence[float]
) -> dict[str, torch.Tensor]:
    """The weights of base and adapters together, by hand.

    LoRA (Hu et al. 2021): W + sum of scale * alpha / rank * B A; of rsLoRA alpha / sqrt(rank). DoRA (Liu et al. 2024),
    of one adapter at scale 1: the rows of W + alpha / rank * B A at the lengths that were learnt.
    """
    alpha = section.lora_alpha or section.rank
    factor = alpha / (math.sqrt(section.rank) if section.use_rslora else section.rank)
    merged: dict[str, torch.Tensor] = {}
    for part in ADAPTED:
        layers: list[dict[str, Any]] = [
            {name: layer for name, layer in getattr(pipeline, part).named_modules() if isinstance(layer, LoraLayer)}
            for pipeline in trained
        ]
        for name, first in layers[0].items():
            shape = first.base_layer.weight.shape
            weight = first.base_layer.weight.detach().double().flatten(1)
            for adapter, scale in zip(layers, scales, strict=True):
                weight = weight + scale * factor * _product(adapter[name])
            if section.use_dora:
                magnitude = first.lora_magnitude_vector["default"].weight.detach().double()
                weight = magnitude[:, None] * weight / weight.norm(dim=1, keepdim=True)
            merged[f"{part}.{portable(part, name)}.weight"] = weight.reshape(shape).float()
    return merged


def _product(layer: Any) -> torch.Tensor:
    """B A of a linear layer, or of a convolution of size 1."""
    down, up = (getattr(layer, side)["default"].weight.detach().double().flatten(1) for side in ("lora_A", "lora_B"))
    return up @ down


def pixels_of(picture: Image.Image) -> np.ndarray:
    return np.array(picture.convert("RGB")).astype(int)


def painted(run: Exported, prompt: str, seed: int) -> np.ndarray:
    """The Painter's picture of the fused model, in full precision."""
    recipe = run.recorded.recipe
    section = recipe.generation.model_copy(update={"mixed_precision": "fp32", "batch_size": 1})
    pipeline = sdxl.load_pipeline(ModelSection(base=str(run.fused)), "fp32", CPU)
    (picture,) = Painter(pipeline, section).paint([Job(insert_tokens(prompt, recipe.new_tokens), seed)])
    return pixels_of(picture)
