"""A picture depends on its prompt and seed, and on nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from PIL import Image

from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.recipe_sections import GenerationSection
from naruto_core.sdxl import locate
from tests.naruto_core.conftest import MINIATURE

SECTION = GenerationSection(
    suite="konoha-v1",
    resolution=128,
    num_inference_steps=4,
    guidance_scale=4.0,
    negative_prompt="low quality",
    batch_size=3,
    mixed_precision="bf16",
)
JOBS = [
    Job(f"a flat drawing of a person with {colour} hair", seed) for seed, colour in enumerate(("red", "blue", "pink"))
]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_picture_is_the_same_in_any_company(load_miniature, precision: str):
    small = {"mixed_precision": precision, "resolution": 32, "num_inference_steps": 3}
    painter = Painter(load_miniature(), SECTION.model_copy(update=small))
    together = painter.paint(JOBS)
    for job, picture in zip(JOBS, together, strict=True):
        assert painter.paint([job])[0].tobytes() == picture.tobytes()
    backwards = painter.paint(JOBS[::-1])
    assert [p.tobytes() for p in backwards[::-1]] == [p.tobytes() for p in together]


def test_pictures_equal_those_of_the_plain_pipeline(load_miniature):
    ours = Painter(load_miniature(), SECTION.model_copy(update={"mixed_precision": "fp32"})).paint(JOBS)
    folder, _ = locate(MINIATURE.base, None)
    plain = StableDiffusionXLPipeline.from_pretrained(folder)
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    plain.set_progress_bar_config(disable=True)

    theirs = plain(
        prompt=[job.text for job in JOBS],
        negative_prompt=["low quality"] * 3,
        num_inference_steps=4,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(job.seed) for job in JOBS],
    ).images
    for mine, other in zip(ours, theirs, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(other, dtype=int)).max() <= 1


def test_on_step_is_called_at_every_step(load_miniature):
    steps: list[int] = []
    Painter(load_miniature(), SECTION).paint(JOBS[:1], steps.append)
    assert steps == [1, 2, 3, 4]


def test_a_saved_picture_carries_its_recipe_and_nothing_of_the_clock(tmp_path: Path):
    picture = Image.new("RGB", (8, 8), "teal")
    facts = {"prompt": "naïve <b>ninja</b> 忍者", "seed": 7}
    save_picture(picture, tmp_path / "a.png", facts)
    save_picture(picture, tmp_path / "b.png", facts)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as stored:
        assert json.loads(stored.text["naruto"]) == facts  # type: ignore[attr-defined]


def test_a_sample_id_is_stable_and_opaque():
    identifier = sample_id("2026-11-23-mini-3f9c", "fused", "report-portrait", 11)
    assert identifier == sample_id("2026-11-23-mini-3f9c", "fused", "report-portrait", 11)
    assert identifier != sample_id("2026-11-23-mini-3f9c", "base", "report-portrait", 11)
    assert len(identifier) == 20
    assert not any(word in identifier for word in ("fused", "mini", "report"))
