"""A model folder as one file with Stability's names, by the tables of diffusers' script convert_diffusers_to_original.

It is the other direction of what diffusers' `from_single_file` does, and written apart from it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from naruto_core.weight_check import MODEL_PARTS, portable_name

Tensors = dict[str, torch.Tensor]
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_LAYERS = {
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_TEXT_LAYERS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "fc1": "c_fc",
    "fc2": "c_proj",
    "self_attn": "attn",
    "encoder.layers": "transformer.resblocks",
    "final_layer_norm": "ln_final",
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
}


def write_single_file(
    folder: Path, path: Path, extra: Mapping[str, torch.Tensor] | None = None, metadata: dict[str, str] | None = None
) -> Path:
    """The model `folder` as the file `path`, with the tensors `extra` beside its own."""
    whole = dict(extra or {})
    for part in MODEL_PARTS:
        tensors = Tensors()
        for file in sorted((folder / part).glob("*.safetensors")):
            tensors |= load_file(file)
        whole |= stability_tensors(part, tensors)
    whole["conditioner.embedders.1.model.logit_scale"] = torch.zeros(())  # in every file, in no part of the model
    save_file(whole, path, {"format": "pt", **(metadata or {})})
    return path


def stability_tensors(part: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors of a part by Stability's names; `tensors` may be on the meta device."""
    if part == "unet":
        attention = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}
        return {f"model.diffusion_model.{_unet_name(name, attention)}": tensor for name, tensor in tensors.items()}
    if part == "vae":
        levels = 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("decoder.up_blocks."))
        return {f"first_stage_model.{new}": tensor for new, tensor in _vae(tensors, levels)}
    portable = {portable_name(part, name): tensor for name, tensor in tensors.items()}
    if part == "text_encoder":
        return {f"conditioner.embedders.0.transformer.{name}": tensor for name, tensor in portable.items()}
    return {f"conditioner.embedders.1.model.{name}": tensor for name, tensor in _open_clip(portable)}


def _unet_name(name: str, attention: set[str]) -> str:
    for old, new in _UNET_ENDS.items():
        if name.startswith(f"{old}."):
            return new + name.removeprefix(old)
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        kind, number, rest = match.groups()
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{_unet_layer(kind, rest)}"
    side, block, kind, number, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name).groups()  # type: ignore[union-attr]
    first = 3 * int(block)
    if kind == "downsamplers":
        return f"input_blocks.{first + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{first + 2}.{2 if block in attention else 1}.{rest}"
    place = f"input_blocks.{first + int(number) + 1}" if side == "down" else f"output_blocks.{first + int(number)}"
    return f"{place}.{int(kind == 'attentions')}.{_unet_layer(kind, rest)}"


def _unet_layer(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    layer, _, end = rest.partition(".")
    return f"{_UNET_LAYERS[layer]}.{end}"


def _vae(tensors: Mapping[str, torch.Tensor], levels: int) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        new = re.sub(r"down_blocks\.(\d)\.", r"down.\1.", name)
        new = re.sub(r"up_blocks\.(\d)\.", lambda match: f"up.{levels - 1 - int(match[1])}.", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("resnets", "block")
        new = new.replace("downsamplers.0", "downsample").replace("upsamplers.0", "upsample")
        for old, layer in _VAE_LAYERS.items():
            new = new.replace(f".{old}.", f".{layer}.")
        one_by_one = ".attn_1." in new and tensor.dim() == 2  # a convolution there
        yield new, tensor[:, :, None, None].contiguous() if one_by_one else tensor


def _open_clip(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in tensors.items():
        if name == "text_projection.weight":
            yield "text_projection", tensor.T.contiguous()
            continue
        if re.search(r"\.[kv]_proj\.", name):
            continue
        new = name.removeprefix("text_model.")
        for old, layer in _TEXT_LAYERS.items():
            new = new.replace(old, layer)
        if ".q_proj." in name:
            three = [tensors[name.replace(".q_proj.", f".{letter}_proj.")] for letter in "qkv"]
            yield new.replace(".q_proj.", ".in_proj_"), torch.cat(three)
        else:
            yield new, tensor
