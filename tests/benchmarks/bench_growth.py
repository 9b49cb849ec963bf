"""What once, ten and a hundred times the pictures cost: encoding, starting again, a step, memory.

Each size in a process of its own, on the miniature. The drawings repeat (drawing is not what is measured); every
one is encoded and stored on its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.training.batches import StyleData, TrainingData
from naruto_core.training.latent_cache import CaptionedPicture, EncodingOptions, encode_examples
from naruto_core.training.step import Trainer
from tests.benchmarks.pictures import draw_pictures

SIZES, STEPS = (48, 480, 4800), 12
CPU = torch.device("cpu")


def _ignore(_: object) -> None: ...


def _anonymous() -> float:
    """Memory of this process that no file stands behind, in MiB."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def measure(size: int) -> dict[str, float]:
    """Milliseconds and MiB for `size` pictures."""
    changes = {"training.prior": None, "training.validation": None, "training.max_train_steps": STEPS}
    recipe = choose_recipe("mini", overrides=changes)
    shown = draw_pictures("naruto", SIZES[0], 1, recipe.training.instance_prompt)
    pipeline = sdxl.load_pipeline(recipe.model, recipe.training.mixed_precision, CPU)

    def read(name: str, _view: int) -> CaptionedPicture:
        index = int(name) % SIZES[0]
        return CaptionedPicture(name, shown.texts[index], shown.pixels[index], (64, 64), (0, 0))

    with tempfile.TemporaryDirectory() as folder:
        names, seconds = [str(index) for index in range(size)], []
        for _ in range(2):  # the second time everything is there
            began = time.perf_counter()
            examples = encode_examples(pipeline, [names], read, EncodingOptions(""), Path(folder), _ignore)
            data = TrainingData(STEPS, (StyleData(examples),))
            seconds.append(time.perf_counter() - began)
        run = Trainer(pipeline, [data], recipe.training, {})
        run.optimizer_step(0)
        began = time.perf_counter()
        for step in range(1, STEPS):
            run.optimizer_step(step)
        step_time = (time.perf_counter() - began) / (STEPS - 1)
    found = {"encode_ms_each": seconds[0] / size, "start_again_ms": seconds[1], "step_ms": step_time}
    return {name: round(1000 * value, 2) for name, value in found.items()} | {"memory_mib": round(_anonymous())}


def main() -> None:
    """Print a line for each size, and the last against the first as JSON."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_growth"]
    found: list[dict[str, float]] = []
    for size in SIZES:
        done = subprocess.run([*command, str(size)], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        print(f"{size:5} pictures  {found[-1]}")
    ratios = {f"{name}_100x_over_1x": round(found[-1][name] / found[0][name], 2) for name in found[0]}
    print(json.dumps({"bench": "growth"} | ratios))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
    else:
        main()
