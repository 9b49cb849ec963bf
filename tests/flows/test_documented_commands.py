"""The commands of README and docs run as they are written, one page after the other, on one small recorded run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.documented_commands import blocks
from tests.flows.conftest import Ended, Naruto, command_in_process

FIRST_PAGE_OF: dict[tuple[str, ...], str] = {}  # each command, in the order of the pages; what is repeated runs once
for block in blocks():
    for line in filter(block.is_run, block.lines):
        FIRST_PAGE_OF.setdefault(tuple(line), block.page)

# The small run has six pictures a model: too few for precision, which rescore reports by its exit status.
STATUS = {("naruto", "rescore", "RUN"): 1}


def _make_pictures(folder: Path) -> None:
    """30 pictures of noise with captions, as an image folder."""
    folder.mkdir()
    rng, lines = np.random.default_rng(5), list[str]()
    for number in range(30):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png")
        lines.append(json.dumps({"file_name": f"{number:04}.png", "text": f"a person with {number} red hairs"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def folder(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands are typed in: a copy of the small run's home in `var`, and somebody's pictures."""
    place = tmp_path_factory.mktemp("documented")
    shutil.copytree(small_run[0], place / "var")
    _make_pictures(place / "my-pictures")
    return place


@pytest.fixture
def naruto_service(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The `naruto-service` command in this process."""
    from deployments.service.__main__ import main

    return command_in_process("naruto-service", main, monkeypatch, capfd)


def test_at_least_twenty_different_commands_are_run():
    assert len(FIRST_PAGE_OF) >= 20
    assert {words[0] for words in FIRST_PAGE_OF} == {"naruto", "naruto-service"}


@pytest.mark.parametrize("words", FIRST_PAGE_OF, ids=lambda words: f"{FIRST_PAGE_OF[words]}: {' '.join(words)}")
def test_a_documented_command_does_what_it_says(
    words: tuple[str, ...],
    folder: Path,
    small_run: tuple[Path, str],
    naruto: Naruto,
    naruto_service: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
):
    home, run_id = small_run
    monkeypatch.chdir(folder)
    dataset = json.loads(naruto(folder / "var", "show", run_id, "--json").stdout)["dataset"]
    meant = {"RUN": run_id, "DATASET": dataset, "RUN:base": f"{run_id}:base", "HOME//RUN": f"{home}//{run_id}"}
    command = {"naruto": naruto, "naruto-service": naruto_service}[words[0]]
    done = command(folder / "var", *(meant.get(word, word) for word in words[1:]))
    assert done.returncode == STATUS.get(words, 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).strip()


def test_the_example_in_the_help_of_ingest_is_taken(folder: Path, naruto: Naruto, tmp_path: Path) -> None:
    """Nothing is trained there, so no validation asks for held-out pictures."""
    example = re.search(r"E\.g\. (\S+=\S+)\.", naruto(tmp_path, "ingest", "--help").stdout)
    assert example
    ended = naruto(tmp_path, "ingest", str(folder / "my-pictures"), "--set", example[1])
    assert (ended.returncode, "30 train, 0 reference" in ended.stderr) == (0, True), ended.stderr
