"""A base model in one file is the model that its folder is; any other file is refused in one sentence."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from diffusers import DDPMScheduler
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.adapter_file import check_loads, read_adapter
from naruto_core.card.facts import WeightFiles
from naruto_core.card.usage import diffusers_code
from naruto_core.errors import ModelUnusable, RecordDamaged
from naruto_core.fusion import fuse_adapters
from naruto_core.generation import Job, Painter
from naruto_core.noise_schedule import stated_schedule, with_schedule
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.single_file import SDXL_CONFIG, SingleFile, check_parts, clip_tokenizers, read_single_file
from naruto_core.token_limit import load_token_limit
from naruto_core.training.loss import noise_scheduler, prediction_target
from naruto_core.weight_check import MODEL_PARTS, check_pipeline, check_weights
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.single_file_model import stability_tensors, write_single_file
from tests.tiny_sdxl import write_tiny_sdxl

FLAG = torch.empty(0)  # NoobAI's files state their noise schedule by the names of empty tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("tiny") / "folder")


@pytest.fixture(scope="module")
def base(folder: Path) -> ModelSection:
    """The tiny SDXL as one file, with the configurations and tokenizers of its folder."""
    return ModelSection(base=str(write_single_file(folder, folder.parent / "tiny.safetensors")), config=str(folder))


def test_the_miniature_as_one_file_draws_the_pictures_of_its_folder_byte_for_byte(tmp_path: Path):
    source = Path(sdxl.locate(MINIATURE.base, None)[0])
    path = write_single_file(source, tmp_path / "miniature.safetensors")
    section = GenerationSection(suite="-", resolution=32, num_inference_steps=1, mixed_precision="fp32")
    pipeline = sdxl.load_pipeline(ModelSection(base=str(path), config=MINIATURE.base), "fp32", CPU)
    check_pipeline(source, pipeline)
    whole = sdxl.load_pipeline(MINIATURE, "fp32", CPU)
    (mine,), (theirs,) = (Painter(p, section).paint([Job("a person with red hair", 7)]) for p in (pipeline, whole))
    assert mine.tobytes() == theirs.tobytes()


def test_every_tensor_of_full_size_sdxl_has_its_place_in_the_file():
    """Only names and shapes: sd_xl_base_1.0.safetensors has 2,515 tensors, two of which are in no part."""
    described = sdxl.describe_parts(ModelSection(base=SDXL_CONFIG))
    whole = {
        part: {name: tuple(tensor.shape) for name, tensor in stability_tensors(part, model.state_dict()).items()}
        for part, model in described.items()
    }
    assert {part: len(shapes) for part, shapes in whole.items()} == {
        "unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 389
    }  # fmt: skip
    shapes = {name: shape for part in whole.values() for name, shape in part.items()}
    known = {  # diffusers knows SDXL by these
        "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": (1280,),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
        "model.diffusion_model.output_blocks.2.2.conv.weight": (1280, 1280, 3, 3),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    }
    assert {name: shapes[name] for name in known} == known
    file = SingleFile(Path("sdxl.safetensors"), shapes, {})
    check_parts(file, described)
    lost = "model.diffusion_model.input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight"
    with pytest.raises(ModelUnusable, match=r"the unet of the base model sdxl.safetensors is not SDXL's: .*is missing"):
        check_parts(SingleFile(file.path, {n: s for n, s in shapes.items() if n != lost}, {}), described)


def test_its_tokenizers_are_clips_own_unless_the_configurations_bring_some(base: ModelSection, tmp_path: Path):
    texts = ["a photo of a cat", "Naruto, 1girl, (masterpiece:1.2), ça_va 忍者", "", "it's  rainy  " * 3]
    tokenizers = clip_tokenizers()
    assert tokenizers[0](texts[0]).input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    for tokenizer, padding in zip(tokenizers, (49407, 0), strict=True):
        padded = tokenizer(texts, padding="max_length", max_length=77).input_ids
        for ids, expected in zip(padded, open_clip.tokenize(texts).tolist(), strict=True):
            end = expected.index(49407) + 1
            assert ids == expected[:end] + [padding] * (77 - end)
    # as in SDXL's own second tokenizer, whose padding is the token of "!"
    assert [t("wow!", add_special_tokens=False).input_ids[-1] for t in tokenizers] == [256, 0]
    assert load_token_limit(base).limit == 46  # of the folder's configurations
    assert load_token_limit(base.model_copy(update={"config": None})).limit == 75
    assert load_token_limit(base).truncated("a " * 47)


def test_its_file_says_what_it_predicts_and_the_recipe_says_otherwise(folder: Path, base: ModelSection):
    def written(name: str, extra: dict[str, torch.Tensor], **metadata: str) -> ModelSection:
        path = write_single_file(
            folder, folder.parent / name, extra, {f"modelspec.{k}": v for k, v in metadata.items()}
        )
        return base.model_copy(update={"base": str(path)})

    noob = written("noob.safetensors", {"v_pred": FLAG, "ztsnr": FLAG})
    stated = written("stated.safetensors", {}, prediction_type="v")
    assert [sdxl.prediction_type(section) for section in (base, noob, stated)] == [
        "epsilon", "v_prediction", "v_prediction"
    ]  # fmt: skip
    pipeline = sdxl.load_pipeline(noob, "fp32", CPU)
    scheduler = noise_scheduler(pipeline)
    rescaled = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True
    ).alphas_cumprod
    assert torch.allclose(scheduler.alphas_cumprod[:-1], rescaled[:-1])
    assert float(scheduler.alphas_cumprod[-1]) == 2**-24  # rescaled[-1] is 0
    clean, noise, t = torch.ones(1, 4, 2, 2), torch.full((1, 4, 2, 2), 3.0), torch.tensor([500])
    velocity = scheduler.alphas_cumprod[500] ** 0.5 * 3 - (1 - scheduler.alphas_cumprod[500]) ** 0.5
    assert torch.allclose(prediction_target(scheduler, clean, noise, t), velocity.expand_as(clean))
    section = GenerationSection(suite="-", resolution=16, num_inference_steps=2, mixed_precision="fp32")
    painter = Painter(pipeline, section)
    assert painter.pipeline.scheduler.config.prediction_type == "v_prediction"
    painter.paint([Job("a cat", 1)])
    assert painter.pipeline.scheduler.timesteps.tolist() == [999, 499]  # the first is pure noise
    plain = noob.model_copy(update={"prediction_type": "epsilon", "rescale_betas_zero_snr": False})
    assert with_schedule(plain, pipeline.scheduler).config.prediction_type == "epsilon"
    assert len({sdxl.identity(section) for section in (base, noob, stated, plain)}) == 4
    with pytest.raises(
        ModelUnusable, match=r"impossible with a zero terminal SNR: set model.prediction_type to v_pred"
    ):
        with_schedule(base.model_copy(update={"rescale_betas_zero_snr": True}), DDPMScheduler())
    with pytest.raises(ValidationError, match="rescale_betas_zero_snr needs prediction_type v_prediction"):
        ModelSection(base="x", prediction_type="epsilon", rescale_betas_zero_snr=True)
    assert sdxl.base_notes(noob, 2)[0].endswith(
        "with prediction_type v_prediction, rescale_betas_zero_snr True, timestep_spacing trailing"
    )
    assert "the clip skip 2 that model pages and A1111 name is SDXL's own" in sdxl.base_notes(base, 2)[0]
    assert sdxl.base_notes(base, None) == []


def test_it_is_fused_and_checked_like_a_folder(base: ModelSection, folder: Path, tmp_path: Path):
    lora = tmp_path / "pytorch_lora_weights.safetensors"
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.lora_A.weight": torch.ones(2, 16), f"{layer}.lora_B.weight": torch.ones(16, 2)}, lora)
    check_loads(base, lora, read_adapter(lora))
    fuse_adapters(sdxl.load_pipeline(base, "fp32", CPU), [], tmp_path / "fused")
    sdxl.check_complete(tmp_path / "fused")
    for part in MODEL_PARTS:
        (mine,), (theirs,) = (sorted((where / part).glob("*.safetensors")) for where in (tmp_path / "fused", folder))
        weights = load_file(theirs)
        assert {name: torch.equal(t, weights[name]) for name, t in load_file(mine).items()} == dict.fromkeys(
            weights, True
        )


def test_the_code_of_the_card_loads_it_with_plain_diffusers(folder: Path, base: ModelSection):
    path = write_single_file(folder, folder.parent / "card.safetensors", {"v_pred": FLAG, "ztsnr": FLAG})
    section = base.model_copy(update={"base": str(path)})
    changes = {"model.base": str(path), "model.config": str(folder), "generation.scheduler": "dpmpp_2m_karras"}
    recipe = choose_recipe("mini", None, {**changes, "generation.mixed_precision": "fp32"})
    facts = recipe, "run", WeightFiles({}), "a cat", 1, stated_schedule(section)
    code = diffusers_code(*facts).split("picture = pipeline(")[0]
    assert "'path/to/card.safetensors'  # a file:" in code
    variables: dict[str, Any] = {}
    exec(code.replace("path/to/card.safetensors", str(path)).replace("path/to/folder", str(folder)), variables)
    check_pipeline(folder, variables["pipeline"])
    ours = Painter(sdxl.load_pipeline(section, "fp32", CPU), recipe.generation).pipeline.scheduler
    for scheduler in (ours, variables["pipeline"].scheduler):
        scheduler.set_timesteps(5)
    assert torch.equal(variables["pipeline"].scheduler.sigmas, ours.sigmas)
    assert variables["pipeline"].scheduler.config.prediction_type == "v_prediction"
    hub = recipe.model_copy(update={"model": ModelSection(base="me/anime/v1/x.safetensors", revision="a" * 40)})
    assert f"base = hf_hub_download('me/anime', 'v1/x.safetensors', revision='{'a' * 40}')" in diffusers_code(
        hub, *facts[1:]
    )


def test_the_guides_program_converts_a_pickle(base: ModelSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "base-models.md").read_text(encoding="utf-8")
    program = guide.split("```python\n")[1].split("```")[0]
    tensors = load_file(base.base)
    torch.save({"state_dict": tensors, "global_step": 7}, tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    converted = load_file(tmp_path / "model.safetensors")
    assert {name: torch.equal(tensors[name], tensor) for name, tensor in converted.items()} == dict.fromkeys(
        tensors, True
    )


def test_a_file_of_the_hub_is_pinned_and_checked(base: ModelSection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pinned = base.model_copy(update={"base": "me/anime/v1/tiny.safetensors", "revision": "0123456789" * 4})
    with pytest.raises(ModelUnusable, match=r"no model file me/anime/v1/tiny.safetensors; .*set model.revision"):
        sdxl.load_pipeline(pinned.model_copy(update={"revision": None}), "fp32", CPU)
    assert sdxl.prediction_type(pinned) is None  # not downloaded for this
    assert sdxl.describe_parts(pinned)["unet"].config["in_channels"] == 4
    content = Path(base.base).read_bytes()
    blob = tmp_path / "models--me--anime" / "blobs" / hashlib.sha256(content).hexdigest()
    link = blob.parents[1] / "snapshots" / ("0123456789" * 4) / "v1" / "tiny.safetensors"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(content)
    link.symlink_to(blob)
    assert sdxl.prediction_type(pinned) == "epsilon"
    sdxl.load_part(pinned, "text_encoder", torch.float32)
    blob.write_bytes(content[:-1] + b"x")
    with pytest.raises(RecordDamaged, match=r"the downloaded file tiny.safetensors is damaged: delete"):
        sdxl.load_part(pinned, "text_encoder", torch.float32)


OTHER_FILES = {
    "conditioner.embedders.0.model.transformer.resblocks.9.mlp.c_proj.bias": "is the refiner of SDXL, not its base",
    "cond_stage_model.transformer.text_model.final_layer_norm.bias": "is a Stable Diffusion 1 model",
    "cond_stage_model.model.token_embedding.weight": "is a Stable Diffusion 2 model",
    "model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias": "is a Stable Diffusion 3 model",
    "double_blocks.0.img_attn.norm.key_norm.scale": "is a Flux model",
    "lora_unet_input_blocks_4_1_proj_in.lora_down.weight": "is a LoRA, not a base model",
    "unet.mid_block.attentions.0.proj_in.lora_A.weight": "is a LoRA, not a base model",
    "edm_mean": "is an EDM model",
    "clip_g": "is the embedding of a word",
    "decoder.conv_in.weight": "is a VAE, not a base model",
    "down_blocks.0.resnets.0.conv1.weight": "is one part of a model folder: name the folder",
}


def test_another_kind_of_model_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    for name, kind in OTHER_FILES.items():
        save_file({name: torch.zeros(2)}, path)
        with pytest.raises(ModelUnusable) as refused:
            read_single_file(path)
        assert f"the base model {path} {kind}" in str(refused.value)


def test_a_damaged_incomplete_or_unsafe_file_is_refused_by_name(base: ModelSection, folder: Path, tmp_path: Path):
    def refusal(path: Path | str, content: bytes | None = None, **changes: object) -> str:
        if content is not None:
            Path(path).write_bytes(content)
        read = stated_schedule if content is not None else sdxl.describe_parts  # the first is quicker
        with pytest.raises(ModelUnusable) as refused:
            read(base.model_copy(update={"base": str(path), **changes}))
        return str(refused.value)

    whole = Path(base.base).read_bytes()
    for name, content in (("cut", whole[:-1000]), ("short", whole[:100]), ("empty", b""), ("text", b"<html>" * 9)):
        path = tmp_path / f"{name}.safetensors"
        assert f"the base model {path} is damaged or not complete: download it again" in refusal(path, content)
    assert "is a pickle under another name" in refusal(tmp_path / "zip.safetensors", b"PK\x03\x04" + whole[4:])
    assert "model.ckpt is no safetensors file; other files can run code" in refusal(tmp_path / "model.ckpt", whole)
    assert "there is no model file" in refusal(tmp_path / "missing.safetensors")
    tensors = load_file(base.base)
    path = tmp_path / "part.safetensors"
    save_file({"anything": torch.zeros(2)}, path)
    assert refusal(path).endswith(f"the base model {path} has no unet: take a complete checkpoint.")
    save_file({n: t for n, t in tensors.items() if not n.startswith("first_stage_model.")}, path)
    assert refusal(path).endswith(f"the base model {path} has no vae: set model.vae.")
    vae = tmp_path / "vae-alone"
    (vae).symlink_to(folder / "vae")
    sdxl.load_part(base.model_copy(update={"base": str(path), "vae": str(vae)}), "vae", torch.float32)
    sdxl.load_part(base.model_copy(update={"base": str(path), "vae": str(vae)}), "text_encoder", torch.float32)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    save_file(tensors | {first: torch.zeros(8, 9, 3, 3)}, path)
    assert "has 9 input channels instead of 4: it is a model for inpainting" in refusal(path)
    assert "the unet of the base model" in refusal(base.base, config=SDXL_CONFIG)
    lost = "model.diffusion_model.out.2.bias"
    save_file({n: t for n, t in tensors.items() if n != lost}, path)
    with pytest.raises(ModelUnusable, match=r"part.safetensors is not SDXL's: conv_out.bias is missing"):
        sdxl.load_part(base.model_copy(update={"base": str(path)}), "unet", torch.float32)


def test_a_folder_is_read_in_the_variant_that_it_has(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def with_names(name: str, rename: Callable[[str], str]) -> ModelSection:
        for path in folder.rglob("*"):
            target = tmp_path / name / path.relative_to(folder)
            if path.is_file():
                target = target.with_name(rename(path.name))
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
        return ModelSection(base=str(tmp_path / name))

    plain = ModelSection(base=str(folder), variant="fp16")
    half = with_names("half", lambda name: name.replace(".safetensors", ".fp16.safetensors"))
    for section in (plain, half, half.model_copy(update={"variant": "fp16"})):
        check_weights(folder, {part: sdxl.load_part(section, part, torch.float32) for part in ("unet", "text_encoder")})
    assert sdxl.base_notes(plain, None) == [
        f"base model {folder} has no files of variant fp16: its plain files are read"
    ]
    assert sdxl.base_notes(half, None) == [f"base model {half.base} has no plain weight files: its fp16 files are read"]
    assert sdxl.base_notes(ModelSection(base=str(folder)), 2) == []
    sharded = "diffusion_pytorch_model.fp16-00001-of-00002.safetensors"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / sharded).touch()
    assert sdxl.find_variant(tmp_path, "unet", None) == "fp16"


def test_a_folder_of_another_model_is_refused_by_its_kind(tmp_path: Path):
    for index, kind in (
        ({"_class_name": "StableDiffusionPipeline"}, "is a StableDiffusionPipeline, and this program trains SDXL only"),
        ({"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}, "is the refiner of SDXL"),
    ):
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ModelUnusable, match=kind):
            sdxl.describe_parts(ModelSection(base=str(tmp_path)))


def test_the_shipped_configuration_is_that_of_sdxl_base():
    from tests.benchmarks.full_size import TEXT, TEXT_2, UNET, VAE

    shipped = Path(sdxl.locate(SDXL_CONFIG, None)[0])
    published = {"unet": UNET, "text_encoder": TEXT, "text_encoder_2": TEXT_2, "vae": VAE}
    changed = {"force_upcast": True, "sample_size": 1024}  # SDXL's own VAE, which the repaired one differs from
    for part, values in published.items():
        expected = values | (changed if part == "vae" else {})
        config = json.loads((shipped / part / "config.json").read_text())
        assert {key: config[key] for key in expected} == expected
