"""Load exported files with the libraries of one environment, and hold every tensor against the file's.

Run by the tests as `python load.py REQUESTS`, in an environment that knows nothing of the project: it imports PyTorch,
diffusers, transformers and peft alone. REQUESTS is a JSON file, a list of objects whose `kind` is one of `KINDS`; the
answers are one JSON object a request, in the same order, on the last line of standard output.
"""

import base64
import contextlib
import importlib.util
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

ADAPTED = ("unet", "text_encoder", "text_encoder_2")
ROLES = ("lora_A", "lora_B", "lora_magnitude_vector")


def load_adapters(request: Mapping[str, Any]) -> dict[str, Any]:
    """The LoRA `files` on the pipeline in `base`, and the weights after they were merged at their `scales`.

    `tensors` says how the adapter's tensors differ from `adapters`, a safetensors file for each of `files` (or null);
    `weights` how the merged weights differ from those in the safetensors file `merged`.
    """
    pipeline = _pipeline(request["base"])
    names, tensors = [], {}
    for number, (file, expected) in enumerate(zip(request["files"], request["adapters"], strict=True)):
        names.append(f"adapter-{number}")
        path = Path(file)
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=names[-1])
        if expected:
            tensors = _difference(load_file(expected), _carried(pipeline, names[-1]))
    pipeline.set_adapters(names, request["scales"])
    parts = [part for part in ADAPTED if hasattr(getattr(pipeline, part), "peft_config")]
    pipeline.fuse_lora(components=parts, adapter_names=names)
    pipeline.unload_lora_weights()
    weights = {f"{part}.{name}": w for part in ADAPTED for name, w in _state(getattr(pipeline, part), part).items()}
    merged = load_file(request["merged"])
    return {"tensors": tensors, "weights": _difference(merged, {n: w for n, w in weights.items() if n in merged})}


def load_folder(request: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline in `folder`: its weights against the folder's own files and against `merged`, and token ids."""
    pipeline = _pipeline(request["folder"], torch.float16 if request["half"] else torch.float32)
    parts = {part: _state(getattr(pipeline, part), part) for part in (*ADAPTED, "vae")}
    loaded = {f"{part}.{name}": weight for part, state in parts.items() for name, weight in state.items()}
    files: dict[str, torch.Tensor] = {}
    for part in parts:
        for path in Path(request["folder"], part).glob("*.safetensors"):
            files |= {f"{part}.{portable(part, name)}": weight for name, weight in load_file(path).items()}
    merged = load_file(request["merged"])
    texts = request["texts"]
    return {
        "tensors": _difference(files, loaded),
        "weights": _difference(merged, {name: weight for name, weight in loaded.items() if name in merged}),
        "ids": [tokenizer(texts)["input_ids"] for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)],
    }


def load_full_size(request: Mapping[str, Any]) -> dict[str, Any]:
    """The LoRA `file` on SDXL at its full size, which has no weights: the `configs` of UNet and encoders."""
    configs = request["configs"]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        encoders = [
            kind(CLIPTextConfig(**configs[part]))
            for kind, part in ((CLIPTextModel, "text_encoder"), (CLIPTextModelWithProjection, "text_encoder_2"))
        ]
    models = dict(zip(ADAPTED, map(_without_memory, (unet, *encoders)), strict=True))
    nothing = dict.fromkeys(("vae", "tokenizer", "tokenizer_2", "scheduler"))
    pipeline = StableDiffusionXLPipeline(**models, **nothing, add_watermarker=False)
    path = Path(request["file"])
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="adapter-0")
    return {"tensors": _difference(load_file(request["adapter"]), _carried(pipeline, "adapter-0"))}


def run_code(request: Mapping[str, Any]) -> dict[str, Any]:
    """The Python program `code` in `folder`: the picture.png that it writes there, and what it printed."""
    before, printed = Path.cwd(), io.StringIO()
    os.chdir(request["folder"])
    try:
        with contextlib.redirect_stdout(printed):
            exec(request["code"], {})
        return {"picture": base64.b64encode(Path("picture.png").read_bytes()).decode(), "printed": printed.getvalue()}
    finally:
        os.chdir(before)


def call_handler(request: Mapping[str, Any]) -> dict[str, Any]:
    """The picture that the handler.py in `folder` answers `data` with."""
    spec = importlib.util.spec_from_file_location("handler", Path(request["folder"], "handler.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with io.BytesIO() as file:
        module.EndpointHandler(request["folder"])(request["data"]).save(file, format="PNG")
        return {"picture": base64.b64encode(file.getvalue()).decode()}


KINDS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "adapters": load_adapters,
    "folder": load_folder,
    "full size": load_full_size,
    "code": run_code,
    "handler": call_handler,
}


def _pipeline(folder: str, dtype: torch.dtype = torch.float32) -> Any:
    return StableDiffusionXLPipeline.from_pretrained(
        folder, torch_dtype=dtype, use_safetensors=True, add_watermarker=False
    )


def portable(part: str, name: str) -> str:
    """A weight's or module's name as files have it: encoders of newer versions of transformers lack `text_model.`."""
    if not part.startswith("text_encoder") or name.startswith(("text_model.", "text_projection.")):
        return name
    return f"text_model.{name}"


def _state(model: nn.Module, part: str) -> dict[str, torch.Tensor]:
    state = {portable(part, name): weight for name, weight in model.state_dict().items()}
    return {name: weight for name, weight in state.items() if not name.endswith("position_ids")}  # made, not loaded


def _carried(pipeline: Any, adapter: str) -> dict[str, torch.Tensor]:
    """The tensors of `adapter`, lora_B with its scale, by the names that they have in a file."""
    tensors: dict[str, torch.Tensor] = {}
    for part in ADAPTED:
        for module, layer in getattr(pipeline, part).named_modules():
            if isinstance(layer, LoraLayer) and adapter in layer.scaling:
                for role in ROLES:
                    held: Any = getattr(layer, role)
                    if adapter in held:
                        weight = getattr(held[adapter], "weight", held[adapter]).detach()
                        scale = layer.scaling[adapter] if role == "lora_B" else 1.0
                        tensors[f"{part}.{portable(part, module)}.{role}.weight"] = weight.float() * scale
    return tensors


def _without_memory(model: nn.Module) -> nn.Module:
    """`model` with weights that are one zero each, seen in every place: beside the meta device's nothing arrives."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.zeros(()).expand(weight.shape), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, torch.zeros_like(buffer, device="cpu"))
    return model


def _difference(expected: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Names on one side only (five at most), and the largest difference of a number on both sides.

    That is infinite where shapes differ, or a tensor has no values.
    """
    missing, extra = sorted(expected.keys() - loaded.keys()), sorted(loaded.keys() - expected.keys())
    largest = max((_apart(expected[name], loaded[name]) for name in expected.keys() & loaded.keys()), default=math.inf)
    return {"count": len(expected), "missing": missing[:5], "extra": extra[:5], "largest": largest}


def _apart(expected: torch.Tensor, loaded: torch.Tensor) -> float:
    if expected.shape != loaded.shape or loaded.device.type == "meta":
        return math.inf
    return float((expected.float() - loaded.float()).abs().max())


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    np.random.seed(0)
    try:
        return KINDS[request["kind"]](request)
    except Exception as error:  # noqa: BLE001 (the test says what it was)
        return {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()[-3000:]}


def main() -> None:
    """Answer every request; the first answer says which versions this is."""
    requests = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    packages = ("diffusers", "transformers", "peft", "accelerate", "torch")
    answers = [{package: version(package) for package in packages}, *map(_answer, requests)]
    print("\n" + json.dumps(answers))


if __name__ == "__main__":
    main()
