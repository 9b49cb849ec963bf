"""Load a kohya file with ComfyUI's own code, or with sd-scripts', at SDXL's full size and without its weights.

Run by the tests as `python load_kohya.py PROGRAM CHECKOUT FILE CONFIGS`: PROGRAM is comfyui or sd-scripts, CHECKOUT the
folder of its source, FILE a LoRA, CONFIGS a JSON file with the configurations of both text encoders. The last line of
standard output is a JSON object: how many modules were `read`, tensors of the file that were `left`, and the `largest`
difference of a number from alpha / rank * B A, of the file's own tensors.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file

UNET = {  # SDXL in Stability's terms
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "dtype": torch.float16,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "channel_mult": [1, 2, 4],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_head_channels": 64,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
Tensors = dict[str, torch.Tensor]


def read_by_comfyui(file: Path, _configs: Path) -> tuple[Tensors, set[str]]:
    """What ComfyUI adds to each weight, by kohya's name of its module, and the tensors that it left."""
    from comfy.cli_args import args

    args.cpu = True  # before the modules below ask for a GPU
    import comfy.lora
    import comfy.lora_convert
    import comfy.model_base
    import comfy.sdxl_clip
    import comfy.supported_models

    config = comfy.supported_models.SDXL(UNET)
    config.set_inference_dtype(torch.float16, None)
    model = comfy.model_base.SDXL(config, device="meta")
    with torch.device("meta"):
        clip = comfy.sdxl_clip.SDXLClipModel(device="meta", dtype=torch.float16)
    keys = comfy.lora.model_lora_keys_clip(clip, comfy.lora.model_lora_keys_unet(model, {}))
    tensors = comfy.lora_convert.convert_lora(load_file(file))
    patches = comfy.lora.load_lora(tensors, keys)
    shapes = {name: weight.shape for source in (model, clip) for name, weight in source.state_dict().items()}
    added = {
        _kohya_name(key): comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], torch.zeros(shapes[key]), key)
        for key, patch in patches.items()
    }
    used = {name for patch in patches.values() for name in patch.loaded_keys}
    return added, set(tensors) - used


def _kohya_name(key: str) -> str:
    """`lora_unet_...` of `diffusion_model....weight`, and so for the encoders: ComfyUI's names say where they lie."""
    for prefix, kohya in (
        ("diffusion_model.", "lora_unet_"),
        ("clip_l.transformer.", "lora_te1_"),
        ("clip_g.transformer.", "lora_te2_"),
    ):
        if key.startswith(prefix):
            return kohya + key.removeprefix(prefix).removesuffix(".weight").replace(".", "_")
    raise ValueError(key)


def read_by_sd_scripts(file: Path, configs: Path) -> tuple[Tensors, set[str]]:
    """What sd-scripts adds to each weight, by its own name of the module, and the tensors that it left."""
    from diffusers import AutoencoderKL, EulerAncestralDiscreteScheduler  # noqa: F401 (they look for a real cv2)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sys.modules.setdefault("cv2", ModuleType("cv2"))  # resizes pictures there: nothing of an adapter
    from library.sdxl_original_unet import SdxlUNet2DConditionModel
    from networks.lora import create_network_from_weights

    texts = json.loads(configs.read_text(encoding="utf-8"))
    with torch.device("meta"):
        unet = SdxlUNet2DConditionModel()
        encoders = [
            CLIPTextModel(CLIPTextConfig(**texts["text_encoder"])),
            CLIPTextModelWithProjection(CLIPTextConfig(**texts["text_encoder_2"])),
        ]
    network, _ = create_network_from_weights(1.0, str(file), None, encoders, unet, for_inference=True)
    network.apply_to(encoders, unet)
    state = load_file(file)
    info = network.load_state_dict(state, strict=False)
    if info.missing_keys:
        raise ValueError(f"{info.missing_keys[:3]} are not in the file")
    layers = (*network.unet_loras, *network.text_encoder_loras)
    return {layer.lora_name: layer.get_weight().detach() for layer in layers}, set(info.unexpected_keys)


READERS = {"comfyui": read_by_comfyui, "sd-scripts": read_by_sd_scripts}


def largest_difference(file: Path, added: Tensors) -> float:
    """From alpha / rank * B A of the file's own tensors."""
    tensors, largest = load_file(file), 0.0
    for name, weight in added.items():
        down, up = tensors[f"{name}.lora_down.weight"].float(), tensors[f"{name}.lora_up.weight"].float()
        product = (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])  # a convolution's B is 1 x 1
        expected = product * (float(tensors[f"{name}.alpha"]) / len(down))
        largest = max(largest, float((weight.float() - expected).abs().max()))
    return largest


def main() -> None:
    """Read the file by the program, and say what became of it."""
    program, checkout, file, configs = sys.argv[1:]
    sys.argv[1:] = []  # the programs have options of their own
    sys.path.insert(0, checkout)
    added, left = READERS[program](Path(file), Path(configs))
    answer: dict[str, Any] = {"read": len(added), "left": sorted(left)}
    print("\n" + json.dumps(answer | {"largest": largest_difference(Path(file), added)}))


if __name__ == "__main__":
    main()
