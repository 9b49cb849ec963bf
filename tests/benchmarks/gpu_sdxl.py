"""Full-size SDXL (random weights, 256 pixels) through the training loop on one device.

On CUDA: seconds a step and peak memory of the `t4` recipe ("report"), of the same effective batch in one piece
without checkpointing ("fast"), and of a plain PEFT loop, in turn. On a CPU: that two steps fit, and that both
adapter files have every name, shape and number of the real size (`file_check`).

Needs of the packages only torch, diffusers, transformers, peft, accelerate, safetensors, prodigyopt, pydantic,
pyyaml, numpy and pillow: `python -m tests.benchmarks.gpu_sdxl` from a checkout.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from naruto_core import devices
from naruto_core.artifacts import LORA_FILE
from naruto_core.generation import Job, Painter
from naruto_core.kohya import write_kohya
from naruto_core.recipe import Recipe, read_recipe
from naruto_core.training.batches import StyleData, TrainingData
from naruto_core.training.latent_cache import CaptionedPicture, EncodingOptions, encode_examples
from naruto_core.training.loop import TrainingCallbacks, TrainingJob, train_adapter
from naruto_core.training.weights import Weights, write_files
from tests.benchmarks.file_check import check_files
from tests.benchmarks.full_size import full_size_pipeline, write_configurations
from tests.benchmarks.meter import WARM_UP, Meter, Pace
from tests.benchmarks.plain_sdxl import CAPTION, CLASS_PROMPT, plain_steps

T4 = Path(__file__).parents[2] / "flows" / "recipes" / "t4.yaml"
FAST = {
    "training.train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "training.prior.class_batch_size": 4,
    "training.gradient_checkpointing": False,
}
PICTURES, CPU_STEPS, CPU_LIMIT = 16, 2, 20.0  # the limit in GiB


@dataclass(frozen=True, slots=True)
class Trained:
    """A pipeline with its adapter, and the adapter's two files."""

    pipeline: StableDiffusionXLPipeline
    weights: Weights
    own: Path
    kohya: Path


def captioned(name: str, _view: int = 0) -> CaptionedPicture:
    pixels = np.random.default_rng(int(name)).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    return CaptionedPicture(name, CAPTION, pixels, (256, 256), (0, 0))


def class_picture(name: str, _view: int = 0) -> CaptionedPicture:
    pixels = captioned(str(1000 + int(name))).pixels
    return CaptionedPicture(name, CLASS_PROMPT, pixels, (256, 256), (0, 0))


def ours(recipe: Recipe, meter: Meter, then: Callable[[Trained], None]) -> Pace:
    """Encode, train and save as the recipe says, and `then` something with what was trained."""
    section, pace, names = recipe.training, Pace(meter), [[str(i) for i in range(PICTURES)]]
    dtype = devices.half(section.mixed_precision)
    assert dtype is not None
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with meter.phase("build"):
            pipeline = full_size_pipeline(dtype, meter.device)
        with meter.phase("encode"):
            frozen = section.text_encoder_lr is None
            how, alone = EncodingOptions(section.instance_prompt, frozen), EncodingOptions("", frozen)
            pictures = encode_examples(pipeline, names, captioned, how, folder / "new", _ignore)
            classes = encode_examples(pipeline, names, class_picture, alone, folder / "class", _ignore)
        with meter.phase("train"):
            stage = TrainingData(section.max_train_steps, (StyleData(pictures),), classes)
            callbacks, checkpoint = TrainingCallbacks(_ignore, pace.heard), folder / "checkpoint.safetensors"
            job = TrainingJob(section, {}, checkpoint, 1e9, "bench", callbacks)
            weights = train_adapter(pipeline, [stage], job)
        with meter.phase("save"):
            write_files(pipeline, weights, folder / "adapter")
            model = write_configurations(folder / "base")
            write_kohya(folder / "adapter" / LORA_FILE, folder / "kohya.safetensors", {}, model)
        assert np.isfinite(pace.losses).all(), pace.losses
        then(Trained(pipeline, weights, folder / "adapter" / LORA_FILE, folder / "kohya.safetensors"))
    return pace


def _ignore(_: object) -> None: ...


def on_cpu(device: torch.device) -> None:
    """Two steps of the `t4` recipe in bf16; fails when they need more than CPU_LIMIT GiB, or a file is not right."""
    changes = {"training.mixed_precision": "bf16", "training.max_train_steps": CPU_STEPS}
    meter = Meter(device)

    def read_back(trained: Trained) -> None:
        with meter.phase("read back"):
            check_files(trained.pipeline, trained.weights, trained.own, trained.kohya)

    ours(read_recipe(T4, changes), meter, read_back)
    seconds = round(meter.seconds["train"] / CPU_STEPS, 1)
    peaks = {name: round(peak, 2) for name, (peak, _) in meter.peaks.items()}
    print(json.dumps({"bench": "sdxl", "device": "cpu", "seconds_a_step": seconds, "peak_gib": peaks}))
    if max(peaks.values()) > CPU_LIMIT:
        raise SystemExit(f"{max(peaks.values())} GiB is more than {CPU_LIMIT}")


def on_cuda(device: torch.device, steps: int, rounds: int) -> None:
    """All three in turn, `rounds` times; a table and, as JSON, how many times faster than the plain loop ours is."""
    length = {"training.max_train_steps": WARM_UP + steps}
    recipes = {"report": read_recipe(T4, length), "fast": read_recipe(T4, length | FAST)}
    section, name = recipes["report"].training, torch.cuda.get_device_name(device)
    meters = {method: Meter(device) for method in (*recipes, "plain")}
    seconds: dict[str, list[float]] = {method: [] for method in meters}

    def paint(trained: Trained) -> None:
        """Two batches by the report's recipe, the adapter beside the weights, as previews are; the second counts."""
        drawing = recipes["report"].generation
        with meters["report"].phase("warm up"):
            painter = Painter(trained.pipeline.to(device), drawing)
            painter.paint([Job(CAPTION, 0)] * drawing.batch_size)
        with meters["report"].phase("sample"):
            painter.paint([Job(CAPTION, 1)] * drawing.batch_size)

    print(name, flush=True)
    for turn in range(rounds):
        for method, meter in meters.items():
            print(f"{method}, round {turn + 1} of {rounds}", flush=True)
            if method in recipes:
                last = paint if method == "report" and turn == 0 else _ignore
                seconds[method].append(ours(recipes[method], meter, last).seconds_a_step())
                continue
            with meter.phase("build"):
                pipeline = full_size_pipeline(torch.float16, device)
            with meter.phase("train"):
                seconds[method].append(plain_steps(pipeline, section, WARM_UP, steps, meter.wait))
            del pipeline
    middle = {method: median(found) for method, found in seconds.items()}
    phases = ("encode", "train", "save", "sample")
    print(f"\n{name}; GiB in tensors / taken from the device")
    print("  ".join([f"{'':8}", "s/step", "pictures/s", *(f"{phase:>13}" for phase in phases)]))
    for method, meter in meters.items():
        peaks = [f"{meter.told(phase):>13}" for phase in phases]
        speed = section.effective_batch_size / middle[method]
        print("  ".join([f"{method:8}", f"{middle[method]:6.3f}", f"{speed:10.2f}", *peaks]))
    ratios = {f"{method}_over_plain": round(middle["plain"] / middle[method], 2) for method in ("fast", "report")}
    gib = {m: {p: [round(one, 2) for one in peak] for p, peak in meter.peaks.items()} for m, meter in meters.items()}
    drawing = recipes["report"].generation
    told: dict[str, object] = {"bench": "sdxl", "device": name, "steps": steps, "rounds": rounds} | ratios
    told["seconds_a_step"] = {method: round(found, 3) for method, found in middle.items()}
    told["seconds_a_picture"] = round(meters["report"].seconds["sample"] / drawing.batch_size, 2)
    told["picture"] = f"{drawing.resolution} px, {drawing.num_inference_steps} steps"
    print(json.dumps(told | {"peak_gib": gib}))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    options.add_argument("--steps", type=int, default=20, help="on CUDA: steps measured, after a warm-up")
    options.add_argument("--rounds", type=int, default=3, help="on CUDA: how often each is measured")
    chosen = options.parse_args()
    device = devices.pick_device(chosen.device)
    if device.type == "cpu":
        on_cpu(device)
    else:
        on_cuda(device, chosen.steps, chosen.rounds)


if __name__ == "__main__":
    main()
