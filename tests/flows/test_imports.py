"""A LoRA and pictures of other programs become runs that are drawn, scored, compared and rated beside our own."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naruto_core.artifacts import Layout
from naruto_core.domain import Variant
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Campaign, Mode
from naruto_core.store.database import open_database
from tests.flows.conftest import SMALL, Naruto, flags

DRAWN = flags({key: value for key, value in SMALL.items() if not key.startswith("training.")})


@pytest.fixture(scope="session")
def home(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small run's home, for runs beside it."""
    copy = tmp_path_factory.mktemp("imports") / "home"
    shutil.copytree(small_run[0], copy)
    return copy


def _pixels(home: Path, path: str) -> np.ndarray:
    with Image.open(home / path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def _import_lora(naruto: Naruto, home: Path, file: Path, name: str, *options: str) -> str:
    """The id of the run that `naruto import lora` made."""
    done = naruto(home, "import", "lora", str(file), "--name", name, *DRAWN, *options)
    assert done.returncode == 0, done.stderr
    return next(row["id"] for row in json.loads(naruto(home, "runs", "--json").stdout) if row["profile"] == name)


@pytest.fixture
def imported(small_run: tuple[Path, str], home: Path, naruto: Naruto) -> str:
    """The id of the run that imports the small run's LoRA in kohya's form; the second time, it is there already."""
    if not (home / "loras").exists():
        assert naruto(home, "export", "kohya", small_run[1], str(home / "loras")).returncode == 0
    return _import_lora(naruto, home, next((home / "loras").iterdir()), "from-kohya")


def test_an_imported_kohya_lora_draws_what_the_run_that_it_came_from_drew(
    small_run: tuple[Path, str], home: Path, imported: str, naruto: Naruto
):
    database = open_database(f"sqlite:///{home / 'naruto.db'}")
    for variant, most in ((Variant.BASE, 0), (Variant.ADAPTED, 3)):  # the file is in half precision
        own, theirs = (database.runs.samples(run_id, variant) for run_id in (small_run[1], imported))
        assert [(s.prompt, s.seed) for s in own] == [(s.prompt, s.seed) for s in theirs]
        differences = [np.abs(_pixels(home, a.path) - _pixels(home, b.path)).max() for a, b in zip(own, theirs, strict=True)]
        assert max(differences) <= most
    assert naruto(home, "verify").stdout.startswith("every recorded file is there")
    rows = json.loads(naruto(home, "compare", small_run[1], imported, "--json").stdout)
    assert {"mmd", "clip", "copying"} <= {row["metric"] for row in rows}
    print(naruto(home, "show", imported).stdout[:1500], naruto(home, "scores", imported).stdout)
