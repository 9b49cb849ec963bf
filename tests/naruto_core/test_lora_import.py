"""LoRA files of other trainers: each form is read with its values, and what is no LoRA for this base is named."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from naruto_core.adapter_file import load_lora, read_adapter
from naruto_core.errors import ModelUnusable
from naruto_core.lora_import import read_lora
from tests.naruto_core.conftest import MINIATURE

Tensors = dict[str, torch.Tensor]
TO_K = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
K_TO_K = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
# by this program's name: kohya's name, and the shapes of down and up
MODULES = {
    TO_K: (K_TO_K, (4, 160), (144, 4)),
    "unet.mid_block.resnets.1.conv2": ("lora_unet_middle_block_2_out_layers_3", (2, 144, 3, 3), (144, 2, 1, 1)),
    "unet.down_blocks.0.downsamplers.0.conv": ("lora_unet_input_blocks_3_0_op", (2, 64, 3, 3), (64, 2, 1, 1)),
    "unet.time_embedding.linear_1": ("lora_unet_time_embed_0", (4, 64), (256, 4)),
    "text_encoder.text_model.encoder.layers.1.self_attn.out_proj": (
        "lora_te1_text_model_encoder_layers_1_self_attn_out_proj",
        (4, 64),
        (64, 4),
    ),
}
ALPHA = 3.0


def _kohya() -> Tensors:
    """A file as kohya's tools write it, with convolutions and two ranks; alpha is neither rank."""
    generator = torch.Generator().manual_seed(5)
    tensors: Tensors = {}
    for name, down, up in MODULES.values():
        tensors[f"{name}.lora_down.weight"] = (0.2 * torch.randn(down, generator=generator)).half()
        tensors[f"{name}.lora_up.weight"] = (0.2 * torch.randn(up, generator=generator)).half()
        tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    return tensors


def _saved(folder: Path, tensors: Tensors, metadata: dict[str, str] | None = None, name: str = "x") -> Path:
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, metadata)
    return path


def test_a_kohya_file_is_converted_module_by_module_with_alpha_by_rank_in_the_weights(tmp_path: Path):
    tensors, facts = _kohya(), {"ss_steps": "900", "ss_output_name": "ink", "ss_tag_frequency": "{}", "ss_seed": "None"}
    lora = read_lora(_saved(tmp_path, tensors, facts), MINIATURE)
    assert (lora.format, lora.ranks, lora.modules, lora.use_dora) == ("kohya", (2, 4), 5, False)
    assert lora.facts == {"ss_steps": "900", "ss_output_name": "ink"}
    lora.write(tmp_path / "run" / "lora.safetensors", MINIATURE)
    written = load_file(tmp_path / "run" / "lora.safetensors")
    assert len(written) == 2 * len(MODULES)
    for module, (name, down, _) in MODULES.items():
        scaled = tensors[f"{name}.lora_up.weight"].float() * (ALPHA / down[0])
        a, b = (written[f"{module}.{role}.weight"] for role in ("lora_A", "lora_B"))
        # one rank everywhere, by zeros: older diffusers scale a module of another rank wrongly where no alpha is given
        assert (a.shape[0], b.shape[1]) == ((4, 4) if module.startswith("unet.") else (down[0], down[0]))
        assert torch.equal(a[: down[0]], tensors[f"{name}.lora_down.weight"].float())
        assert torch.equal(b[:, : down[0]], scaled)
        assert not a[down[0] :].any()
        assert not b[:, down[0] :].any()


def test_a_converted_file_draws_what_diffusers_draws_from_kohyas_own(
    load_miniature: Callable[..., object], tmp_path: Path
):
    source, converted = _saved(tmp_path, _kohya()), tmp_path / "run" / "lora.safetensors"
    read_lora(source, MINIATURE).write(converted, MINIATURE)
    drawn: list[np.ndarray] = []
    for load in (
        lambda pipeline: None,
        lambda pipeline: pipeline.load_lora_weights(str(source.parent), weight_name=source.name),
        lambda pipeline: load_lora(pipeline, converted, "x"),
    ):
        pipeline = load_miniature()
        load(pipeline)
        options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "np"}
        drawn.append(pipeline("a person in the rain", height=64, width=64, **options).images[0])
    plain, theirs, own = drawn
    assert np.abs(theirs - plain).max() > 0.05
    assert np.abs(theirs - own).max() < 1e-4  # diffusers multiplies by alpha / rank while it draws


@pytest.mark.parametrize("alphas", [(), (TO_K,), tuple(MODULES)])
def test_a_module_without_an_alpha_has_its_rank_for_it_whatever_the_others_have(
    tmp_path: Path, alphas: tuple[str, ...]
):
    tensors = _kohya()
    for module, (name, _, _) in MODULES.items():
        if module not in alphas:
            del tensors[f"{name}.alpha"]
    read = read_lora(_saved(tmp_path, tensors), MINIATURE).adapter.tensors
    for module, (name, down, _) in MODULES.items():
        scale = ALPHA / down[0] if module in alphas else 1.0
        assert torch.equal(read[f"{module}.lora_B.weight"], tensors[f"{name}.lora_up.weight"].float() * scale), module


def test_an_alpha_beside_diffusers_names_is_in_the_weights_or_refused_and_never_lost(tmp_path: Path):
    own = {f"{TO_K}.lora_A.weight": _one(4, 160), f"{TO_K}.lora_B.weight": _one(144, 4)}
    lora = read_lora(_saved(tmp_path, own | {f"{TO_K}.alpha": torch.tensor(ALPHA)}), MINIATURE)
    assert torch.equal(lora.adapter.tensors[f"{TO_K}.lora_B.weight"], ALPHA / 4 * _one(144, 4))
    assert not lora.as_it_is
    lora.write(tmp_path / "run" / "lora.safetensors", MINIATURE)
    unknown = own | {f"{TO_K}.lora.alpha": torch.tensor(ALPHA)}
    with pytest.raises(ModelUnusable, match=r"to_k\.lora\.alpha, which some programs apply and others do not"):
        read_lora(_saved(tmp_path, unknown), MINIATURE)


def test_an_alpha_of_zero_is_refused_because_it_switches_its_module_off(tmp_path: Path):
    tensors = _kohya()
    tensors[f"{K_TO_K}.alpha"] = torch.tensor(0.0)
    with pytest.raises(ModelUnusable, match=rf"{K_TO_K} has alpha 0"):
        read_lora(_saved(tmp_path, tensors), MINIATURE)


def _as_diffusers(tmp_path: Path) -> Tensors:
    """Linear layers of the UNet, by this program's names."""
    lora = read_lora(_saved(tmp_path, _kohya(), name="kohya"), MINIATURE)
    return {key: tensor for key, tensor in lora.adapter.tensors.items() if key.startswith(TO_K)}


def _renamed(tensors: Tensors, **names: str) -> Tensors:
    for old, new in names.items():
        tensors = {key.replace(old, new): tensor for key, tensor in tensors.items()}
    return tensors


def test_every_form_of_names_gives_the_same_weights_and_our_own_file_is_taken_byte_by_byte(tmp_path: Path):
    own = _as_diffusers(tmp_path)
    up = own[f"{TO_K}.lora_B.weight"]
    older = _renamed(own, lora_A="lora.down", lora_B="lora.up")
    processor = {k.replace("to_k.lora", "processor.to_k_lora"): v for k, v in older.items()}
    diffusers_blocks = {
        f"lora_{TO_K.replace('.', '_')}.lora_down.weight": own[f"{TO_K}.lora_A.weight"],
        f"lora_{TO_K.replace('.', '_')}.lora_up.weight": up,
    }
    for tensors in (own, older, processor, diffusers_blocks):
        lora = read_lora(_saved(tmp_path, tensors), MINIATURE)
        assert torch.equal(lora.adapter.tensors[f"{TO_K}.lora_B.weight"], up)
        lora.write(tmp_path / "run" / "lora.safetensors", MINIATURE)
        same = (tmp_path / "run" / "lora.safetensors").read_bytes() == lora.path.read_bytes()
        assert same is (tensors is own)
        assert torch.equal(read_adapter(tmp_path / "run" / "lora.safetensors").tensors[f"{TO_K}.lora_B.weight"], up)

    config = {"r": 4, "lora_alpha": 8, "target_modules": ["to_k"]}
    settings = json.dumps({f"unet.{key}": value for key, value in config.items()})
    lora = read_lora(_saved(tmp_path, own, {"lora_adapter_metadata": settings}), MINIATURE)
    assert torch.equal(lora.adapter.tensors[f"{TO_K}.lora_B.weight"], 2 * up)
    peft = _saved(tmp_path, {k.replace("unet.", "base_model.model."): v for k, v in own.items()})
    with pytest.raises(ModelUnusable, match=r"put PEFT's adapter_config\.json beside it"):
        read_lora(peft, MINIATURE)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "LORA"}))
    lora = read_lora(peft, MINIATURE)
    assert lora.format == "peft"
    assert torch.equal(lora.adapter.tensors[f"{TO_K}.lora_B.weight"], 2 * up)


def _one(*size: int) -> torch.Tensor:
    return torch.ones(size)


def _kohya_pair(name: str, inner: int, outer: int) -> Tensors:
    return {f"{name}.lora_down.weight": _one(4, inner), f"{name}.lora_up.weight": _one(outer, 4)}


BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({f"{K_TO_K}.hada_w1_a": _one(2, 2)}, "is a LyCORIS LoHa"),
        ({f"{K_TO_K}.lokr_w1": _one(2, 2)}, "is a LyCORIS LoKr"),
        (_kohya() | {f"{K_TO_K}.lora_mid.weight": _one(2, 2)}, r"is a LyCORIS LoCon with Tucker .* \(lora_mid\)"),
        (_kohya() | {f"{K_TO_K}.dora_scale": _one(144, 1)}, "is a DoRA in kohya's form"),
        ({"lora_te3_encoder_block_0.lora_down.weight": _one(4, 4)}, "a LoRA with a text encoder 3"),
        ({"lora_unet_double_blocks_0_img_attn.lora_down.weight": _one(4, 4)}, "is a LoRA for Flux"),
        ({"lora_te_text_model_encoder_layers_0.lora_down.weight": _one(4, 4)}, r"Stable Diffusion 1\.x or 2\.x \(one"),
        (_kohya_pair(f"{BLOCK}_attn2_to_k", 768, 320), r"is for Stable Diffusion 1\.x: it reads text of width 768"),
        (_kohya_pair(f"{BLOCK}_attn2_to_k", 2048, 640), "is for SDXL: it reads text of width 2048, and package"),
        (_kohya_pair(K_TO_K.replace("attn2", "attn1"), 640, 640), "does not fit the base model .* have other sizes"),
        (
            _kohya() | _kohya_pair(K_TO_K.replace("_0_attn2", "_9_attn2"), 160, 144),
            "2 of its 12 tensors have no module",
        ),
        ({k: v for k, v in _kohya().items() if k != f"{K_TO_K}.lora_up.weight"}, f"is incomplete: {K_TO_K}.weight has"),
        (_kohya() | {f"{K_TO_K}.lora_up.weight": _one(144, 4) * np.nan}, f"not finite in {K_TO_K}"),
        (
            _kohya_pair(K_TO_K, 160, 144) | {f"{K_TO_K}.lora_down.weight": _one(640)},
            r"has the shape \(640,\), which is no matrix",
        ),
        ({"model.diffusion_model.out.2.weight": _one(2)}, "is a whole model; give it as --base"),
        ({"clip_l": _one(2, 2), "clip_g": _one(2, 2)}, "is an embedding"),
        ({"weight": _one(2)}, "no LoRA for SDXL in kohya's, diffusers' or PEFT's form: it has a tensor weight"),
    ],
)
def test_what_is_no_lora_for_this_base_is_refused_with_what_it_is(tmp_path: Path, tensors: Tensors, sentence: str):
    with pytest.raises(ModelUnusable, match=sentence):
        read_lora(_saved(tmp_path, tensors), MINIATURE)


def test_pickles_damaged_and_missing_files_are_refused(tmp_path: Path):
    path = _saved(tmp_path, _kohya())
    (tmp_path / "x.pt").write_bytes(b"\x80\x02")
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:-100])
    for name, sentence in {
        "x.pt": "is a pickle, which can run code",
        "cut.safetensors": "cannot read .* as a safetensors file",
        "gone.safetensors": "there is no LoRA file",
    }.items():
        with pytest.raises(ModelUnusable, match=sentence):
            read_lora(tmp_path / name, MINIATURE)


def test_a_file_with_another_suffix_or_settings_that_are_no_object_is_refused_in_one_sentence(tmp_path: Path):
    for name in ("x.SAFETENSORS", "x.sft", "x"):
        _saved(tmp_path, _kohya()).rename(tmp_path / name)
        with pytest.raises(ModelUnusable, match=r"does not end with \.safetensors: .* rename it to x\.safetensors"):
            read_lora(tmp_path / name, MINIATURE)
    own = {f"{TO_K}.lora_A.weight": _one(4, 160), f"{TO_K}.lora_B.weight": _one(144, 4)}
    with pytest.raises(ModelUnusable, match="does not load in diffusers"):
        read_lora(_saved(tmp_path, own, {"lora_adapter_metadata": "[1]"}), MINIATURE)
