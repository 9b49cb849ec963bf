"""The adapter file of ComfyUI, A1111 and kohya's tools: key names, metadata, and conversion from diffusers' file.

Key names are Stability's block names after `lora_unet_`, `lora_te1_` and `lora_te2_`, each module with
`lora_down`, `lora_up` and `alpha` (kohya-ss/sd-scripts, networks/lora.py). Metadata follows kohya's
`ss_*` fields and Stability's model spec 1.0.0, so that the file describes itself.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from naruto_core.adapter_file import AdapterFile, check_loads, read_adapter, split_key
from naruto_core.artifacts import atomic_file
from naruto_core.checkpoint import sort_header
from naruto_core.domain import DatasetVersion, Run
from naruto_core.errors import ModelUnusable
from naruto_core.git_info import public_name
from naruto_core.prompts import trigger_phrases
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_sections import ImportedSection, ModelSection
from naruto_core.weight_check import portable_name

_PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
_PREDICTION = {"v_prediction": "v"}  # the model spec's term
_TAGS = 1000
_LAYERS = 2  # residual layers per block of SDXL's UNet
_ROLES = {"lora_A": "lora_down", "lora_B": "lora_up"}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


def kohya_module(part: str, module: str) -> str:
    """kohya's name of an adapted module, e.g. `lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`.

    `part` is unet, text_encoder or text_encoder_2; `module` its dotted path as diffusers names it.
    """
    if part == "unet":
        module = _stability_block(module)
    return f"{_PREFIX[part]}_{portable_name(part, module).replace('.', '_')}"


def _stability_block(module: str) -> str:
    """`down_blocks.1.attentions.0.x` is `input_blocks.4.1.x`: Stability counts layers, diffusers blocks."""
    if module in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[module]
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", module):
        side, block, kind, layer, rest = match.groups()
        number = int(block) * (_LAYERS + 1) + int(layer) + (side == "down")
        inner = f"0.{_RESNET.get(rest, rest)}" if kind == "resnets" else f"1.{rest}"
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{inner}"
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv", module):
        number = (int(match[2]) + 1) * (_LAYERS + 1)
        return f"input_blocks.{number}.0.op" if match[1] == "down" else f"output_blocks.{number - 1}.2.conv"
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", module):
        kind, layer, rest = match.groups()
        return f"middle_block.1.{rest}" if kind == "attentions" else f"middle_block.{2 * int(layer)}.{_RESNET[rest]}"
    raise ModelUnusable(f"{module} is in no block of SDXL's UNet: kohya's format has no name for it.")


def kohya_tensors(adapter: AdapterFile) -> dict[str, torch.Tensor]:
    """The tensors of `adapter` by kohya's names, in half precision; alpha is the rank, because B has the scale.

    Raises ModelUnusable for a DoRA, and for a weight that is too large for half precision.
    """
    tensors: dict[str, torch.Tensor] = {}
    for key, weight in adapter.scaled().items():
        part, module, role = split_key(key)
        if role not in _ROLES:
            raise ModelUnusable(f"{adapter.path}: {key} is a weight that kohya's LoRA format does not have.")
        name = kohya_module(part, module)
        tensors[f"{name}.{_ROLES[role]}.weight"] = _half(adapter.path, key, weight)
        if role == "lora_A":
            tensors[f"{name}.alpha"] = torch.tensor(float(weight.shape[0]), dtype=torch.float16)
    return tensors


def _half(path: Path, key: str, weight: torch.Tensor) -> torch.Tensor:
    half = weight.half()
    if not torch.isfinite(half).all():
        raise ModelUnusable(f"{path}: {key} does not fit into half precision.")
    return half


def _model_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 over a file's content after its header, as kohya's `addnet_hash_safetensors`."""
    data = save(dict(tensors))
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def tag_frequency(texts: Iterable[str]) -> dict[str, int]:
    """The number of times that each tag (a comma-separated part, in lower case) is in `texts`: the 1,000 most common.

    It is kohya's `ss_tag_frequency`; A1111 and Forge suggest words for the prompt from it.
    """
    tags = (tag.strip().lower() for text in texts for tag in text.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common(_TAGS))


def no_kohya_reason(recipe: Recipe) -> str:
    """The reason why an adapter of a run of `recipe` has no file in kohya's form; "" where it has one."""
    if recipe.imported:
        return "it is a DoRA, and kohya's form has no magnitudes here" if recipe.imported.use_dora else ""
    section = recipe.training
    if section.textual_inversion and not section.textual_inversion.train_lora:
        return "no LoRA was trained, only the embeddings of new tokens (textual_inversion.train_lora is false)"
    if section.use_dora:
        return "it is a DoRA (training.use_dora), and kohya's form has no magnitudes here"
    return ""


def kohya_metadata(
    run: Run,
    recipe: Recipe,
    dataset: DatasetVersion,
    style: str = "",
    prediction_type: str | None = None,
    tags: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """The metadata of the file: how it was trained, on which data, and its trigger phrases.

    `dataset` is the first style's; `style` is the file's style, "" for all; `prediction_type` is the base's,
    by diffusers' name, None when unknown; `tags` is `tag_frequency` of the training texts.
    """
    if recipe.imported:
        return _imported_metadata(run, recipe, recipe.imported)
    section = recipe.training
    title = f"{run.id}-{style}" if style else run.id
    phrases = trigger_phrases(recipe)
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.title": title,
        "modelspec.date": run.started_at.isoformat(timespec="seconds"),
        "modelspec.resolution": f"{section.resolution}x{section.resolution}",
        "modelspec.trigger_phrase": phrases[style] if style else "; ".join(phrases.values()),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(section.rank),
        "ss_network_alpha": str(float(section.rank)),  # the weights include the scale
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
    if any("conv" in layer for layer in section.lora_layers):  # kohya's own name of it is LoRA-C3Lier
        arguments = {"conv_dim": str(section.rank), "conv_alpha": str(float(section.rank))}
        metadata["ss_network_args"] = json.dumps(arguments)
    if prediction_type:
        metadata["modelspec.prediction_type"] = _PREDICTION.get(prediction_type, prediction_type)
    if tags:
        metadata["ss_tag_frequency"] = json.dumps({style or MAIN_STYLE: tags}, ensure_ascii=False)
    if style == MAIN_STYLE or not recipe.styles:  # the database has no dataset version of other styles
        metadata["ss_num_train_images"] = str(dataset.n_train)
        metadata["ss_training_comment"] = f"dataset {dataset.id}, {metadata['ss_training_comment']}"
    return metadata


def _imported_metadata(run: Run, recipe: Recipe, imported: ImportedSection) -> dict[str, str]:
    """What the imported file said of itself, and where this file comes from. The rank of modules may vary."""
    trigger = {"modelspec.trigger_phrase": imported.trigger} if imported.trigger else {}
    return (
        imported.facts
        | trigger
        | {
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
            "modelspec.title": run.id,
            "ss_output_name": run.id,
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(max(imported.rank or (0,))),
            "ss_network_alpha": str(float(max(imported.rank or (0,)))),  # the weights include the scale
            "ss_base_model_version": "sdxl_base_v1-0",
            "ss_sd_model_name": public_name(recipe.model.base, recipe.model.revision),
            "ss_training_comment": f"converted from {imported.name}, sha256 {imported.sha256}",
        }
    )


def write_kohya(adapter: Path, path: Path, metadata: Mapping[str, str], model: ModelSection) -> None:
    """Write the diffusers adapter file `adapter` as `path` (.safetensors) in kohya's form, atomically.

    Before the file gets its name, diffusers must load it into a model shaped like `model`. Raises ModelUnusable
    when a weight is not loaded, and as `kohya_tensors` does.
    """
    source = read_adapter(adapter)
    tensors = kohya_tensors(source)
    with atomic_file(path) as scratch:
        complete = {"format": "pt", "sshs_model_hash": _model_hash(tensors), **metadata}
        # not save_file: its file is readable by the owner only
        scratch.write_bytes(save(tensors, metadata=complete))
        sort_header(scratch)
        halves = {key: weight.half() for key, weight in source.scaled().items()}
        check_loads(model, scratch, AdapterFile(path, halves, dict.fromkeys(source.scales, 1.0)))
