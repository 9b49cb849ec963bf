"""The file for ComfyUI and kohya's tools: every name, and the same pictures."""

import hashlib
import json
import struct
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from flows.profiles import choose_recipe
from naruto_core.adapter_file import write_adapter
from naruto_core.domain import DatasetVersion, Run, RunState
from naruto_core.errors import ModelUnusable
from naruto_core.kohya import kohya_metadata, kohya_module, tag_frequency, write_kohya
from naruto_core.recipe_training import ATTENTION
from naruto_core.training.lora import TEXT_TARGETS, add_adapters, trainable
from tests.benchmarks.full_size import UNET
from tests.naruto_core.conftest import MINIATURE
from tests.naruto_core.training.pictures import section_of

# the published configurations of stabilityai/stable-diffusion-xl-base-1.0
SDXL_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SDXL_TEXT_2 = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}


def _targets(model: torch.nn.Module, suffixes: tuple[str, ...]) -> list[str]:
    return [name for name, _ in model.named_modules() if name.endswith(tuple(f".{s}" for s in suffixes))]


def test_full_size_sdxl_has_kohyas_names_and_the_reports_counts():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET)
        encoders = (
            CLIPTextModel(CLIPTextConfig(**SDXL_TEXT)),
            CLIPTextModelWithProjection(CLIPTextConfig(**SDXL_TEXT_2)),
        )
    modules = _targets(unet, ATTENTION)
    weights = [unet.get_submodule(name).weight.shape for name in modules]
    assert (len(modules), sum(4 * (out + into) for out, into in weights)) == (560, 5_806_080)
    names = {kohya_module("unet", name) for name in modules}
    # what kohya's own tables allow: Stability's blocks with attention, and their depths
    depth = {"input_blocks_4": 2, "input_blocks_5": 2, "input_blocks_7": 10, "input_blocks_8": 10, "middle_block": 10}
    depth |= {f"output_blocks_{i}": 10 for i in (0, 1, 2)} | {f"output_blocks_{i}": 2 for i in (3, 4, 5)}
    assert names == {
        f"lora_unet_{block}_1_transformer_blocks_{layer}_{attention}_{target}"
        for block, layers in depth.items()
        for layer in range(layers)
        for attention in ("attn1", "attn2")
        for target in ("to_q", "to_k", "to_v", "to_out_0")
    }
    for part, prefix, encoder, layers in zip(
        ("text_encoder", "text_encoder_2"), ("lora_te1", "lora_te2"), encoders, (12, 32), strict=True
    ):
        assert {kohya_module(part, name) for name in _targets(encoder, TEXT_TARGETS)} == {
            f"{prefix}_text_model_encoder_layers_{layer}_self_attn_{target}"
            for layer in range(layers)
            for target in TEXT_TARGETS
        }


@pytest.fixture
def adapter(load_miniature, tmp_path: Path) -> Path:
    """An adapter on UNet and both encoders whose B is far from zero, with alpha half of its rank."""
    pipeline = load_miniature()
    add_adapters(pipeline, section_of(rank=4, lora_alpha=2, text_encoder_lr=1.0))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in trainable(pipeline).items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    path = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    write_adapter(pipeline, path)
    return path


def _paint(pipeline: object, folder: Path | None, name: str = "") -> np.ndarray:
    if folder:
        pipeline.load_lora_weights(str(folder), weight_name=name)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    drawn = pipeline("a person in the rain", num_inference_steps=4, generator=generator, output_type="np")
    return drawn.images[0]


def test_vanilla_diffusers_draws_the_same_from_kohyas_file_as_from_its_own(
    load_miniature, adapter: Path, tmp_path: Path
):
    write_kohya(adapter, tmp_path / "out" / "run.safetensors", {}, MINIATURE)
    plain = _paint(load_miniature(), None)
    own = _paint(load_miniature(), adapter.parent, adapter.name)
    theirs = _paint(load_miniature(), tmp_path / "out", "run.safetensors")
    assert np.abs(own - plain).max() > 0.1  # the adapter does something
    assert np.abs(own - theirs).max() < 0.02  # half precision


def test_the_file_describes_itself_and_has_alpha_beside_every_module(adapter: Path, tmp_path: Path):
    run = Run("2026-11-23-mini-3f9c", "mini", "f" * 64, "ds-1", RunState.DONE, datetime(2026, 11, 23, tzinfo=UTC))
    dataset = DatasetVersion("ds-1", "world:naruto", "table", 0, 300, 200, 0, 0)
    path = tmp_path / "run.safetensors"
    write_kohya(adapter, path, kohya_metadata(run, choose_recipe("mini"), dataset), MINIATURE)
    tensors = load_file(path)
    modules = {name.split(".")[0] for name in tensors}
    assert len(modules) * 3 == len(tensors)
    assert all(tensors[f"{module}.alpha"].item() == 4.0 for module in modules)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert "modelspec.prediction_type" not in metadata  # the prediction type of the base is unknown
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert metadata["modelspec.trigger_phrase"] == "a naruto anime character"
    assert (metadata["ss_network_dim"], metadata["ss_num_train_images"]) == ("32", "300")
    beside = tmp_path / "beside"
    beside.touch()
    assert path.stat().st_mode == beside.stat().st_mode  # readable as other files of this folder


def test_the_file_has_the_hash_and_the_tags_that_a1111_reads(adapter: Path, tmp_path: Path):
    run = Run("2026-11-23-mini-3f9c", "mini", "f" * 64, "ds-1", RunState.DONE, datetime(2026, 11, 23, tzinfo=UTC))
    dataset = DatasetVersion("ds-1", "world:naruto", "table", 0, 300, 200, 0, 0)
    tags = tag_frequency(["a ninja, Red hair, in the rain", "a ninja,  red hair", "a ninja,,"])
    path = tmp_path / "run.safetensors"
    write_kohya(adapter, path, kohya_metadata(run, choose_recipe("mini"), dataset, tags=tags), MINIATURE)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["ss_tag_frequency"]) == {"main": {"a ninja": 3, "red hair": 2, "in the rain": 1}}
    # networks/train_util.py, addnet_hash_safetensors: the content after the header
    data = path.read_bytes()
    assert metadata["sshs_model_hash"] == hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()


def test_each_styles_file_has_its_trigger_phrase_and_kohyas_metadata():
    run = Run("2026-11-23-mini-3f9c", "mini", "f" * 64, "ds-1", RunState.DONE, datetime(2026, 11, 23, tzinfo=UTC))
    dataset = DatasetVersion("ds-1", "world:naruto", "table", 0, 300, 200, 0, 0)
    ink = {"name": "ink", "dataset": {"source": "world:ink"}, "instance_prompt": "an ink drawing"}
    changes = {"training.rank": 4, "training.lora_alpha": 2, "training.use_rslora": True, "training.lora_dropout": 0.1}
    changes |= {"training.lora_layers": ATTENTION}
    recipe = choose_recipe("mini", None, changes | {"styles": [ink]})
    by_style = {s: kohya_metadata(run, recipe, dataset, s, "v_prediction") for s in ("", "main", "ink")}
    assert {style: metadata["modelspec.trigger_phrase"] for style, metadata in by_style.items()} == {
        "": "a naruto anime character; an ink drawing",
        "main": "a naruto anime character",
        "ink": "an ink drawing",
    }
    assert by_style["ink"]["ss_output_name"] == f"{run.id}-ink"
    assert [metadata.get("ss_num_train_images") for metadata in by_style.values()] == [None, "300", None]
    # the scale alpha / sqrt(rank) that was trained is part of the weights
    assert (by_style[""]["ss_network_alpha"], by_style[""]["ss_network_dropout"]) == ("4.0", "0.1")
    assert by_style[""]["modelspec.prediction_type"] == "v"

    tokens = {"training.instance_prompt": "a TOK character", "training.textual_inversion": {}}
    phrase = kohya_metadata(run, choose_recipe("mini", None, tokens), dataset)["modelspec.trigger_phrase"]
    assert phrase == "a <s0><s1> character"
    locon = choose_recipe("mini", None, {"training.rank": 4, "training.lora_layers": ["to_q", "conv1"]})
    told = kohya_metadata(run, locon, dataset)["ss_network_args"]
    assert json.loads(told) == {"conv_dim": "4", "conv_alpha": "4.0"}
    assert "ss_network_args" not in by_style[""]


def test_no_adapter_file_names_a_folder_of_the_machine_it_was_made_on(adapter: Path):
    with safe_open(adapter, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_weight_too_large_for_half_precision_is_named(adapter: Path, tmp_path: Path):
    tensors = load_file(adapter)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] * 0 + 1e6
    save_file(tensors, tmp_path / "large.safetensors")
    with pytest.raises(ModelUnusable, match=name):
        write_kohya(tmp_path / "large.safetensors", tmp_path / "out.safetensors", {}, MINIATURE)
    assert not (tmp_path / "out.safetensors").exists()
