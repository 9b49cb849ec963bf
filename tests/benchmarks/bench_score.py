"""Scoring 400 drawn against 1,200 reference pictures: ours, cold and from kept features, against two others.

Whole processes, imports and all; the same Inception file (random weights: speed does not depend on them) and the same
PNG files. Beside torch-fidelity (FID, KID, precision, recall) ours measures every set metric there is, and FID as
torchmetrics has it too; beside clean-fid (FID alone) FID alone.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from naruto_core.mini.pretraining.evaluation import drawings
from tests.naruto_core.scoring.inception_file import write_random_inception

GENERATED, REFERENCE = 400, 1200
OTHERS, WANTED = ("torch_fidelity", "clean_fid"), ("everything", "fid")  # what ours measures beside either
QUIET = os.environ | {"PYTHONWARNINGS": "ignore"}
THEIRS = """
import sys
from torch_fidelity import calculate_metrics
calculate_metrics(input1=sys.argv[2], input2=sys.argv[3], cuda=False, fid=True, kid=True, prc=True, kid_subset_size=400,
    feature_extractor="inception-v3-compat",
    feature_extractor_weights_path=sys.argv[1], verbose=False, cache=False, samples_find_ext="png")
"""
CLEAN = """
import sys
import torch
from cleanfid import fid
from torchmetrics.image.fid import NoTrainInceptionV3
network = NoTrainInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=sys.argv[1]).eval()
fid.compute_fid(sys.argv[2], sys.argv[3], mode="clean", num_workers=0, use_dataparallel=False, verbose=False,
    device=torch.device("cpu"), custom_feat_extractor=lambda batch: network(batch.to(torch.uint8)))
"""
OURS = """
import sys
from functools import partial
from pathlib import Path
import torch
from PIL import Image
from naruto_core.scoring.metrics import SET_METRICS
from naruto_core.scoring.features import embed_pictures, load_extractor
from naruto_core.scoring.torchmetrics_fid import fid
from naruto_core.scoring.feature_set import each_once
from naruto_core.store.embedding_cache import EmbeddingCache
weights, *folders, path, wanted = sys.argv[1:]
extractor = load_extractor(f"inception:{weights}", torch.device("cpu"))
found = []
with EmbeddingCache(Path(path)) as kept:
    for folder in folders:
        names = sorted(str(path) for path in Path(folder).glob("*.png"))
        missing, done = kept.missing(extractor.id, names), 0
        for rows in embed_pictures(extractor, [partial(Image.open, name) for name in missing], 32) if missing else ():
            part = missing[done : done + len(rows)]
            kept.add(extractor.id, part, rows, [False] * len(part))
            done += len(rows)
        found.append(kept.read(extractor.id, names).features)
drawn, reference = found
for metric in SET_METRICS:
    if wanted not in (metric.name, "everything"):
        continue
    metric.measure(drawn, reference[:400] if metric.axis == "overlap" else reference)(each_once(400))
if wanted == "everything":
    fid(drawn, reference)
"""


def seconds(code: str, *arguments: str) -> float:
    """How long a process that runs `code` takes."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL, env=QUIET)
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
        sets = write(place / "drawn", GENERATED, 1), write(place / "reference", REFERENCE, 2)
        cold, warm = ([seconds(OURS, weights, *sets, str(place / f"{what}.db"), what) for what in WANTED] for _ in "cw")
        theirs = [seconds(code, weights, *sets) for code in (THEIRS, CLEAN)]
    ratios: dict[str, float] = {}
    for other, ours_cold, ours_warm, other_seconds in zip(OTHERS, cold, warm, theirs, strict=True):
        print(f"{other}: {other_seconds:.1f} s    ours: {ours_cold:.1f} s, again {ours_warm:.1f} s")
        ratios[f"cold_over_{other}"] = round(other_seconds / ours_cold, 2)
        ratios[f"warm_over_{other}"] = round(other_seconds / ours_warm, 1)
    print(json.dumps({"bench": "score"} | ratios))


if __name__ == "__main__":
    main()
