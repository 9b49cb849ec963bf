"""What a training leaves behind: LoRA weights for diffusers, embeddings of new tokens."""

from pathlib import Path
from typing import TYPE_CHECKING

from naruto_core.adapter_file import write_adapter
from naruto_core.artifacts import LORA_FILE
from naruto_core.tokens import FILE, write_tokens
from naruto_core.training.weights import Weights

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


def write_files(pipeline: "StableDiffusionXLPipeline", weights: Weights, folder: Path) -> list[Path]:
    """Write into `folder` what `weights` has learnt in `pipeline`, and say which files.

    The weights must be shipped or finished: in the pipeline, in PEFT's own layers.
    """
    files: list[Path] = []
    if weights.named.keys() - weights.tokens.keys():
        files.append(folder / LORA_FILE)
        write_adapter(pipeline, files[-1])
    if weights.tokens:
        files.append(folder / FILE)
        write_tokens(weights.tokens, files[-1])
    return files
