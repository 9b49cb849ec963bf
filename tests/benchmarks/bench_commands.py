"""Commands on a scored run: whole processes, imports and all, the first time and again.

Works on a copy of NARUTO_HOME, of which kept results are removed first. Wall seconds count on a quiet machine only;
CPU seconds (user and system) are measured beside them. Exit status 1 when a bar is missed.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from naruto_core.artifacts import Layout
from naruto_core.settings import read_settings

BARS = {  # wall seconds on two quiet cores
    "scores": 0.5,
    "compare": 4.0,
    "compare again": 0.6,
    "rescore": 4.0,
    "rescore again": 0.6,
    "report": 5.0,
}


def seconds(home: Path, *words: str) -> tuple[float, float]:
    """Wall and CPU seconds of one command; `rescore` may exit with 1 for a metric that was not measured."""
    environment = os.environ | {"NARUTO_HOME": str(home)}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).with_name("naruto")), *words], env=environment, capture_output=True, check=False
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 or words[0] == "rescore", done.stderr.decode()
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Print a line for each command, then JSON."""
    run = sys.argv[1]
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        shutil.copytree(read_settings().home, home, ignore=shutil.ignore_patterns("results", "locks"))
        page = str(Path(name) / "report.html")
        commands = {
            "scores": ("scores", run),
            "compare": ("compare", f"{run}:base", f"{run}:adapted"),
            "compare again": ("compare", f"{run}:base", f"{run}:adapted"),
            "rescore": ("rescore", run),
            "rescore again": ("rescore", run),
            "report": ("report", run, "-o", page),
        }
        seconds(home, "runs")  # compiled modules and files are in memory
        figures: dict[str, dict[str, float]] = {}
        for title, words in commands.items():
            if title == "rescore":
                shutil.rmtree(Layout(home).results)
            wall, cpu = seconds(home, *words)
            print(f"{title:<14} {wall:6.2f} s wall (bar {BARS[title]} s), {cpu:6.2f} s of CPU")
            figures[title] = {"wall": round(wall, 2), "cpu": round(cpu, 2), "bar": BARS[title]}
    ok = all(of["wall"] <= of["bar"] for of in figures.values())
    print(json.dumps({"bench": "commands", "ok": ok} | figures))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
