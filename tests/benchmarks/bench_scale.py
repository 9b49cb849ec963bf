"""How work grows over several runs; the last line is JSON. Run with `make bench-scale`.

`sweep_ratio`: the time of a 3 x 3 sweep (three ranks, three seeds) against nine runs that share nothing, each in a
home of its own. Figures are user CPU of this process, because its machine may be busy with other work.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from flows.profiles import choose_recipe

RANKS, SEEDS = (4, 8, 16), (1, 2, 3)
# A small part of the miniature's recipe with its proportions: drawing and class pictures take most of a run.
OPTIONS: dict[str, Any] = {
    "dataset.source": "world:naruto?count=120&seed=7",
    "dataset.hold_out": 60,
    "training.max_train_steps": 20,
    "training.validation": None,
    "training.prior.num_class_images": 64,
    "generation.seeds": 2,
    "generation.num_inference_steps": 10,
    "scoring.resamples": 200,
}


def sweep_ratio(folder: Path) -> dict[str, float]:
    """User CPU in seconds of one run alone (the first, and the mean of two), of the sweep, and their ratio."""
    from flows.sweep import sweep
    from flows.train_naruto import train_naruto

    recipe = folder / "recipe.yaml"
    tree = choose_recipe("mini", None, OPTIONS).model_dump(mode="json", exclude={"imported"})
    recipe.write_text(yaml.safe_dump(tree), encoding="utf-8")
    file = folder / "sweep.yaml"
    grid = {"training.rank": list(RANKS)}
    content = {"name": "ranks", "recipe": str(recipe), "grid": grid, "seeds": list(SEEDS), "objective": "mmd"}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    _cpu(folder / "warm", lambda: train_naruto(str(recipe), None, {"training.max_train_steps": 1}))
    alone = [
        _cpu(folder / f"alone-{seed}", lambda seed=seed: train_naruto(str(recipe), None, {"training.seed": seed}))
        for seed in SEEDS[:2]
    ]
    together = _cpu(folder / "sweep", lambda: sweep(str(file)))
    independent = len(RANKS) * len(SEEDS) * sum(alone) / len(alone)
    return {"alone": sum(alone) / len(alone), "sweep": together, "sweep_ratio": together / independent}


def _cpu(home: Path, work: Any) -> float:
    """User CPU in seconds of `work` with an empty NARUTO_HOME, which is removed afterwards."""
    os.environ["NARUTO_HOME"] = str(home)
    before = os.times().user
    work()
    seconds = os.times().user - before
    shutil.rmtree(home)
    return seconds


def main() -> None:
    """Measure everything in a folder of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=240):
        figures = sweep_ratio(Path(folder))
    print(json.dumps({"bench": "scale"} | {name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
