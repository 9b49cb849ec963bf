"""The environments whose libraries load what is exported: `make test-loaders` builds them, one beside the other.

Each is a folder below `.loaders`, made of the file `requirements-<name>.txt` here; all see the PyTorch of `.venv`. The
newest is `.venv` itself.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
NEWEST = "newest"
BUILT = tuple(sorted(path.stem.removeprefix("requirements-") for path in Path(__file__).parent.glob("requirements-*")))
NAMES = (*BUILT, NEWEST)
OLDEST = "oldest"


def is_built(name: str) -> bool:
    """Whether `make` has finished the environment `name` of `BUILT` for this version of Python."""
    stamp = f"installed-{sys.version_info.major}.{sys.version_info.minor}"
    return (CHECKOUT / ".loaders" / name / stamp).is_file()


SOME_BUILT = any(is_built(name) for name in BUILT)


def needs(name: str) -> pytest.MarkDecorator:
    """Skips a test, and says why, where the environment `name` is not built; the newest needs any of the others."""
    if name == NEWEST:
        reason = "no environment below .loaders is built; `make test-loaders` builds them"
        return pytest.mark.skipif(not SOME_BUILT, reason=reason)
    reason = f"the environment .loaders/{name} is not built; `make test-loaders` builds it"
    return pytest.mark.skipif(not is_built(name), reason=reason)


def python_of(name: str) -> Path:
    """The interpreter of the environment `name`."""
    return Path(sys.executable) if name == NEWEST else CHECKOUT / ".loaders" / name / "bin" / "python"


def versions_of(name: str) -> dict[str, str]:
    """Package to version, as the environment's requirements say."""
    text = (Path(__file__).parent / f"requirements-{name}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))


def variables(**more: str) -> dict[str, str]:
    """For programs of an environment: nothing of the project is found, nothing is downloaded."""
    left_out = {"PYTHONPATH", "VIRTUAL_ENV"}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    return kept | {"HF_HUB_OFFLINE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"} | more


def answers_of(name: str, requests: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """What `load.py` answers to `requests` in the environment `name`: its versions, then an object a request."""
    path = folder / f"requests-{name}.json"
    path.write_text(json.dumps(requests), encoding="utf-8")
    command = [python_of(name), "-W", "ignore", Path(__file__).with_name("load.py"), path]
    done = subprocess.run(command, cwd=folder, env=variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
