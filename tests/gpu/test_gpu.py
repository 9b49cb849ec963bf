"""On a GPU (`make test-gpu`; elsewhere all are skipped): the miniature in fp16, through the same code as SDXL.

What a CPU cannot show: half-precision weights without autocast, a GradScaler, memory that is freed and stays below the
estimate, batches whose pictures do not depend on each other, and a CPU's pictures up to rounding.
"""

import gc
import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from flows.profiles import choose_recipe
from naruto_core import devices, sdxl
from naruto_core.artifacts import Layout
from naruto_core.domain import Variant
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import GenerationSection
from naruto_core.sampling import SamplerName
from naruto_core.store.database import open_store
from naruto_core.training.memory import plan_memory
from tests.flows.conftest import SMALL

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine shows no CUDA device")

HALF = {"training.mixed_precision": "fp16", "generation.mixed_precision": "fp16"}
CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
PROMPTS = ("a person in the rain", "a ninja with blond hair", "a girl by the sea", "an old man in a garden")
LARGEST_DIFFERENCE = 3.0  # of 255, in the mean: fp16 against fp32
Run = tuple[Path, str]


@pytest.fixture(scope="module")
def run(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """(NARUTO_HOME, run id) of a small run on the GPU."""
    from flows.train_naruto import train_naruto

    home = tmp_path_factory.mktemp("gpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        patch.setenv("NARUTO_DEVICE", str(CUDA))
        return home, train_naruto("mini", None, SMALL | HALF | {"generation.variants": ["base", "adapted", "fused"]})


def _section(**changes: Any) -> GenerationSection:
    small = {"num_inference_steps": 6, "batch_size": 4, "mixed_precision": "fp16"}
    return choose_recipe("mini", None, None).generation.model_copy(update=small | changes)


def _painter(device: torch.device, section: GenerationSection) -> Painter:
    model = choose_recipe("mini", None, None).model
    return Painter(sdxl.load_pipeline(model, section.mixed_precision, device), section)


def _difference(first: Image.Image, second: Image.Image) -> float:
    """The mean absolute difference of two pictures, of 255."""
    return float(np.abs(np.asarray(first, np.float32) - np.asarray(second, np.float32)).mean())


def test_the_whole_run_ends_with_finite_weights_and_scores(run: Run):
    home, run_id = run
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        scores, steps = store.scores(run_id), store.steps(run_id)
        assert {score.metric for score in scores} >= {"fd-judge", "mmd", "clip"}
        assert all(math.isfinite(score.value) for score in scores)
        assert len(steps) == SMALL["training.max_train_steps"]
    weights = load_file(Layout(home).adapter(run_id))
    assert all(np.isfinite(weight).all() for weight in weights.values())
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)


def test_the_fused_model_draws_what_the_adapter_draws(run: Run):
    home, run_id = run
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        drawn = {
            variant: {(s.prompt, s.seed): home / s.path for s in store.samples(run_id, variant)}
            for variant in (Variant.ADAPTED, Variant.FUSED)
        }
    for key, path in drawn[Variant.ADAPTED].items():
        assert _difference(Image.open(path), Image.open(drawn[Variant.FUSED][key])) < LARGEST_DIFFERENCE


def test_a_gpu_draws_the_pictures_of_a_cpu_up_to_rounding():
    jobs = [Job(prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    on_cpu = _painter(CPU, _section(mixed_precision="fp32")).paint(jobs)
    on_gpu = _painter(CUDA, _section()).paint(jobs)
    assert max(map(_difference, on_cpu, on_gpu)) < LARGEST_DIFFERENCE


def test_a_picture_does_not_depend_on_the_others_in_its_batch():
    painter = _painter(CUDA, _section())
    together = painter.paint([Job(prompt, 1) for prompt in PROMPTS])
    alone = [painter.paint([Job(prompt, 1)])[0] for prompt in PROMPTS]
    assert [picture.tobytes() for picture in together] == [picture.tobytes() for picture in alone]


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_every_sampler_draws_finite_pictures_in_fp16(name: SamplerName):
    (picture,) = _painter(CUDA, _section(scheduler=name)).paint([Job(PROMPTS[0], 0)])
    assert np.asarray(picture).std() > 1  # neither black nor one colour


def test_half_precision_weights_are_used_without_autocast():
    painter = _painter(CUDA, _section())
    assert {p.dtype for p in painter.pipeline.unet.parameters()} == {torch.float16}
    with painter.inference():
        assert not torch.is_autocast_enabled("cuda")


def test_training_takes_no_more_memory_than_was_estimated(prefect_server: None, tmp_path: Path):
    from flows.train_naruto import train_naruto

    recipe = choose_recipe("mini", None, SMALL | HALF)
    plan = plan_memory(recipe.model, recipe.training, recipe.generation, CUDA, devices.available_memory(CUDA))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(CUDA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(tmp_path))
        patch.setenv("NARUTO_DEVICE", str(CUDA))
        train_naruto("mini", None, SMALL | HALF | {"training.seed": 7})
    assert torch.cuda.max_memory_allocated(CUDA) <= max(plan.needs.values())


def test_a_pipeline_leaves_no_memory_behind():
    def allocated() -> int:
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_allocated(CUDA)

    before = allocated()
    painter = _painter(CUDA, _section())
    painter.paint([Job(PROMPTS[0], 0)])
    assert allocated() > before
    del painter
    assert allocated() <= before + 2**20
