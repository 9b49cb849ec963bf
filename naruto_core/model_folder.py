"""Model folders that all versions of diffusers and transformers load, and checks that a folder was loaded completely.

transformers 5 removed the level `text_model.` from CLIPTextModel and writes only `tokenizer.json`. Its files load in
transformers 5 only: version 4 does not find the encoder's weights by name and keeps random ones. Version 4's format
loads in both.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from naruto_core.artifacts import atomic_file
from naruto_core.checkpoint import sort_header
from naruto_core.errors import ModelUnusable
from naruto_core.weight_check import WeightsDiffer, check_weights, portable_name

# the variant is the group: model.fp16.safetensors, and a shard's model.fp16-00001-of-00002.safetensors
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(?!safetensors)(\w+))?(?:-\d+-of-\d+)?\.safetensors"
)


def make_portable(folder: Path) -> None:
    """Rewrite the pipeline folder that transformers 5 saved so that transformers 4 loads it too."""
    for part in ("text_encoder", "text_encoder_2"):
        for path in sorted((folder / part).glob("*.safetensors")):
            tensors = {portable_name(part, name): tensor for name, tensor in load_file(path).items()}
            write_weights(path, tensors)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        _write_slow_tokenizer(folder / tokenizer)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` as the weight file `path`, atomically; the same tensors give the same bytes."""
    with atomic_file(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode
        save_file(dict(tensors), scratch, metadata={"format": "pt"})
        scratch.chmod(mode)  # the library sets permissions for the owner only
        sort_header(scratch)


def _write_slow_tokenizer(folder: Path) -> None:
    """`vocab.json`, `merges.txt` and `added_tokens.json`, which transformers 4 reads, out of `tokenizer.json`."""
    whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary, merges = whole["model"]["vocab"], whole["model"]["merges"]
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    added = {entry["content"]: entry["id"] for entry in whole["added_tokens"] if entry["content"] not in vocabulary}
    texts = {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False),
        "merges.txt": "\n".join(["#version: 0.2", *pairs]),
    }
    if added:
        texts["added_tokens.json"] = json.dumps(added)
    for name, text in texts.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8", newline="\n")


def check_folder(folder: Path, models: Mapping[str, nn.Module]) -> None:
    """Compare the weight files below the pipeline `folder` with the loaded `models`, by part; see `check_weights`.

    Raises ModelUnusable that names the part and the first tensor that differs.
    """
    try:
        check_weights(folder, models)
    except WeightsDiffer as error:
        raise ModelUnusable(
            f"the model {folder} was not loaded correctly: {error}. Install the versions of diffusers and transformers "
            "that uv.lock names, or remove the folder and run the same command again."
        ) from error


def tensor_shapes(folder: Path, part: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the weight files of `part` below the pipeline `folder`, by portable name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {portable_name(part, name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def find_variant(folder: Path, part: str, variant: str | None) -> str | None:
    """The variant of weight files to load for `part` of a model folder: `variant` where it is there, else another.

    None is the plain files, which come before other variants than the one asked for.
    """
    names = [path.name for path in (folder / part).glob("*.safetensors")]
    variants = {match[1] for name in names if (match := _WEIGHTS.fullmatch(name))}
    if variant in variants or not variants or None in variants:
        return variant if variant in variants else None
    return min(name for name in variants if name)
