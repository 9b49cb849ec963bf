"""A model folder that every version of diffusers and transformers loads, and the proof that all of it was loaded.

transformers 5 left the level `text_model.` out of CLIPTextModel and writes `tokenizer.json` alone. Its files load in
transformers 5 only: version 4 finds no weight of the encoder under its name and keeps random ones. Version 4's form
loads in both.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from naruto_core.artifacts import atomic_file
from naruto_core.checkpoint import settle_header
from naruto_core.errors import ModelUnusable


def portable_name(part: str, name: str) -> str:
    """`name` of a module or weight of `part` as files for transformers 4 have it: with `text_model.` in encoders."""
    if not part.startswith("text_encoder") or name.startswith(("text_model.", "text_projection")):
        return name
    return f"text_model.{name}"


def make_portable(folder: Path) -> None:
    """Rewrite the pipeline folder that transformers 5 saved so that transformers 4 loads it too."""
    for part in ("text_encoder", "text_encoder_2"):
        for path in sorted((folder / part).glob("*.safetensors")):
            tensors = {portable_name(part, name): tensor for name, tensor in load_file(path).items()}
            rewrite(path, tensors)
    for tokenizer in ("tokenizer", "tokenizer_2"):
        _write_slow_tokenizer(folder / tokenizer)


def rewrite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write `tensors` as the weight file `path`, atomically; the same tensors give the same bytes."""
    with atomic_file(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode
        save_file(dict(tensors), scratch, metadata={"format": "pt"})
        scratch.chmod(mode)  # the library lets nobody else read what it writes
        settle_header(scratch)


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
    """Hold the weight files below the pipeline `folder` against the loaded `models`, by part: names and values.

    For folders that this program wrote: one weight file or several a part, no variants. Raises ModelUnusable that names
    the part and the first tensor that is missing on either side, or differs by more than its rounding to the precision
    of the model.
    """
    for part, model in models.items():
        loaded = {portable_name(part, name): tensor.detach() for name, tensor in model.state_dict().items()}
        for path in sorted((folder / part).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    tensor = loaded.pop(portable_name(part, name), None)
                    if tensor is None:
                        raise _loaded_in_part(folder, part, name, "is missing in the pipeline")
                    if not equal_as_loaded(file.get_tensor(name), tensor):
                        raise _loaded_in_part(folder, part, name, "has other values in the pipeline")
        if loaded:
            raise _loaded_in_part(folder, part, min(loaded), "is in no file")


def tensor_shapes(folder: Path, part: str) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the weight files of `part` below the pipeline `folder`, by portable name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted((folder / part).glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            shapes |= {portable_name(part, name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def equal_as_loaded(expected: torch.Tensor, loaded: torch.Tensor) -> bool:
    """Whether `loaded` is `expected`, rounded to the precision of `loaded` where that is the coarser one."""
    return expected.shape == loaded.shape and torch.equal(expected.to(loaded.device, loaded.dtype), loaded)


def _loaded_in_part(folder: Path, part: str, name: str, what: str) -> ModelUnusable:
    return ModelUnusable(
        f"the model {folder} was not loaded as it is: {name} of {part} {what}. Install the versions of diffusers and "
        "transformers that uv.lock names, or remove the folder and run the same command again."
    )
