"""Which metric fails which rung of a ladder of made-up generators; ends with a line of JSON."""

import json

import torch

from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.metrics import BY_NAME
from tests.naruto_core.scoring.ladder import RUNGS, build_ladder, climb, failed

JUDGE = "package:naruto_core.mini/weights/judge"


def main() -> None:
    """Print the table as Markdown."""
    found = climb(build_ladder(load_extractor(JUDGE, torch.device("cpu"))))
    print(f"| metric | {' | '.join(RUNGS)} | not put below perfect |\n|{'---|' * (len(RUNGS) + 2)}")
    failures: dict[str, list[str]] = {}
    for name, values in found.items():
        better = BY_NAME[name].better if name in BY_NAME else -1
        failures[name] = failed(values, better)
        shown = " | ".join(f"{values[rung]:.3g}" for rung in RUNGS)
        print(f"| {name} | {shown} | {', '.join(failures[name]) or 'none'} |")
    print(json.dumps({"bench": "ladder", "failed": failures}))


if __name__ == "__main__":
    main()
