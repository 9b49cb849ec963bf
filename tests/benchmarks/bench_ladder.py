"""The rungs of a ladder of made-up generators that each metric fails; the last line is JSON."""

import json

import torch

from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.metrics import BY_NAME
from tests.naruto_core.scoring.ladder import RUNGS, build_ladder, failed_rungs, ladder_values

JUDGE = "package:naruto_core.mini/weights/judge"
PICTURES = 176  # of each generator, as the demo has of each model


def main() -> None:
    """Print the table as Markdown."""
    table = ladder_values(build_ladder(load_extractor(JUDGE, torch.device("cpu")), PICTURES))
    print(f"| metric | {' | '.join(RUNGS)} | not put below perfect |\n|{'---|' * (len(RUNGS) + 2)}")
    failures: dict[str, list[str]] = {}
    for name, values in table.items():
        better = BY_NAME[name].better if name in BY_NAME else -1
        failures[name] = failed_rungs(values, better)
        shown = " | ".join(f"{values[rung]:.3g}" for rung in RUNGS)
        print(f"| {name} | {shown} | {', '.join(failures[name]) or 'none'} |")
    print(json.dumps({"bench": "ladder", "failed": failures}))


if __name__ == "__main__":
    main()
