"""Host memory of the full-size model in half precision: a folder of random weights is loaded, adapted and fused.

On a GPU the weights leave the host's memory after each part; here all of it stays in it, so this is an upper bound for
a machine with a GPU (Colab's has 12.7 GiB). Needs 14 GB of disk for the folder and the fused model. Ends with JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from naruto_core import devices, sdxl
from naruto_core.adapter_file import write_adapter
from naruto_core.artifacts import LORA_FILE
from naruto_core.fusion import ScaledAdapter, fuse_adapters
from naruto_core.recipe import read_recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.training.lora import add_adapters
from tests.benchmarks.full_size import full_size_pipeline

CPU, T4 = torch.device("cpu"), Path(__file__).parents[2] / "flows" / "recipes" / "t4.yaml"


class Peak:
    """The peak of this process's own memory, sampled 50 times a second: mapped files, which the kernel may drop, do
    not count."""

    def __init__(self) -> None:
        self.kib = 0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            own = next(line for line in lines if line.startswith("RssAnon:"))
            self.kib = max(self.kib, int(own.split()[1]))
            time.sleep(0.02)

    @property
    def gib(self) -> float:
        return round(self.kib / 2**20, 2)


def build(folder: Path) -> dict[str, float]:
    """Write a full-size pipeline of random weights, and an adapter of the recipe `t4` for it."""
    peak = Peak()
    pipeline = full_size_pipeline(torch.float16, CPU)
    pipeline.save_pretrained(folder / "base", safe_serialization=True)
    add_adapters(pipeline, read_recipe(T4).training)
    write_adapter(pipeline, folder / "adapter" / LORA_FILE)
    return {"peak_gib": peak.gib}


def fuse(folder: Path) -> dict[str, float]:
    """Load the folder, then merge the adapter and write the fused model, in the precision that a GPU uses."""
    devices.weights_dtype = lambda precision, device: torch.float16  # on a CPU it would be fp32, twice as much
    peak, began = Peak(), time.monotonic()
    pipeline = sdxl.load_pipeline(ModelSection.model_validate({"base": str(folder / "base")}), "fp16", CPU)
    loaded, seconds = peak.gib, round(time.monotonic() - began, 1)
    fuse_adapters(pipeline, [ScaledAdapter(folder / "adapter")], folder / "fused")
    return {"load_gib": loaded, "load_seconds": seconds, "fuse_gib": peak.gib}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--step", choices=("build", "fuse"), help="one step alone, in --folder")
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    if chosen.step:
        print(json.dumps({"build": build, "fuse": fuse}[chosen.step](chosen.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        measured: dict[str, float] = {}
        for step in ("build", "fuse"):  # each in a process of its own, because a peak never falls
            command = [sys.executable, "-m", "tests.benchmarks.bench_host_memory", "--step", step, "--folder", folder]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps({"bench": "host-memory"} | measured))


if __name__ == "__main__":
    main()
