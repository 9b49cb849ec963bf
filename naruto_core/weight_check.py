"""Check that a loaded pipeline has exactly the weights of its files.

Imports no other module of this project: `naruto export endpoint` and `naruto export triton` copy this file into what
they export, because versions of diffusers and transformers that do not know a name fill in random numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

MODEL_PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


class WeightsDiffer(RuntimeError):
    """A weight is only in the files or only in the pipeline, or differs. The message names it."""


def portable_name(part: str, name: str) -> str:
    """`name` of a module or weight of `part` in files for transformers 4: with `text_model.` in text encoders."""
    if not part.startswith("text_encoder") or name.startswith(("text_model.", "text_projection")):
        return name
    return f"text_model.{name}"


def check_weights(folder: Path, models: Mapping[str, Any]) -> None:
    """Compare the weight files below the pipeline `folder` with the loaded `models`, by part: names and values.

    For folders that this program wrote: one or several weight files per part, no variants. WeightsDiffer names
    the part and the first tensor that is missing on either side, or differs by more than its rounding to the precision
    of the model.
    """
    for part, model in models.items():
        loaded = {portable_name(part, name): tensor.detach() for name, tensor in model.state_dict().items()}
        for path in sorted((folder / part).glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    tensor = loaded.pop(portable_name(part, name), None)
                    if tensor is None and not name.endswith("position_ids"):  # a buffer in files of transformers 4
                        raise WeightsDiffer(f"{name} of {part} is missing in the pipeline")
                    if tensor is not None and not equal_as_loaded(file.get_tensor(name), tensor):
                        raise WeightsDiffer(f"{name} of {part} has other values in the pipeline")
        if extra := sorted(name for name in loaded if not name.endswith("position_ids")):
            raise WeightsDiffer(f"{extra[0]} of {part} is in no file")


def check_pipeline(folder: Path, pipeline: Any) -> None:
    """`check_weights` of every model of `pipeline`."""
    check_weights(folder, {part: getattr(pipeline, part) for part in MODEL_PARTS})


def equal_as_loaded(expected: torch.Tensor, loaded: torch.Tensor) -> bool:
    """Whether `loaded` equals `expected` rounded to the precision of `loaded`."""
    return expected.shape == loaded.shape and torch.equal(expected.to(loaded.device, loaded.dtype), loaded)
