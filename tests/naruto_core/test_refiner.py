"""SDXL's second stage: what diffusers' own two calls draw, with one model in memory at a time."""

import gc
import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.card.facts import WeightFiles
from naruto_core.card.usage import diffusers_code
from naruto_core.errors import ModelUnusable
from naruto_core.generation import Job, Painter
from naruto_core.picture_cache import PictureCache
from naruto_core.recipe_sections import GenerationSection, ModelSection, RefinerSection
from naruto_core.refiner import BatchDrawing, check_refiner, load_refiner
from tests.naruto_core.conftest import CPU
from tests.tiny_sdxl import write_tiny_sdxl

JOBS = [Job("a person in the rain", 1), Job("a girl by the sea", 2), Job("an old man", 3)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def refiner(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A refiner with random weights: the second text encoder only, and an aesthetics score instead of a target size."""
    folder = tmp_path_factory.mktemp("refiner")
    model = sdxl.load_pipeline(ModelSection(base=str(base)), "fp32", CPU)
    torch.manual_seed(1)
    config = dict(model.unet.config) | {
        "cross_attention_dim": 16,  # of the second text encoder alone
        "projection_class_embeddings_input_dim": 16 + 5 * 4,
    }
    unet: Any = UNet2DConditionModel.from_config(config)
    StableDiffusionXLImg2ImgPipeline(
        vae=model.vae,
        text_encoder=None,
        text_encoder_2=model.text_encoder_2,
        tokenizer=None,
        tokenizer_2=model.tokenizer_2,
        unet=unet,
        scheduler=model.scheduler,
        requires_aesthetics_score=True,
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def _section(refiner: Path, **changes: object) -> GenerationSection:
    values: dict[str, object] = {
        "suite": "konoha-v1",
        "resolution": 32,
        "num_inference_steps": 5,
        "guidance_scale": 5.0,
        "negative_prompt": "bad",
        "batch_size": 2,
        "mixed_precision": "fp32",
        "refiner": {"base": str(refiner), "high_noise_frac": 0.6},
    }
    return GenerationSection.model_validate(values | changes)


def _drawn(drawing: BatchDrawing, base: Path) -> dict[Job, bytes]:
    def load() -> Painter:
        pipeline = sdxl.load_pipeline(ModelSection(base=str(base)), "fp32", CPU)
        return Painter(pipeline, drawing.section)

    return {job: picture.tobytes() for batch in drawing.draw(load, JOBS) for job, picture in batch}


def _documented(base: Path, refiner: Path, section: GenerationSection, jobs: list[Job]) -> list[np.ndarray]:
    """Base to refiner as in diffusers' documentation, with its own calls alone."""
    assert section.refiner
    first: Any = sdxl.load_pipeline(ModelSection(base=str(base)), "fp32", CPU)
    Painter(first, section)  # sets the sampler
    second: Any = StableDiffusionXLImg2ImgPipeline.from_pretrained(refiner, add_watermarker=False)
    second.scheduler = type(first.scheduler).from_config(first.scheduler.config)
    common = {
        "prompt": [job.text for job in jobs],
        "negative_prompt": [section.negative_prompt] * len(jobs),
        "num_inference_steps": section.num_inference_steps,
        "guidance_scale": section.guidance_scale,
        "output_type": "latent",
    }
    handed_over, size = section.refiner.high_noise_frac, {"height": 32, "width": 32}
    noise = [torch.Generator().manual_seed(job.seed) for job in jobs]
    latents = first(**common, **size, generator=noise, denoising_end=handed_over).images
    refined = second(**common, image=latents, denoising_start=handed_over).images
    scaled = refined / second.vae.config.scaling_factor
    with torch.no_grad():
        decoded = [second.vae.decode(row[None]).sample for row in scaled]
    return [np.asarray(second.image_processor.postprocess(pixels, output_type="pil")[0]) for pixels in decoded]


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_the_pictures_are_those_of_diffusers_documented_two_calls(
    base: Path, refiner: Path, tmp_path: Path, scheduler: str
):
    section = _section(refiner, scheduler=scheduler)
    drawn = _drawn(BatchDrawing(section, CPU, tmp_path), base)
    expected = _documented(base, refiner, section, JOBS[:2])
    assert [drawn[job] for job in JOBS[:2]] == [picture.tobytes() for picture in expected]
    unrefined = _drawn(BatchDrawing(section.at_resolution(None), CPU, tmp_path), base)
    assert all(drawn[job] != unrefined[job] for job in JOBS)
    assert list(tmp_path.iterdir()) == []  # no latents are left


def test_the_base_model_is_gone_before_the_refiner_is_loaded_and_a_stopped_drawing_goes_on(
    base: Path, refiner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drawing = BatchDrawing(_section(refiner), CPU, tmp_path)
    expected, alive = _drawn(drawing, base), list[weakref.ref[Any]]()

    def load() -> Painter:
        pipeline = sdxl.load_pipeline(ModelSection(base=str(base)), "fp32", CPU)
        alive.append(weakref.ref(pipeline.unet))
        return Painter(pipeline, drawing.section)

    def load_second(*arguments: Any) -> Any:
        assert [reference() for reference in alive] == [None] * len(alive)
        return load_refiner(*arguments)

    gc.disable()
    try:
        monkeypatch.setattr("naruto_core.refiner.load_refiner", load_second)
        batches = drawing.draw(load, JOBS)
        next(batches)
        batches.close()  # as a stop: all latents are kept, until their pictures were taken
        assert len(alive) == 1
        assert len(list(tmp_path.iterdir())) == 3
        again = {job: picture.tobytes() for batch in drawing.draw(load, JOBS) for job, picture in batch}
    finally:
        gc.enable()
    assert again == expected
    assert len(alive) == 1, "the first stage was drawn twice"


def test_what_is_no_refiner_or_lacks_a_weight_is_refused_in_one_sentence(base: Path, refiner: Path, tmp_path: Path):
    with pytest.raises(ModelUnusable, match="is an SDXL base model, not its refiner"):
        load_refiner(RefinerSection(base=str(base)), "fp32", CPU)
    check_refiner(RefinerSection(base=str(refiner)))
    with pytest.raises(ModelUnusable, match="is an SDXL base model, not its refiner"):
        check_refiner(RefinerSection(base=str(base)))
    with pytest.raises(ModelUnusable, match="there is no model folder"):
        check_refiner(RefinerSection(base=str(tmp_path / "gone")))
    file = refiner / "unet" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    try:
        save_file({name: w for name, w in load_file(file).items() if name != "conv_in.weight"}, file, {"format": "pt"})
        with pytest.raises(ModelUnusable, match=r"unet.*: its files lack 1 weight, first conv_in\.weight"):
            load_refiner(RefinerSection(base=str(refiner)), "fp32", CPU)
    finally:
        file.write_bytes(whole)


def test_a_recipe_with_a_refiner_reads_75_tokens():
    with pytest.raises(ValueError, match="the refiner reads 75 tokens"):
        _section(Path("refiner"), max_token_length=150)


def test_the_model_cards_code_draws_both_stages(
    base: Path, refiner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    section = _section(refiner, batch_size=1)
    changes = {
        "model.base": str(base),
        "generation": section.model_dump(mode="json"),
        "training.mixed_precision": "fp32",
    }
    recipe = choose_recipe("mini", None, changes)
    code = diffusers_code(recipe, "a-run", WeightFiles({}, None), JOBS[0].text, JOBS[0].seed, {})
    for folder in (base, refiner):  # the only things that a reader has to fill in
        code = code.replace(f"path/to/{folder.name}", str(folder))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    drawn = _drawn(BatchDrawing(section, CPU, tmp_path / "latents"), base)
    with Image.open(tmp_path / "picture.png") as picture:
        expected = np.frombuffer(drawn[JOBS[0]], np.uint8).astype(int)
        assert np.abs(np.asarray(picture).ravel() - expected).max() <= 1


def test_a_cached_picture_of_another_refiner_in_the_same_folder_is_not_used(base: Path, refiner: Path, tmp_path: Path):
    copy, job = tmp_path / "refiner", JOBS[0]
    shutil.copytree(refiner, copy)

    def cache() -> PictureCache:
        return PictureCache(tmp_path / "cache", ModelSection(base=str(base)), _section(copy, batch_size=1), CPU)

    drawn = dict(pair for batch in cache().draw([job]) for pair in batch.items())
    assert cache().find([job]) == drawn
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight + 0.01 for name, weight in load_file(file).items()}, file, {"format": "pt"})
    assert cache().find([job]) == {}
