"""The names of all of SDXL's modules, at full size and without its weights, in every environment and program.

ComfyUI and sd-scripts are no packages: their tests read a checkout of their source that a variable names.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from naruto_core.adapter_file import PARTS, AdapterFile
from naruto_core.kohya import kohya_tensors
from naruto_core.model_folder import portable_name
from naruto_core.training.lora import TEXT_TARGETS
from tests.benchmarks.full_size import TEXT, TEXT_2, UNET
from tests.loaders.environments import NAMES, OLDEST, answers_of, needs, python_of, variables
from tests.loaders.exports import ALL_LAYERS

RANK = 4
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
Tensors = dict[str, torch.Tensor]
Modules = dict[str, dict[str, tuple[int, int]]]  # part, name: sizes (out, in)


@pytest.fixture(scope="module")
def modules() -> Modules:
    """Every layer that an adapter can be on."""
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(UNET),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**TEXT)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_2)),
        }
    return {part: _layers(part, model, ALL_LAYERS if part == "unet" else TEXT_TARGETS) for part, model in parts.items()}


def _layers(part: str, model: nn.Module, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    endings = tuple(f".{target}" for target in targets)
    return {
        portable_name(part, name): (layer.out_features, layer.in_features)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.endswith(endings)
    }


def _adapter(modules: Modules, unet: Sequence[str]) -> Tensors:
    """Random factors of rank 4 in half precision: on the layers `unet` of the UNet, and on both encoders."""
    generator, tensors = torch.Generator().manual_seed(5), Tensors()
    for part, layers in modules.items():
        for name, (out, into) in layers.items():
            if part != "unet" or name.endswith(tuple(f".{layer}" for layer in unet)):
                tensors[f"{part}.{name}.lora_A.weight"] = torch.randn((RANK, into), generator=generator).half()
                tensors[f"{part}.{name}.lora_B.weight"] = torch.randn((out, RANK), generator=generator).half()
    return tensors


def _kohya(adapter: Tensors) -> tuple[Tensors, Tensors]:
    """`adapter` in the form of kohya's tools, and what has to be loaded of it; its scale, a half, is part of B."""
    file = AdapterFile(Path("adapter.safetensors"), adapter, dict.fromkeys(PARTS, 0.5))
    return kohya_tensors(file), {name: tensor.half() for name, tensor in file.scaled().items()}


@pytest.fixture(scope="module")
def requests(modules: Modules, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("full-size")
    wide, attention = _adapter(modules, ALL_LAYERS), _adapter(modules, ATTENTION)
    files = {"all layers": (wide, wide), "attention kohya": _kohya(attention)}
    configs = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT_2}
    requests: dict[str, dict[str, Any]] = {}
    for number, (name, (file, expected)) in enumerate(files.items()):
        paths = folder / f"{number}.safetensors", folder / f"{number}-expected.safetensors"
        save_file(file, paths[0], {"format": "pt"})
        save_file(expected, paths[1])
        requests[name] = {"kind": "full size", "file": str(paths[0]), "adapter": str(paths[1]), "configs": configs}
    return requests


@pytest.mark.parametrize("environment", [pytest.param(name, marks=needs(name)) for name in NAMES])
def test_every_module_of_full_size_sdxl_is_read(
    environment: str,
    requests: dict[str, dict[str, Any]],
    modules: Modules,
    tmp_path: Path,
):
    assert [len(layers) for layers in modules.values()] == [722, 48, 128]
    _, wide, kohya = answers_of(environment, list(requests.values()), tmp_path)
    assert "error" not in wide, wide
    assert wide["tensors"] == {"count": 2 * (722 + 176), "missing": [], "extra": [], "largest": 0.0}
    assert "error" not in kohya, kohya
    assert kohya["tensors"] == {"count": 2 * (560 + 176), "missing": [], "extra": [], "largest": 0.0}


@needs(OLDEST)
@pytest.mark.parametrize("program", ["comfyui", "sd-scripts"])
def test_every_module_of_a_kohya_file_is_read_by_the_program_it_is_for(
    program: str, requests: dict[str, dict[str, Any]], tmp_path: Path
):
    variable = f"NARUTO_TEST_{program.replace('-', '_').upper()}"
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{program} is no package: {variable} can name a checkout of it")
    request, configs = requests["attention kohya"], tmp_path / "configs.json"
    configs.write_text(json.dumps(request["configs"]), encoding="utf-8")
    script = Path(__file__).with_name("load_kohya.py")
    command = [python_of(OLDEST), "-W", "ignore", script, program, checkout, request["file"], configs]
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"read": 560 + 176, "left": [], "largest": 0.0}
