"""Both files of a full-size adapter, read back by vanilla diffusers and held against what was learnt."""

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers.utils import logging

from naruto_core.training.weights import Weights

UNET_MODULES, TEXT_MODULES, UNET_PARAMETERS = 560, 176, 5_806_080
_DEEP = ("input_blocks_7", "input_blocks_8", "middle_block", "output_blocks_0", "output_blocks_1", "output_blocks_2")
_SHALLOW = ("input_blocks_4", "input_blocks_5", "output_blocks_3", "output_blocks_4", "output_blocks_5")
KOHYA = {  # what kohya's own tables allow: Stability's blocks with attention, and the encoders' layers
    f"lora_unet_{block}_1_transformer_blocks_{layer}_{attention}_{target}"
    for blocks, layers in ((_DEEP, 10), (_SHALLOW, 2))
    for block in blocks
    for layer in range(layers)
    for attention in ("attn1", "attn2")
    for target in ("to_q", "to_k", "to_v", "to_out_0")
} | {
    f"lora_{encoder}_text_model_encoder_layers_{layer}_self_attn_{target}"
    for encoder, layers in (("te1", 12), ("te2", 32))
    for layer in range(layers)
    for target in ("q_proj", "k_proj", "v_proj", "out_proj")
}


def check_files(pipeline: StableDiffusionXLPipeline, weights: Weights, own: Path, kohya: Path) -> None:
    """Asserts names, shapes and numbers; `pipeline` loses its adapter, for there is no room for a second one."""
    learnt = {name: p.detach().clone() for name, p in weights.named.items()}
    assert sum(p.numel() for name, p in learnt.items() if name.startswith("unet.")) == UNET_PARAMETERS
    still = [name for name, p in learnt.items() if not p.any()]  # the last layer of encoder 1, which nobody reads
    assert len(still) == 4, still
    assert all(name.startswith("text_encoder.") and ".layers.11." in name and "lora_B" in name for name in still)
    with safe_open(kohya, framework="pt") as file:
        sides = (".alpha", ".lora_down.weight", ".lora_up.weight")
        assert set(file.keys()) == {name + side for name in KOHYA for side in sides}
    logging.disable_progress_bar()
    pipeline.unload_lora_weights()
    for path in (own, kohya):
        pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="read")
        assert _read(pipeline, learnt) == (UNET_MODULES, TEXT_MODULES), path
        pipeline.unload_lora_weights()
        print(f"  {path.name}: {UNET_MODULES} + {TEXT_MODULES} modules, {UNET_PARAMETERS:,} UNet parameters, as learnt")


def _read(pipeline: StableDiffusionXLPipeline, learnt: dict[str, torch.Tensor]) -> tuple[int, int]:
    """How many modules of UNet and encoders carry what was `learnt`."""
    counts = [0, 0]
    parts: dict[str, Any] = {p: getattr(pipeline, p) for p in ("unet", "text_encoder", "text_encoder_2")}
    left = dict(learnt)
    for part, root in parts.items():
        layers = [module for module in root.modules() if isinstance(module, LoraLayer)]
        assert all(layer.scaling == {"read": 1.0} for layer in layers)  # alpha is the rank
        counts[part != "unet"] += len(layers)
        for name, found in root.named_parameters():
            if ".read." in name:
                expected = left.pop(f"{part}.{name.replace('.read.', '.default.')}")
                # two bf16 roundings, and the distance between the smallest numbers of fp16
                assert torch.allclose(found.float(), expected, rtol=2**-7, atol=6e-8), name
    assert not left
    return counts[0], counts[1]
