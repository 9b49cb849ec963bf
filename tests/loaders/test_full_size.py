"""The names of all of SDXL's modules, at full size and without its weights, in every environment and program.

ComfyUI and sd-scripts are no packages: their tests read a checkout of their source that a variable names.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from naruto_core.adapter_file import PARTS, AdapterFile
from naruto_core.kohya import kohya_tensors
from naruto_core.model_folder import portable_name
from naruto_core.recipe_training import ATTENTION, LoraLayer
from naruto_core.training.lora import TEXT_TARGETS
from tests.benchmarks.full_size import TEXT, TEXT_2, UNET
from tests.loaders.environments import NAMES, OLDEST, answers_of, needs, python_of, variables

RANK = 4
ALL_LAYERS = get_args(LoraLayer)
Tensors = dict[str, torch.Tensor]
Modules = dict[str, dict[str, tuple[int, ...]]]  # part, name: shape of the weight (out, in, height and width)


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


def _is_one_of(name: str, targets: Sequence[str]) -> bool:
    return f".{name}".endswith(tuple(f".{target}" for target in targets))


def _layers(part: str, model: nn.Module, targets: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {
        portable_name(part, name): tuple(layer.weight.shape)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and _is_one_of(name, targets)
    }


def _adapter(modules: Modules, unet: Sequence[str]) -> Tensors:
    """Random factors of rank 4 in half precision: on the layers `unet` of the UNet, and on both encoders."""
    generator, tensors = torch.Generator().manual_seed(5), Tensors()
    for part, layers in modules.items():
        for name, (out, *inner) in layers.items():
            if part != "unet" or _is_one_of(name, unet):
                shapes = {"lora_A": (RANK, *inner), "lora_B": (out, RANK, *(1 for _ in inner[1:]))}
                for role, shape in shapes.items():
                    tensors[f"{part}.{name}.{role}.weight"] = torch.randn(shape, generator=generator).half()
    return tensors


def _kohya(adapter: Tensors) -> tuple[Tensors, Tensors]:
    """`adapter` in the form of kohya's tools, and what has to be loaded of it; its scale, a half, is part of B."""
    file = AdapterFile(Path("adapter.safetensors"), adapter, dict.fromkeys(PARTS, 0.5))
    return kohya_tensors(file), {name: tensor.half() for name, tensor in file.scaled().items()}


@pytest.fixture(scope="module")
def requests(modules: Modules, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("full-size")
    wide, attention = _adapter(modules, ALL_LAYERS), _adapter(modules, ATTENTION)
    files = {"all layers": (wide, wide), "attention kohya": _kohya(attention), "all layers kohya": _kohya(wide)}
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
    assert [len(layers) for layers in modules.values()] == [722 + 66, 48, 128]
    _, *answers = answers_of(environment, list(requests.values()), tmp_path)
    for answer, layers in zip(answers, (722 + 66, 560, 722 + 66), strict=True):
        assert "error" not in answer, answer
        assert answer["tensors"] == {"count": 2 * (layers + 176), "missing": [], "extra": [], "largest": 0.0}


@needs(OLDEST)
@pytest.mark.parametrize(("name", "layers"), [("attention kohya", 560), ("all layers kohya", 722 + 66)])
@pytest.mark.parametrize("program", ["comfyui", "sd-scripts"])
def test_every_module_of_a_kohya_file_is_read_by_the_program_it_is_for(
    program: str, name: str, layers: int, requests: dict[str, dict[str, Any]], tmp_path: Path
):
    variable = f"NARUTO_TEST_{program.replace('-', '_').upper()}"
    checkout = os.environ.get(variable)
    if not checkout:
        pytest.skip(f"{program} is no package: {variable} can name a checkout of it")
    request, configs = requests[name], tmp_path / "configs.json"
    configs.write_text(json.dumps(request["configs"]), encoding="utf-8")
    script = Path(__file__).with_name("load_kohya.py")
    command = [python_of(OLDEST), "-W", "ignore", script, program, checkout, request["file"], configs]
    done = subprocess.run(command, env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"read": layers + 176, "left": [], "largest": 0.0}
