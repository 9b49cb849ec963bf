"""Scoring 400 drawn against 1,200 reference pictures: ours, cold and from kept features, against torch-fidelity.

Whole processes, imports and all; FID, KID, precision and recall; the same Inception file (random weights:
speed does not depend on them). Ours also measures everything else there is. Both read the same PNG files.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from naruto_core.mini.measure import drawings
from tests.naruto_core.scoring.inception_file import write_random_inception

DRAWN, REFERENCE = 400, 1200
THEIRS = """
import sys
from torch_fidelity import calculate_metrics
calculate_metrics(input1=sys.argv[2], input2=sys.argv[3], cuda=False, fid=True, kid=True, prc=True, kid_subset_size=400,
    feature_extractor="inception-v3-compat",
    feature_extractor_weights_path=sys.argv[1], verbose=False, cache=False, samples_find_ext="png")
"""
OURS = """
import sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from naruto_core.scoring.catalogue import SET_METRICS
from naruto_core.scoring.features import embed_pictures, load_extractor
from naruto_core.scoring.fid import fid
from naruto_core.scoring.measure import everything
weights, drawn, reference, kept = sys.argv[1:]
if not Path(kept).exists():
    extractor = load_extractor(f"inception:{weights}", torch.device("cpu"))
    found = {}
    for name, folder in (("drawn", drawn), ("reference", reference)):
        loads = [lambda p=p: Image.open(p) for p in sorted(Path(folder).glob("*.png"))]
        found[name] = embed_pictures(extractor, loads, 32, lambda _: None).astype(np.float16)
    save_file(found, kept)
rows = {name: part.astype(np.float32) for name, part in load_file(kept).items()}
for metric in SET_METRICS:
    against = rows["reference"][:400] if metric.axis == "overlap" else rows["reference"]
    metric.measure(rows["drawn"], against)(everything(400))
"""


def seconds(code: str, *arguments: str) -> float:
    """How long a process that runs `code` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)
    return time.perf_counter() - began


def write(folder: Path, count: int, seed: int) -> str:
    folder.mkdir()
    for index, pixels in enumerate(drawings("naruto", count, seed)[0]):
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
    return str(folder)


def main() -> None:
    """Print the ratios as JSON."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        weights = str(write_random_inception(place / "inception.pth"))
        sets = write(place / "drawn", DRAWN, 1), write(place / "reference", REFERENCE, 2)
        kept = str(place / "features.safetensors")
        cold = seconds(OURS, weights, *sets, kept)
        theirs = seconds(THEIRS, weights, *sets)
        warm = seconds(OURS, weights, *sets, kept)
    print(f"ours cold {cold:.1f} s    torch-fidelity {theirs:.1f} s    ours from kept features {warm:.1f} s")
    print(json.dumps({"bench": "score", "cold_over_torch_fidelity": round(theirs / cold, 2),
                      "warm_over_torch_fidelity": round(theirs / warm, 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
