"""Optimizer steps per second of our loop against a plain PEFT loop, on the miniature, in one process.

Same base, pictures, effective batch, LoRA rank, optimizer and fp32 weights, no prior; ours computes in bf16 as
its recipe says. The plain loop does what a notebook does: batch 1 accumulated, VAE and text
encoders run again for every picture.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from prodigyopt import Prodigy
from torch.nn import functional as F

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.mini.measure import drawings
from naruto_core.training.batches import TrainingData
from naruto_core.training.conditioning import encode_texts, join_caption, time_ids
from naruto_core.training.examples import Captioned, encode_examples
from naruto_core.training.loop import train_adapter
from naruto_core.training.lora import add_adapters, trainable
from naruto_core.training.prodigy import FlatProdigy

STEPS, PICTURES, ROUNDS = 40, 48, 3
CPU = torch.device("cpu")
PIXELS, SCENES = drawings("naruto", PICTURES, seed=1)
CAPTIONS = [f"with {scene.characters[0].hair} hair" for scene in SCENES]


def _ignore(_: object) -> None: ...


def ours() -> float:
    """Seconds for STEPS steps of the `mini` recipe, encoding included."""
    recipe = choose_recipe(
        "mini", overrides={"training.max_train_steps": STEPS, "training.prior": None, "training.validation": None}
    )
    pipeline = sdxl.load_pipeline(recipe.model, recipe.training.mixed_precision, CPU)

    def read(name: str) -> Captioned:
        return Captioned(name, CAPTIONS[int(name)], PIXELS[int(name)], (64, 64), (0, 0))

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        names = [str(i) for i in range(PICTURES)]
        prompt = recipe.training.instance_prompt
        examples = encode_examples(pipeline, names, read, prompt, Path(folder) / "cache", _ignore)
        checkpoint = Path(folder) / "checkpoint.safetensors"
        train_adapter(pipeline, TrainingData(examples), recipe.training, checkpoint, 10.0, "bench", _ignore, _ignore)
        return time.perf_counter() - began


def plain() -> float:
    """Seconds for STEPS steps of as many accumulated pictures, everything encoded as it comes."""
    recipe = choose_recipe("mini")
    size = recipe.training.train_batch_size
    pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
    add_adapters(pipeline, recipe.training.rank, recipe.training.rank, text_encoders=False, seed=0)
    weights = list(trainable(pipeline).values())
    optimizer = Prodigy(weights, lr=1.0, weight_decay=1e-4, use_bias_correction=True, safeguard_warmup=True)
    alphas, ids = pipeline.scheduler.alphas_cumprod, torch.tensor([time_ids((64, 64), (0, 0), 64)])
    began = time.perf_counter()
    for step in range(STEPS):
        for micro in range(size):
            index = (size * step + micro) % PICTURES
            pixels = torch.from_numpy(PIXELS[index]).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.no_grad():
                clean = pipeline.vae.encode(pixels).latent_dist.sample() * pipeline.vae.config.scaling_factor
                text = encode_texts(pipeline, [join_caption(recipe.training.instance_prompt, CAPTIONS[index])])
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
    """Seconds a step on as many tensors, of the same sizes, as a rank-4 adapter of full-size SDXL has."""
    torch.manual_seed(0)
    widths = [640] * 80 + [1280] * 480  # attention modules by their block's width
    weights = [torch.nn.Parameter(torch.randn(shape)) for w in widths for shape in ((4, w), (w, 4))]
    optimizer = make(weights)
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.add_(torch.randn_like(weight))
    optimizer.step()  # the first one makes its state
    began = time.perf_counter()
    for _ in range(steps):
        optimizer.step()
    return (time.perf_counter() - began) / steps


def optimizers() -> float:
    """How many times faster a step of our Prodigy is than of the published one."""
    settings = {"lr": 1.0, "weight_decay": 1e-4}
    pairs = [
        (
            optimizer_steps(lambda weights: FlatProdigy([{"params": weights}], **settings)),
            optimizer_steps(
                lambda weights: Prodigy(weights, use_bias_correction=True, safeguard_warmup=True, **settings)
            ),
        )
        for _ in range(ROUNDS)
    ]
    for mine, theirs in pairs:
        print(f"Prodigy step, 1,120 tensors: flat {1000 * mine:6.1f} ms    prodigyopt {1000 * theirs:6.1f} ms")
    return sorted(theirs / mine for mine, theirs in pairs)[ROUNDS // 2]


def main() -> None:
    """Alternate both; print the median ratios as JSON."""
    prodigy = optimizers()
    pairs = [(ours(), plain()) for _ in range(ROUNDS)]
    for mine, theirs in pairs:
        print(f"ours {STEPS / mine:6.2f} steps/s    plain PEFT loop {STEPS / theirs:6.2f} steps/s")
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    median = round(ratios[len(ratios) // 2], 2)
    found = {"steps": STEPS, "ours_over_plain_loop": median, "flat_prodigy_over_prodigyopt": round(prodigy, 2)}
    print(json.dumps({"bench": "train"} | found))


if __name__ == "__main__":
    main()
