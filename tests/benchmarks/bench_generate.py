"""Pictures per second of the Painter against the plain loop `pipe(prompt)`, on the miniature, in one process.

Both draw the same prompts and seeds with the recipe's sampler, steps and guidance. The plain loop is what
the project report did: one call a picture, fp32 on a CPU.
"""

import json
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import StableDiffusionXLPipeline

from flows.profiles import choose_recipe, choose_suite
from naruto_core import sdxl
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import GenerationSection

PICTURES, ROUNDS = 16, 3


def plain_loop(pipeline: StableDiffusionXLPipeline, section: GenerationSection, jobs: list[Job]) -> None:
    """One call a picture, with the choices of `section`; the sampler is the pipeline's."""
    for job in jobs:
        pipeline(
            job.text,
            height=section.resolution,
            width=section.resolution,
            negative_prompt=section.negative_prompt,
            num_inference_steps=section.num_inference_steps,
            guidance_scale=section.guidance_scale,
            generator=torch.Generator().manual_seed(job.seed),
        )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Alternate both, so that a drifting machine slows both; print the median ratio as JSON."""
    recipe, cpu = choose_recipe("mini"), torch.device("cpu")
    prompts = choose_suite(recipe.generation).prompts
    jobs = [Job(prompts[i % len(prompts)].text, i) for i in range(PICTURES)]
    painter = Painter(sdxl.load_pipeline(recipe.model, "bf16", cpu), recipe.generation)
    plain = sdxl.load_pipeline(recipe.model, "fp32", cpu)
    plain.scheduler = painter.pipeline.scheduler
    painter.paint(jobs)
    loop = partial(plain_loop, plain, recipe.generation)
    loop(jobs[:1])
    pairs = [(_seconds(lambda: painter.paint(jobs)), _seconds(lambda: loop(jobs))) for _ in range(ROUNDS)]
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    for ours, theirs in pairs:
        print(f"painter {PICTURES / ours:6.2f} pictures/s    plain loop {PICTURES / theirs:6.2f} pictures/s")
    median = round(ratios[len(ratios) // 2], 2)
    print(json.dumps({"bench": "generate", "pictures": PICTURES, "painter_over_plain_loop": median}))


if __name__ == "__main__":
    main()
