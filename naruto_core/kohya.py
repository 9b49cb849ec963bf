"""An adapter as ComfyUI, A1111 and kohya's tools read it: one file, their key names, their metadata.

Key names are Stability's block names behind `lora_unet_`, `lora_te1_` and `lora_te2_`, each module with
`lora_down`, `lora_up` and `alpha` (kohya-ss/sd-scripts, networks/lora.py). Metadata follows kohya's
`ss_*` fields and Stability's model spec 1.0.0, so that the file says what it is wherever it ends up.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from naruto_core.artifacts import atomic_file
from naruto_core.checkpoint import settle_header
from naruto_core.domain import DatasetVersion, Run
from naruto_core.errors import ModelUnusable
from naruto_core.prompts import trigger_phrases
from naruto_core.provenance import public_name
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_training import TrainingSection

_PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_PREDICTION = {"v_prediction": "v"}  # the model spec's word
_LAYERS = 2  # residual layers a block of SDXL's UNet
_TENSOR = re.compile(r"^(unet|text_encoder|text_encoder_2)\.(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight$")


def kohya_module(part: str, module: str) -> str:
    """kohya's name of an adapted module, e.g. `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`.

    `part` is unet, text_encoder or text_encoder_2; `module` its dotted path as diffusers names it.
    """
    if part == "unet":
        module = _stability_block(module)
    elif not module.startswith("text_model."):  # transformers 5 has left the name of one level out
        module = f"text_model.{module}"
    return f"{_PREFIX[part]}_{module.replace('.', '_')}"


def _stability_block(module: str) -> str:
    """`down_blocks.1.attentions.0.x` is `input_blocks.4.1.x`: Stability counts layers, diffusers blocks."""
    if found := re.match(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)", module):
        side, block, layer, rest = found.groups()
        number = int(block) * (_LAYERS + 1) + int(layer) + (side == "down")
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.1.{rest}"
    if module.startswith("mid_block.attentions.0."):
        return module.replace("mid_block.attentions.0.", "middle_block.1.")
    raise ModelUnusable(f"{module} is not an attention module of SDXL's UNet: kohya's tools have no name for it.")


def kohya_tensors(adapter: Path) -> dict[str, torch.Tensor]:
    """The tensors of the diffusers adapter file `adapter` under kohya's names, in half precision.

    Raises ModelUnusable for a tensor that is no LoRA weight, or that half precision cannot hold.
    """
    tensors: dict[str, torch.Tensor] = {}
    with safe_open(adapter, framework="pt") as file:
        told = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        for key in sorted(file.keys()):
            found = _TENSOR.match(key)
            if not found:
                raise ModelUnusable(f"{adapter}: {key} is not a LoRA weight that kohya's format has a place for.")
            part, module, side = found.groups()
            name, weight = kohya_module(part, module), file.get_tensor(key).half()
            if not torch.isfinite(weight).all():
                raise ModelUnusable(f"{adapter}: {key} does not fit into half precision.")
            tensors[f"{name}.lora_{side}.weight"] = weight
            if side == "down":
                tensors[f"{name}.alpha"] = torch.tensor(_alpha(told, part, weight.shape[0]), dtype=torch.float16)
    return tensors


def _alpha(told: Mapping[str, Any], part: str, rank: int) -> float:
    """The alpha whose ratio to `rank` is the scale that PEFT's settings `told` of a part ask for."""
    return _plain_alpha(float(told.get(f"{part}.lora_alpha", rank)), rank, bool(told.get(f"{part}.use_rslora")))


def _plain_alpha(alpha: float, rank: int, use_rslora: bool) -> float:
    """kohya's LoRA knows no rank-stabilized scale, alpha / sqrt(rank): it goes into alpha."""
    return alpha * math.sqrt(rank) if use_rslora else alpha


def no_kohya_file(section: TrainingSection) -> str:
    """Why there is no file in kohya's form of what was trained so, in words; "" where there is one."""
    if section.textual_inversion and not section.textual_inversion.train_lora:
        return "no LoRA was trained, only the embeddings of new tokens (textual_inversion.train_lora is false)"
    if section.use_dora:
        return "it is a DoRA (training.use_dora), whose magnitudes are not written in kohya's form"
    return ""


def kohya_metadata(
    run: Run, recipe: Recipe, dataset: DatasetVersion, style: str = "", prediction_type: str | None = None
) -> dict[str, str]:
    """What the file says of itself: how it was trained, on what, and by which words it is called.

    `dataset` is the first style's; `style` is the one the file is for, "" for all; `prediction_type` is the base's,
    as diffusers calls it, None when it is not known.
    """
    section = recipe.training
    alpha = _plain_alpha(section.lora_alpha or section.rank, section.rank, section.use_rslora)
    title = f"{run.id}-{style}" if style else run.id
    phrases = trigger_phrases(recipe)
    told = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.date": run.started_at.isoformat(timespec="seconds"),
        "modelspec.resolution": f"{section.resolution}x{section.resolution}",
        "modelspec.trigger_phrase": phrases[style] if style else "; ".join(phrases.values()),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(section.rank),
        "ss_network_alpha": str(float(alpha)),
        "ss_network_dropout": str(section.lora_dropout or None),
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_sd_model_name": public_name(recipe.model.base, recipe.model.revision),
        "ss_output_name": title,
        "ss_optimizer": section.optimizer,
        "ss_learning_rate": str(section.learning_rate),
        "ss_text_encoder_lr": str(section.text_encoder_lr),
        "ss_lr_scheduler": section.lr_scheduler,
        "ss_min_snr_gamma": str(section.snr_gamma),
        "ss_mixed_precision": section.mixed_precision,
        "ss_gradient_checkpointing": str(section.gradient_checkpointing),
        "ss_seed": str(section.seed),
        "ss_resolution": f"({section.resolution}, {section.resolution})",
        "ss_batch_size_per_device": str(section.train_batch_size),
        "ss_gradient_accumulation_steps": str(section.gradient_accumulation_steps),
        "ss_max_train_steps": str(section.max_train_steps),
        "ss_steps": str(section.max_train_steps),
        "ss_training_comment": f"recipe {run.fingerprint[:16]}",
    }
    if prediction_type:
        told["modelspec.prediction_type"] = _PREDICTION.get(prediction_type, prediction_type)
    if style == MAIN_STYLE or not recipe.styles:  # the record names no dataset version of another style
        told["ss_num_train_images"] = str(dataset.n_train)
        told["ss_training_comment"] = f"dataset {dataset.id}, {told['ss_training_comment']}"
    return told


def write_kohya(adapter: Path, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the diffusers adapter file `adapter` as `path` (.safetensors) in kohya's form, atomically."""
    tensors = kohya_tensors(adapter)
    with atomic_file(path) as scratch:
        # not save_file, which makes a file that nobody else may read
        scratch.write_bytes(save(tensors, metadata={"format": "pt", **metadata}))
        settle_header(scratch)
