"""Fusion by hand, and the files through vanilla diffusers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file

from naruto_core.adapter_file import write_adapter
from naruto_core.errors import ModelUnusable
from naruto_core.fusion import ScaledAdapter, fuse_adapters, load_adapters
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.sdxl import load_pipeline, locate
from naruto_core.training.lora import add_adapters, trainable
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.training.pictures import section_of

JOBS = [Job("a naruto anime character with red hair in the forest", 3), Job("a pencil sketch of a person", 4)]
SECTION = GenerationSection(
    suite="-", resolution=128, num_inference_steps=5, guidance_scale=4.0, batch_size=2, mixed_precision="fp32"
)


@pytest.fixture
def adapter(load_miniature, tmp_path: Path) -> Path:
    """An adapter with every weight set to something: rank 4, alpha 8, text encoders too."""
    pipeline = load_miniature()
    add_adapters(pipeline, section_of(rank=4, lora_alpha=8, text_encoder_lr=1.0))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trainable(pipeline).values():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    path = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    write_adapter(pipeline, path)
    return path


def _differences(first: list, second: list) -> int:
    pairs = zip(first, second, strict=True)
    return max(int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()) for a, b in pairs)


def _vanilla_pictures(pipeline: StableDiffusionXLPipeline) -> list:
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=[job.text for job in JOBS],
        negative_prompt=["", ""],
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(job.seed) for job in JOBS],
    ).images


def test_fused_weights_are_w_plus_scaled_b_a(load_miniature, adapter: Path, tmp_path: Path):
    base = load_miniature()
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    fuse_adapters(base, [ScaledAdapter(adapter.parent, 0.7)], tmp_path / "fused")
    after = load_pipeline(ModelSection(base=str(tmp_path / "fused")), "fp32", CPU).unet.state_dict()
    low_rank = load_file(adapter)
    stems = [n.removesuffix(".lora_A.weight") for n in low_rank if n.startswith("unet.") and ".lora_A." in n]
    assert len(stems) == 48  # six transformer blocks x two attentions x four projections
    changed = set()
    for stem in stems:
        name = f"{stem.removeprefix('unet.')}.weight"
        update = low_rank[f"{stem}.lora_B.weight"] @ low_rank[f"{stem}.lora_A.weight"]
        expected = before[name] + 0.7 * update  # alpha / rank is part of B
        assert torch.allclose(after[name], expected, atol=1e-6)
        changed.add(name)
    assert all(torch.equal(after[name], before[name]) for name in before.keys() - changed)


def test_adapted_fused_and_vanilla_diffusers_draw_the_same_pictures(load_miniature, adapter: Path, tmp_path: Path):
    pipeline = load_miniature()
    plain = Painter(load_miniature(), SECTION).paint(JOBS)
    load_adapters(pipeline, [ScaledAdapter(adapter.parent, 1.0)])
    adapted = Painter(pipeline, SECTION).paint(JOBS)
    fuse_adapters(load_miniature(), [ScaledAdapter(adapter.parent, 1.0)], tmp_path / "fused")
    fused = Painter(load_pipeline(ModelSection(base=str(tmp_path / "fused")), "fp32", CPU), SECTION).paint(JOBS)
    assert _differences(adapted, plain) > 30
    assert _differences(adapted, fused) <= 2

    folder, _ = locate(MINIATURE.base, None)
    vanilla = StableDiffusionXLPipeline.from_pretrained(folder)
    vanilla.load_lora_weights(adapter.parent)
    assert _differences(adapted, _vanilla_pictures(vanilla)) <= 2
    assert _differences(fused, _vanilla_pictures(StableDiffusionXLPipeline.from_pretrained(tmp_path / "fused"))) <= 2


def test_a_fresh_adapter_changes_nothing(load_miniature, tmp_path: Path):
    pipeline = load_miniature()
    plain = Painter(load_miniature(), SECTION).paint(JOBS)
    add_adapters(pipeline, section_of(rank=4))
    assert _differences(Painter(pipeline, SECTION).paint(JOBS), plain) == 0


def test_an_adapter_is_written_with_the_same_bytes_every_time(load_miniature, tmp_path: Path):
    for name in ("a", "b"):
        pipeline = load_miniature()
        add_adapters(pipeline, section_of(rank=4, text_encoder_lr=1.0))
        write_adapter(pipeline, tmp_path / name / "pytorch_lora_weights.safetensors")
    first, second = (tmp_path / n / "pytorch_lora_weights.safetensors" for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_missing_or_foreign_adapter_is_refused(load_miniature, tmp_path: Path):
    with pytest.raises(ModelUnusable, match="there is no adapter"):
        load_adapters(load_miniature(), [ScaledAdapter(tmp_path / "nothing", 1.0)])
    from safetensors.torch import save_file

    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{key}.lora_A.weight": torch.zeros(4, 999), f"{key}.lora_B.weight": torch.zeros(999, 4)}
    (tmp_path / "foreign").mkdir()
    save_file(tensors, tmp_path / "foreign" / "pytorch_lora_weights.safetensors")
    with pytest.raises(ModelUnusable, match="does not fit"):
        load_adapters(load_miniature(), [ScaledAdapter(tmp_path / "foreign", 1.0)])


def test_a_fusion_that_overflows_is_refused_and_leaves_nothing(load_miniature, adapter: Path, tmp_path: Path):
    tensors = load_file(adapter)
    from safetensors.torch import save_file

    broken = tmp_path / "broken" / "pytorch_lora_weights.safetensors"
    broken.parent.mkdir()
    save_file({name: t * float("nan") for name, t in tensors.items()}, broken)
    with pytest.raises(ModelUnusable, match="not finite"):
        fuse_adapters(load_miniature(), [ScaledAdapter(broken.parent, 1.0)], tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
