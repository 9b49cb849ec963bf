"""The adapter file `pytorch_lora_weights.safetensors`: its keys, and checks that a pipeline loaded all of it.

Every key is PEFT's own (`unet.mid_block...to_q.lora_A.weight`): diffusers decides by the first key of a file how it
reads all others, so that a file with two conventions is read only in part. Text encoder keys have `text_model.`, as
files for transformers 4; transformers 5 removes it. The scale alpha / rank is multiplied into B (`lora_B`), so that
alpha is rank and the file needs no metadata: diffusers before 0.34 reads none, and PEFT's fields vary by version.
"""

import json
import logging
import math
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from naruto_core import sdxl
from naruto_core.artifacts import atomic_file
from naruto_core.checkpoint import sort_header
from naruto_core.errors import ModelUnusable
from naruto_core.recipe_sections import ModelSection
from naruto_core.weight_check import equal_as_loaded, portable_name

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

PARTS = ("unet", "text_encoder", "text_encoder_2")  # the models that an adapter can change
# key endings of older files: diffusers' own, for the UNet and for text encoders
_SPELLINGS = {
    ".lora.down.weight": ".lora_A.weight",
    ".lora.up.weight": ".lora_B.weight",
    ".lora_linear_layer.down.weight": ".lora_A.weight",
    ".lora_linear_layer.up.weight": ".lora_B.weight",
    ".lora_magnitude_vector": ".lora_magnitude_vector.weight",
}
_KEY = re.compile(r"(unet|text_encoder|text_encoder_2)\.(.+)\.(lora_A|lora_B|lora_magnitude_vector)\.weight")


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """The tensors of an adapter file by key `<part>.<module>.<lora_A | lora_B | lora_magnitude_vector>.weight`.

    lora_A is (rank, in), lora_B (out, rank), lora_magnitude_vector (out,); of a convolution, (rank, in, height, width)
    and (out, rank, 1, 1). `scales` is the factor of B A by part: 1,
    unless an older version of this program wrote the file.
    """

    path: Path
    tensors: Mapping[str, torch.Tensor]
    scales: Mapping[str, float]

    def scaled(self) -> dict[str, torch.Tensor]:
        """The tensors with the scale multiplied into lora_B, as `write_adapter` writes them."""
        return {
            key: tensor * self.scales[split_key(key)[0]] if ".lora_B." in key else tensor
            for key, tensor in self.tensors.items()
        }


def split_key(key: str) -> tuple[str, str, str]:
    """`("unet", "mid_block...to_q", "lora_A")` of a key of `AdapterFile.tensors`; ValueError for any other string."""
    match = _KEY.fullmatch(key)
    if not match:
        raise ValueError(f"{key} is not the key of a LoRA weight")
    part, module, role = match.groups()
    return part, module, role


def read_adapter(path: Path) -> AdapterFile:
    """The adapter file at `path`, on the CPU.

    Raises ModelUnusable when it is no safetensors file, has other tensors than LoRA weights, or non-finite values.
    """
    tensors: dict[str, torch.Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensors[_current_key(path, name)] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise ModelUnusable(f"cannot read the adapter {path}: {' '.join(str(error).split())[:200]}") from error
    check_finite(path, tensors)
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    return AdapterFile(path, tensors, {part: _scale(config, part) for part in PARTS})


def check_finite(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelUnusable when a tensor of the adapter `path` has an infinity or NaN."""
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelUnusable(f"the adapter {path}: {key} has values that are not finite; train it again.")


def _current_key(path: Path, name: str) -> str:
    ending = next((old for old in _SPELLINGS if name.endswith(old)), "")
    key = name.removesuffix(ending) + _SPELLINGS[ending] if ending else name
    match = _KEY.fullmatch(key)
    if not match:
        raise ModelUnusable(f"the adapter {path} has a tensor {name}, which is not a LoRA weight that diffusers reads.")
    part, rest = key.split(".", 1)
    return f"{part}.{portable_name(part, rest)}"


def _scale(config: Mapping[str, Any], part: str) -> float:
    """alpha / rank, or alpha / sqrt(rank) (rsLoRA, Kalajdzievski 2023), by PEFT's settings of `part`."""
    rank = config.get(f"{part}.r")
    if not rank:
        return 1.0
    alpha = float(config.get(f"{part}.lora_alpha", rank))
    return alpha / (math.sqrt(rank) if config.get(f"{part}.use_rslora") else rank)


def write_adapter(pipeline: "StableDiffusionXLPipeline", path: Path) -> None:
    """Write the adapter `default` of `pipeline` as `path`, atomically, and check the file.

    Weights are fp32. The same weights give the same bytes. Raises ModelUnusable when a weight is not finite.
    """
    tensors = {
        key: (tensor * scale).to("cpu", torch.float32).contiguous().clone()
        for key, tensor, scale in adapter_weights(model_parts(pipeline), "default")
    }
    write_tensors(tensors, path)


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write `tensors`, by the keys of `AdapterFile.tensors` and with scale 1, as the adapter file `path`; see above."""
    check_finite(path, tensors)
    with atomic_file(path) as scratch:
        scratch.write_bytes(
            save(dict(tensors), metadata={"format": "pt"})
        )  # not save_file: its file is readable by the owner only
        sort_header(scratch)
        written = read_adapter(scratch).tensors
        differing = [key for key, tensor in tensors.items() if not torch.equal(written[key], tensor)]
        if differing or len(written) != len(tensors):
            raise ModelUnusable(f"the adapter {path} was not written correctly: {differing[:1]} differs.")


def load_lora(pipeline: "StableDiffusionXLPipeline", path: Path, name: str) -> None:
    """Load the adapter file `path` into `pipeline` as adapter `name`, and check that all of it was loaded.

    Raises ModelUnusable when the file is damaged, belongs to another architecture, or was loaded only in part.
    """
    file = read_adapter(path)
    try:
        with sdxl.quiet_loading():
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=name)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelUnusable(f"the adapter {path} does not fit this base model: {reason}") from error
    check_adapter(model_parts(pipeline), name, file)


def check_adapter(parts: Mapping[str, nn.Module], name: str, file: AdapterFile) -> None:
    """Compare every tensor of `file` with the adapter `name` in `parts`: keys, values and scale, both ways.

    Raises ModelUnusable with the number of tensors that are missing or differ, and the first of them.
    """
    loaded_weights = {key: (tensor, scale) for key, tensor, scale in adapter_weights(parts, name)}
    missing = sorted(file.tensors.keys() - loaded_weights.keys())
    extra = sorted(loaded_weights.keys() - file.tensors.keys())
    differing = [
        key
        for key in sorted(file.tensors.keys() & loaded_weights.keys())
        if not equal_as_loaded(file.tensors[key], loaded_weights[key][0])
        or (
            ".lora_B." in key and not math.isclose(loaded_weights[key][1], file.scales[split_key(key)[0]], rel_tol=1e-6)
        )
    ]
    for keys, problem in ((missing, "are missing"), (differing, "differ"), (extra, "are not in the file")):
        if keys:
            raise ModelUnusable(
                f"the adapter {file.path} was not loaded correctly: of {len(file.tensors)} tensors, "
                f"{len(keys)} {problem} "
                f"in the pipeline, first {keys[0]}. Install the versions of diffusers, transformers and peft that "
                "uv.lock names, or train the adapter again."
            )


def check_loads(section: ModelSection, path: Path, expected: AdapterFile) -> None:
    """Load the adapter file `path` (diffusers' or kohya's form) into a model without weights, and check the result.

    Only the base's configuration is read, so that this takes seconds and no memory at full size. Values are compared in
    the precision of the file `path`. Raises ModelUnusable as `check_adapter` does.
    """
    from diffusers import StableDiffusionXLPipeline

    parts: Any = parts_without_weights(section)
    with loading_errors(path):
        loaded: Any = StableDiffusionXLPipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, unet_config=parts["unet"].config, return_lora_metadata=True
        )
        state, alphas, metadata = loaded
        load_state(parts, state, alphas, metadata, "check")
    check_adapter(parts, "check", expected)


@contextmanager
def loading_errors(path: Path) -> Generator[None]:
    """Inside the block the libraries are quiet, and their errors become ModelUnusable, which names `path`."""
    from diffusers.utils import logging as diffusers_logging

    try:
        with sdxl.quiet_loading():
            diffusers_logging.set_verbosity(logging.CRITICAL)  # it logs the error that it raises
            yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelUnusable(f"the file {path} does not load in diffusers: {reason}") from error


def load_state(
    parts: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    alphas: Mapping[str, float] | None,
    metadata: Mapping[str, Any] | None,
    name: str,
) -> None:
    """Load what `lora_state_dict` of diffusers returned into `parts` as the adapter `name`, by diffusers."""
    from diffusers import StableDiffusionXLPipeline

    options: dict[str, Any] = {"adapter_name": name, "metadata": metadata}
    StableDiffusionXLPipeline.load_lora_into_unet(state, alphas, parts["unet"], **options)
    for part in PARTS[1:]:
        if any(key.startswith(f"{part}.") for key in state):
            StableDiffusionXLPipeline.load_lora_into_text_encoder(state, alphas, parts[part], prefix=part, **options)


def parts_without_weights(section: ModelSection) -> dict[str, nn.Module]:
    """The models of a base that an adapter can change, from its configurations; their weights are zeros in no memory.

    Raises ModelUnusable when a configuration is missing or invalid.
    """
    described = sdxl.describe_parts(section)
    return {name: _without_memory(described[name]) for name in PARTS}


def _without_memory(model: nn.Module) -> nn.Module:
    """`model` with CPU weights that are one zero each, expanded to the weight's shape.

    PEFT puts an adapter on the device of its layer: beside weights on the meta device it would lose its values.
    """
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            zero = torch.zeros((), dtype=weight.dtype).expand(weight.shape)
            setattr(module, name, nn.Parameter(zero, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros_like(buffer, device="cpu"))
    return model


def model_parts(pipeline: "StableDiffusionXLPipeline") -> dict[str, nn.Module]:
    """The models of `pipeline` that an adapter can change, by their names in its file."""
    return {name: getattr(pipeline, name) for name in PARTS}


def adapter_weights(parts: Mapping[str, nn.Module], adapter: str) -> Iterator[tuple[str, torch.Tensor, float]]:
    """Key, tensor and scale of every weight of `adapter` in `parts`; only lora_B has a scale other than 1."""
    from peft.tuners.lora import LoraLayer

    for part, model in parts.items():
        for module, layer in model.named_modules():
            if not isinstance(layer, LoraLayer) or adapter not in layer.scaling:
                continue
            name = portable_name(part, module)
            for role in ("lora_A", "lora_B", "lora_magnitude_vector"):
                if adapter in getattr(layer, role):
                    weight: torch.Tensor = getattr(layer, role)[adapter].weight
                    scale = float(layer.scaling[adapter]) if role == "lora_B" else 1.0
                    yield f"{part}.{name}.{role}.weight", weight.detach(), scale
