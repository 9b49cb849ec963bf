"""Adapter files: every difference between a file and a pipeline is an error that names it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from naruto_core import sdxl
from naruto_core.adapter_file import check_adapter, check_loads, load_lora, model_parts, read_adapter, write_adapter
from naruto_core.errors import ModelUnusable
from naruto_core.fusion import ScaledAdapter, fuse_adapters, load_fused
from naruto_core.model_folder import check_folder
from naruto_core.recipe_sections import ModelSection
from naruto_core.training.lora import add_adapters, trainable
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import ADAPTER, section_of
from tests.tiny_sdxl import write_tiny_sdxl

WIDE = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2", "proj_in"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    return ModelSection(base=str(write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")))


def _load(tiny: ModelSection) -> object:
    return sdxl.load_pipeline(tiny, "fp32", CPU)


def _write(tiny: ModelSection, folder: Path, **changes: object) -> Path:
    """An adapter with random weights as `folder`'s file."""
    pipeline = _load(tiny)
    add_adapters(pipeline, section_of(rank=3, lora_alpha=6, **changes))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainable(pipeline).values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    write_adapter(pipeline, folder / ADAPTER)
    return folder / ADAPTER


def _write_older_format(path: Path, *, attention_only: bool) -> None:
    """The file as this program wrote it at first: diffusers' names where diffusers has one, PEFT's elsewhere."""
    tensors: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(path).items():
        module = key.split(".lora_")[0]
        name = key
        if module.endswith(("to_q", "to_k", "to_v", "to_out.0")) or attention_only:
            name = key.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        tensors[name] = tensor / 2 if ".lora_B." in key else tensor
    settings = {"unet.r": 3, "unet.lora_alpha": 6, "unet.target_modules": WIDE, "unet.use_rslora": False}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(settings)})


def test_a_file_that_diffusers_reads_in_part_only_is_refused_with_how_much_is_missing(tiny, tmp_path: Path):
    path = _write(tiny, tmp_path, lora_layers=WIDE)
    load_lora(_load(tiny), path, "whole")
    total = len(load_file(path))
    _write_older_format(path, attention_only=False)
    with pytest.raises(ModelUnusable, match=rf"of {total} tensors, 96 are missing in the pipeline, first unet\.down"):
        load_lora(_load(tiny), path, "part")
    with pytest.raises(ModelUnusable, match="are missing in the pipeline"):
        check_loads(tiny, path, read_adapter(path))


def test_a_file_of_an_older_version_is_still_loaded_with_its_own_scale(tiny, tmp_path: Path):
    path = _write(tiny, tmp_path)
    new = read_adapter(path).tensors
    _write_older_format(path, attention_only=True)
    old = read_adapter(path)
    assert old.scales["unet"] == 2.0
    assert all(torch.equal(old.scaled()[key], tensor) for key, tensor in new.items())
    pipeline = _load(tiny)
    load_lora(pipeline, path, "old")
    layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert torch.allclose(layer.get_delta_weight("old"), new[f"{stem}.lora_B.weight"] @ new[f"{stem}.lora_A.weight"])


@pytest.mark.parametrize("changes", [{"text_encoder_lr": 1.0}, {"text_encoder_lr": 1.0, "use_dora": True}], ids=str)
def test_a_single_changed_number_in_a_loaded_adapter_is_found_and_named(
    tiny, tmp_path: Path, changes: dict[str, object]
):
    path = _write(tiny, tmp_path, **changes)
    pipeline, file = _load(tiny), read_adapter(path)
    load_lora(pipeline, path, "checked")
    layer = pipeline.text_encoder_2.text_model.encoder.layers[1].self_attn.q_proj
    weight = layer.lora_magnitude_vector["checked"].weight if "use_dora" in changes else layer.lora_A["checked"].weight
    with torch.no_grad():
        weight.view(-1)[0] += 1e-6
    role = "lora_magnitude_vector" if "use_dora" in changes else "lora_A"
    name = rf"text_encoder_2\.text_model\.encoder\.layers\.1\.self_attn\.q_proj\.{role}\.weight"
    with pytest.raises(ModelUnusable, match=f"1 differ in the pipeline, first {name}"):
        check_adapter(model_parts(pipeline), "checked", file)
    layer.scaling["checked"] *= 2
    with pytest.raises(ModelUnusable, match="differ in the pipeline"):
        check_adapter(model_parts(pipeline), "checked", file)


def test_weights_that_are_not_numbers_are_neither_written_nor_loaded(tiny, tmp_path: Path):
    path = _write(tiny, tmp_path)
    tensors = load_file(path)
    key = sorted(tensors)[0]
    tensors[key][0, 0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(ModelUnusable, match=f"{key} has values that are not finite"):
        load_lora(_load(tiny), path, "nan")
    pipeline = _load(tiny)
    add_adapters(pipeline, section_of(rank=3))
    with torch.no_grad():
        next(iter(trainable(pipeline).values())).fill_(torch.inf)
    with pytest.raises(ModelUnusable, match="has values that are not finite"):
        write_adapter(pipeline, tmp_path / "new" / ADAPTER)
    assert not list((tmp_path / "new").glob("*"))


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 64])
def test_a_file_without_adapter_weights_is_refused(tiny, tmp_path: Path, content: bytes):
    (tmp_path / ADAPTER).write_bytes(content)
    with pytest.raises(ModelUnusable, match="cannot read the adapter"):
        load_lora(_load(tiny), tmp_path / ADAPTER, "none")
    save_file({"unet.conv_in.weight": torch.zeros(2)}, tmp_path / ADAPTER)
    with pytest.raises(ModelUnusable, match=r"has a tensor unet\.conv_in\.weight, which is not a LoRA weight"):
        load_lora(_load(tiny), tmp_path / ADAPTER, "none")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_base_model_that_lacks_a_weight_is_refused_instead_of_filled_at_random(tiny, tmp_path: Path, part: str):
    folder = write_tiny_sdxl(tmp_path / "damaged")
    (path,) = (folder / part).glob("*.safetensors")
    tensors = load_file(path)
    name = sorted(name for name in tensors if name.endswith("norm1.weight"))[0]
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelUnusable, match=rf"cannot load {part} of .*: its files lack 1 weight, first"):
        _load(ModelSection(base=str(folder)))


def test_a_fused_model_is_compared_with_its_files_tensor_by_tensor(tiny, tmp_path: Path):
    adapter = _write(tiny, tmp_path / "a", text_encoder_lr=1.0)
    fuse_adapters(_load(tiny), [ScaledAdapter(adapter.parent)], tmp_path / "fused")
    names = load_file(tmp_path / "fused" / "text_encoder" / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"text_model"}  # as transformers 4 wants it
    sdxl.check_complete(tmp_path / "fused")
    pipeline = load_fused(tmp_path / "fused", "fp32", CPU)
    with torch.no_grad():
        pipeline.text_encoder.get_input_embeddings().weight[0, 0] += 1e-6
    name = "text_model.embeddings.token_embedding.weight of text_encoder has other values"
    with pytest.raises(ModelUnusable, match=name):
        check_folder(tmp_path / "fused", {"text_encoder": pipeline.text_encoder})

    path = tmp_path / "fused" / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["decoder.conv_in.bias"] = tensors["decoder.conv_in.bias"][:2]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(ModelUnusable, match=r"its files lack decoder\.conv_in\.bias of vae"):
        sdxl.check_complete(tmp_path / "fused")
