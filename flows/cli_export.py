"""`naruto export ...`: the adapter or fused model of a run, for other programs. Each command prints what it wrote."""

from pathlib import Path
from typing import Annotated

import typer

from naruto_core.errors import RecipeInvalid

exports = typer.Typer(no_args_is_help=True, help="Export the adapter or fused model of a run for other programs.")

RunName = Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or a unique beginning of it.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write to; created if it does not exist.")]


@exports.command("kohya")
def export_for_kohya(name: RunName, folder: Folder) -> None:
    """A .safetensors file (one a style) for ComfyUI, A1111 and kohya's tools, in half precision."""
    from flows.exports import export_kohya

    for path in export_kohya(name, folder):
        print(path)


@exports.command("diffusers")
def export_for_diffusers(
    name: RunName,
    folder: Folder,
    fused: Annotated[bool, typer.Option("--fused", help="The whole fused model instead of the adapter.")] = False,
    half: Annotated[bool, typer.Option("--half", help="The fused model in half precision (fp16).")] = False,
) -> None:
    """A folder for load_lora_weights, or with --fused for StableDiffusionXLPipeline.from_pretrained."""
    from flows.exports import export_diffusers, export_fused

    if half and not fused:
        raise RecipeInvalid("--half needs a fused model: add --fused, or leave --half out.")
    print(export_fused(name, folder, half=half) if fused else export_diffusers(name, folder))


@exports.command("hub")
def export_for_hub(name: RunName, folder: Folder) -> None:
    """The folder that publish.push_to_hub pushes: adapter, ComfyUI's file, pictures, model card. Sends nothing."""
    from flows.exports import export_hub

    print(export_hub(name, folder))


@exports.command("endpoint")
def export_for_endpoint(name: RunName, folder: Folder) -> None:
    """A folder that a Hugging Face Inference Endpoint serves: the fused model, handler.py and requirements.txt."""
    from flows.exports import export_endpoint

    print(export_endpoint(name, folder))


@exports.command("triton")
def export_for_triton(name: RunName, folder: Folder) -> None:
    """A model repository that NVIDIA Triton serves: the fused model, batched, for its python backend."""
    from flows.exports import export_triton

    print(export_triton(name, folder))
