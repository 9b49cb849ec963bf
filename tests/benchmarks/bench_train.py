"""Optimizer steps per second of our loop against two others, on the miniature, on a CPU.

Against a plain PEFT loop: same base, pictures, effective batch, LoRA rank, optimizer and fp32 weights, no
prior; ours computes in bf16 as its recipe says. The plain loop does what a notebook does: batch 1
accumulated, VAE and text encoders run again for every picture.

Against diffusers' own script, when its path is given: ours once with the very same settings (`report`), once
with the effective batch in one piece and nothing recomputed (`fast`). Our seconds hold the encoding of all
pictures and the making of the optimizer; the script's begin after its first step.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from prodigyopt import Prodigy
from torch.nn import Parameter
from torch.nn import functional as F

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.adapter_file import write_adapter
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import ATTENTION
from naruto_core.text_encoding import encode_texts
from naruto_core.training.batches import StyleData, TrainingData
from naruto_core.training.latent_cache import time_ids
from naruto_core.training.loop import TrainingCallbacks, TrainingJob, train_adapter
from naruto_core.training.lora import add_adapters, trainable
from naruto_core.training.optimizer import GroupProdigy, flatten_parameters
from tests.benchmarks.diffusers_script import ScriptUnfitError, adapter_validation_loss, check_script, run_script
from tests.benchmarks.pictures import SIZE, draw_class_pictures, draw_pictures

STEPS, SCRIPT_STEPS, PICTURES, ROUNDS = 40, 100, 48, 3
CPU = torch.device("cpu")
CLASS_PROMPT = "a flat drawing of a person"
NARUTO = choose_recipe("mini").training.instance_prompt
SHOWN = draw_pictures("naruto", PICTURES, 1, NARUTO)
CLASS = draw_class_pictures("flat", PICTURES, 3, CLASS_PROMPT)
HELD_OUT = draw_pictures("naruto", 32, 2, NARUTO)


def _ignore(_: object) -> None: ...


def _mini(steps: int, **training: Any) -> Recipe:
    """The `mini` recipe for `steps` steps, without prior and validation unless `training` says otherwise."""
    chosen = {"max_train_steps": steps, "prior": None, "validation": None, "resolution": SIZE} | training
    chosen["lora_layers"] = ATTENTION  # as diffusers' script, which trains no convolutions
    return choose_recipe("mini", overrides={f"training.{name}": value for name, value in chosen.items()})


def _as_in_the_report(batch: int, accumulation: int, checkpointing: bool) -> Recipe:
    """Text encoders trained, rank 4, prior preservation with as many class pictures in a batch as new ones."""
    prior = {"class_prompts": [CLASS_PROMPT], "num_class_images": PICTURES, "class_batch_size": batch}
    return _mini(
        SCRIPT_STEPS,
        train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        gradient_checkpointing=checkpointing,
        text_encoder_lr=1.0,
        rank=4,
        prior=prior | {"prior_loss_weight": 1.0},
    )


REPORT, FAST = _as_in_the_report(1, 4, checkpointing=True), _as_in_the_report(4, 1, checkpointing=False)


def ours(recipe: Recipe, adapter: Path | None = None) -> float:
    """Seconds for the steps of `recipe`, encoding included; the adapter is written as `adapter`, if given."""
    section = recipe.training
    pipeline = sdxl.load_pipeline(recipe.model, section.mixed_precision, CPU)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.perf_counter()
        frozen = section.text_encoder_lr is None
        class_pictures = CLASS.encoded(pipeline, folder / "class", frozen) if section.prior else None
        shown = StyleData(SHOWN.encoded(pipeline, folder / "shown", frozen))
        stages = [TrainingData(section.max_train_steps, (shown,), class_pictures)]
        checkpoint = folder / "checkpoint.safetensors"
        callbacks = TrainingCallbacks(_ignore, _ignore)
        train_adapter(pipeline, stages, TrainingJob(section, {}, checkpoint, 1e9, "bench", callbacks))
        seconds = time.perf_counter() - began
    if adapter:
        write_adapter(pipeline, adapter)
    return seconds


def plain() -> float:
    """Seconds for STEPS steps of as many accumulated pictures, everything encoded as it comes."""
    recipe = _mini(STEPS)
    size = recipe.training.train_batch_size
    pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
    add_adapters(pipeline, recipe.training)
    weights = list(trainable(pipeline).values())
    optimizer = Prodigy(weights, lr=1.0, weight_decay=1e-4, use_bias_correction=True, safeguard_warmup=True)
    alphas, ids = pipeline.scheduler.alphas_cumprod, torch.tensor([time_ids((SIZE, SIZE), (0, 0), (SIZE, SIZE))])
    began = time.perf_counter()
    for step in range(STEPS):
        for micro in range(size):
            index = (size * step + micro) % PICTURES
            pixels = torch.from_numpy(SHOWN.pixels[index]).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                clean = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
                text = encode_texts(pipeline, [SHOWN.texts[index]])
            noise, t = torch.randn_like(clean), torch.randint(0, 1000, (1,))
            noisy = alphas[t].sqrt() * clean + (1 - alphas[t]).sqrt() * noise
            condition = {"text_embeds": text.pooled, "time_ids": ids}
            predicted = pipeline.unet(noisy, t, text.hidden, added_cond_kwargs=condition).sample
            (F.mse_loss(predicted, noise) / size).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began


def optimizer_steps(make: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], steps: int = 5) -> float:
    """Seconds a step on the 1,120 tensors of a rank-4 adapter of full-size SDXL, held as `make` likes."""
    torch.manual_seed(0)
    widths = [640] * 80 + [1280] * 480  # attention modules by their block's width
    weights = [torch.nn.Parameter(torch.randn(shape)) for w in widths for shape in ((4, w), (w, 4))]
    optimizer = make(weights)
    for weight in optimizer.param_groups[0]["params"]:
        weight.grad = torch.randn_like(weight)
    optimizer.step()  # the first one makes its state
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    return (time.perf_counter() - began) / steps


def optimizers() -> float:
    """How many times faster Prodigy's step is over one vector than over every tensor for itself."""
    settings = {"lr": 1.0, "weight_decay": 1e-4}
    pairs = [
        (
            optimizer_steps(
                lambda w: GroupProdigy([{"params": [Parameter(flatten_parameters(w).weights)], **settings}])
            ),
            optimizer_steps(lambda w: Prodigy(w, use_bias_correction=True, safeguard_warmup=True, **settings)),
        )
        for _ in range(ROUNDS)
    ]
    for mine, theirs in pairs:
        print(
            f"Prodigy step, 1,120 tensors: one vector {1000 * mine:6.1f} ms    tensor by tensor {1000 * theirs:6.1f} ms"
        )
    return median(theirs / mine for mine, theirs in pairs)


def against_plain() -> dict[str, Any]:
    """Both in turn, so that a drifting machine slows both."""
    recipe = _mini(STEPS)
    pairs = [(ours(recipe), plain()) for _ in range(ROUNDS)]
    for mine, theirs in pairs:
        print(f"ours {STEPS / mine:6.2f} steps/s    plain PEFT loop {STEPS / theirs:6.2f} steps/s")
    return {"steps": STEPS, "ours_over_plain_loop": round(median(theirs / mine for mine, theirs in pairs), 2)}


def against_script(script: Path) -> dict[str, Any]:
    """All three in turn, then the validation loss of what each has learnt, beside the base's."""
    with tempfile.TemporaryDirectory() as name:
        rounds = [_one_round(script, Path(name) / str(index)) for index in range(ROUNDS)]
        adapters = {"base": None} | rounds[-1][1]
        losses = {
            side: adapter_validation_loss(REPORT.model, adapter, HELD_OUT, Path(name) / "held out" / side)
            for side, adapter in adapters.items()
        }
    for side, loss in losses.items():
        print(f"validation loss {side:6} {loss:.5f}    {100 * (loss / losses['script'] - 1):+.2f} % of the script's")
    return {
        "script_steps": SCRIPT_STEPS,
        "report_over_script": round(median(pace["script"] / pace["report"] for pace, _ in rounds), 2),
        "fast_over_script": round(median(pace["script"] / pace["fast"] for pace, _ in rounds), 2),
        "validation_loss": {side: round(loss, 5) for side, loss in losses.items()},
    }


def _one_round(script: Path, folder: Path) -> tuple[dict[str, float], dict[str, Path]]:
    """Seconds per step, and the adapter, of each side."""
    folder.mkdir()
    theirs = run_script(script, REPORT.model, REPORT.training, SHOWN, CLASS, folder)
    pace, adapters = {"script": theirs.seconds_per_step}, {"script": theirs.adapter}
    for side, recipe in {"report": REPORT, "fast": FAST}.items():
        adapters[side] = folder / side / "pytorch_lora_weights.safetensors"
        pace[side] = ours(recipe, adapters[side]) / SCRIPT_STEPS
    print("    ".join(f"{side} {1 / seconds:6.2f} steps/s" for side, seconds in pace.items()))
    return pace, adapters


def main(script: Path | None) -> None:
    """Print the median ratios as JSON."""
    if script:
        check_script(script)
    else:
        print("without SCRIPT=/path/to/train_dreambooth_lora_sdxl_advanced.py: diffusers' own script is left out.")
    found = {"prodigy_flat_over_single_tensors": round(optimizers(), 2)} | against_plain()
    found |= against_script(script) if script else {}
    print(json.dumps({"bench": "train"} | found))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    except ScriptUnfitError as unfit:
        sys.exit(f"error: {unfit}")
