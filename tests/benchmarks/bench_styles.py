"""What the `mini` recipe learns of sets of real drawings: one run for each folder, then a line of JSON.

Folders are captioned sets: with metadata.jsonl, as `drawn_sets.py` writes it, or with parquet files in data/. Of each
set a quarter, at most 200 pictures, is held out. The figures are each run's own scores: how much of the distance from
base to real pictures (MMD) the adapter closes, and by how much its agreement with the prompts changes. Exit status 1
when a bar is missed. A finished run is not run again.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pyarrow.parquet import ParquetFile

CLOSED, CONTENT = 0.75, -0.02  # bars: share of the MMD that is closed, and the change of clip-content
NARUTO = str(Path(sys.executable).with_name("naruto"))


def _json(*words: str) -> Any:
    return json.loads(subprocess.run([NARUTO, *words, "--json"], capture_output=True, check=True, text=True).stdout)


def _count(folder: Path) -> int:
    """How many pictures the set in `folder` has."""
    lines = folder / "metadata.jsonl"
    if lines.exists():
        return len(lines.read_text(encoding="utf-8").splitlines())
    return sum(ParquetFile(path).metadata.num_rows for path in folder.glob("data/*.parquet"))


def run_of(folder: Path) -> str:
    """Train, draw and score with the recipe `mini` on the pictures in `folder`; the run's id.

    Its instance prompt stays: it is in the prompts of the suite, so that they ask for the style that was learnt.
    """
    held_out = f"dataset.hold_out={min(200, _count(folder) // 4)}"
    words = ["run", "--recipe", "mini", "--dataset", str(folder.resolve()), "--set", held_out]
    subprocess.run([NARUTO, *words], check=True)
    return str(_json("runs")[0]["id"])


def figures(run: str) -> dict[str, float]:
    """Share of the distance base - real that the adapter closes, and the change of agreement, from a run's scores."""
    values = {(row["metric"], row["variant"]): row for row in _json("scores", run)}
    base, adapted, real = (values["mmd", variant]["value"] for variant in ("base", "adapted", "real"))
    agreement = values["clip-content", "adapted"]
    return {
        "mmd_base": round(base, 1),
        "mmd_adapted": round(adapted, 1),
        "mmd_real": round(real, 1),
        "closed": round((base - adapted) / (base - real), 3),
        "clip_content_change": round(agreement["change"], 4),
    }


def main() -> int:
    """Arguments: folders of captioned pictures."""
    result = {Path(name).name: figures(run_of(Path(name))) for name in sys.argv[1:]}
    ok = all(of["closed"] >= CLOSED and of["clip_content_change"] >= CONTENT for of in result.values())
    print(json.dumps({"bench": "styles", "ok": ok} | result))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
