"""Exported adapters and models, loaded by the libraries that other people have: every tensor is what was trained."""

import base64
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from PIL import Image
from transformers import CLIPTokenizer

from naruto_core.card.usage import LOWEST_VERSIONS
from tests.loaders.environments import BUILT, NAMES, NEWEST, OLDEST, SOME_BUILT, answers_of, needs, versions_of
from tests.loaders.exports import GENERATED, RUNS, TEXTS, Exported, exported_run, painted, pixels_of

ROUNDING = 2e-6  # of merged weights, which are about 1: fp32 against our fp64
HALF = 2e-3  # of weights in half precision
KOHYA = 6e-4  # of merged weights, when both factors of what is added, about 0.15, were in half precision
PROMPT, SEED = "a person with red hair", 7
WITH_KOHYA = tuple(run for run in RUNS if run != "dora")
ENDPOINTS = ("lora", "tokens")
# without other environments one run in the newest, the run whose file has the most kinds of tensors
ASKED = tuple(RUNS) if SOME_BUILT else ("dora",)

Answers = Mapping[str, dict[str, Any]]
AnswersOf = Callable[[str], Answers]


def _cases(runs: Iterable[str]) -> list[Any]:
    """Each environment with each run; those that are not asked for are skipped."""
    return [
        pytest.param(name, run, marks=[] if name == NEWEST and run in ASKED else needs(name))
        for name in NAMES
        for run in runs
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Exported]]:
    with ExitStack() as open_runs:
        folder = tmp_path_factory.mktemp("exported")
        yield {name: open_runs.enter_context(exported_run(name, folder)) for name in ASKED}


@pytest.fixture(scope="module")
def loaded(exported: dict[str, Exported], tmp_path_factory: pytest.TempPathFactory) -> AnswersOf:
    """The answers of an environment by the names of `_requests`, asked for once: each start takes seconds."""
    requests, known = _requests(exported), dict[str, Answers]()

    def ask(environment: str) -> Answers:
        if environment not in known:
            folder = tmp_path_factory.mktemp("answers")
            versions, *answers = answers_of(environment, list(requests.values()), folder)
            known[environment] = dict(zip(requests, answers, strict=True)) | {"versions": versions}
        return known[environment]

    return ask


def _requests(exported: Mapping[str, Exported]) -> dict[str, dict[str, Any]]:
    requests: dict[str, dict[str, Any]] = {}
    for name, run in exported.items():
        merged, ours = {"merged": str(run.merged)}, [str(file) for file in run.diffusers_files()]
        adapters = {"kind": "adapters", "base": str(run.recorded.base), "scales": run.scales} | merged
        requests[f"{name} diffusers"] = adapters | {"files": ours, "adapters": ours}
        if kohya := [str(file) for file in run.kohya_files()]:
            requests[f"{name} kohya"] = adapters | {"files": kohya, "adapters": [None] * len(kohya)}
        folder = {"kind": "folder", "folder": str(run.fused), "half": False, "texts": TEXTS} | merged
        requests[f"{name} fused"] = folder
        requests[f"{name} half"] = folder | {"folder": str(run.half), "half": True}
    for name in exported.keys() & set(GENERATED):
        run = exported[name]
        code = _code(run.hub).replace("path/to/my-sdxl", str(run.recorded.base))
        requests[f"{name} code"] = {"kind": "code", "folder": str(run.hub), "code": code}
    for name in exported.keys() & set(ENDPOINTS):
        data = {"inputs": PROMPT, "parameters": {"seed": SEED}}
        requests[f"{name} handler"] = {"kind": "handler", "folder": str(exported[name].endpoint), "data": data}
    return requests


def _code(folder: Path) -> str:
    block = re.search(r"```python\n(.*?)\n```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block
    return block[1]


def _decoded(answer: Mapping[str, Any]) -> np.ndarray:
    assert "error" not in answer, answer
    with Image.open(io.BytesIO(base64.b64decode(answer["picture"]))) as picture:
        return pixels_of(picture)


def _check(difference: Mapping[str, Any], tolerance: float) -> None:
    assert difference["count"] > 0
    assert (difference["missing"], difference["extra"]) == ([], [])
    assert difference["largest"] <= tolerance


@pytest.mark.parametrize(("environment", "run"), _cases(RUNS))
def test_load_lora_weights_reads_every_tensor_of_the_diffusers_file(environment: str, run: str, loaded: AnswersOf):
    answer = loaded(environment)[f"{run} diffusers"]
    assert "error" not in answer, answer
    _check(answer["tensors"], 0.0)
    _check(answer["weights"], ROUNDING)


@pytest.mark.parametrize(("environment", "run"), _cases(WITH_KOHYA))
def test_load_lora_weights_reads_every_tensor_of_the_kohya_file(environment: str, run: str, loaded: AnswersOf):
    answer = loaded(environment)[f"{run} kohya"]
    assert "error" not in answer, answer
    _check(answer["weights"], KOHYA)


@pytest.mark.parametrize(("environment", "run"), _cases(RUNS))
def test_from_pretrained_reads_every_weight_of_the_fused_model(
    environment: str, run: str, loaded: AnswersOf, exported: dict[str, Exported]
):
    for kind, tolerance in (("fused", ROUNDING), ("half", HALF)):
        answer = loaded(environment)[f"{run} {kind}"]
        assert "error" not in answer, answer
        _check(answer["tensors"], 0.0)
        _check(answer["weights"], tolerance)
        folder = exported[run].fused
        tokenizers = [CLIPTokenizer.from_pretrained(folder / name) for name in ("tokenizer", "tokenizer_2")]
        assert answer["ids"] == [tokenizer(list(TEXTS))["input_ids"] for tokenizer in tokenizers]


@pytest.mark.parametrize(("environment", "run"), _cases(GENERATED))
def test_the_model_cards_code_draws_the_picture_that_the_card_shows(
    environment: str, run: str, loaded: AnswersOf, exported: dict[str, Exported]
):
    drawn = _decoded(loaded(environment)[f"{run} code"])
    folder = exported[run].hub
    shown = re.search(r"!\[base\]\((.+?)\) \| !\[adapted\]\((.+?)\)", (folder / "README.md").read_text())
    assert shown
    base, adapted = (pixels_of(Image.open(folder / name)) for name in shown.groups())
    assert np.abs(drawn - adapted).max() <= 1
    assert np.abs(drawn - base).max() > 30


@pytest.mark.parametrize(("environment", "run"), _cases(ENDPOINTS))
def test_the_endpoints_handler_draws_what_the_painter_draws(
    environment: str, run: str, loaded: AnswersOf, exported: dict[str, Exported]
):
    drawn = _decoded(loaded(environment)[f"{run} handler"])
    assert np.abs(drawn - painted(exported[run], PROMPT, SEED)).max() <= 1


def test_the_lowest_versions_that_are_stated_are_those_of_the_oldest_environment():
    lowest = {package: version.split(".")[:2] for package, version in versions_of(OLDEST).items()}
    assert {package: lowest[package] for package in LOWEST_VERSIONS} == {
        package: version.split(".") for package, version in LOWEST_VERSIONS.items()
    }
    for name in BUILT:
        for package, lowest_version in LOWEST_VERSIONS.items():
            assert Version(versions_of(name)[package]) >= Version(lowest_version), (name, package)


@pytest.mark.parametrize("environment", [pytest.param(name, marks=needs(name)) for name in BUILT])
def test_an_environment_has_the_versions_that_its_file_names(environment: str, loaded: AnswersOf):
    versions = loaded(environment)["versions"]
    named = versions_of(environment)
    assert {package: versions[package] for package in LOWEST_VERSIONS} == {p: named[p] for p in LOWEST_VERSIONS}
    assert versions["torch"] == loaded("newest")["versions"]["torch"]


def test_what_is_exported_states_the_lowest_versions_it_loads_with(exported: dict[str, Exported]):
    run = next(iter(exported.values()))
    card = " ".join((run.hub / "README.md").read_text().split())
    assert all(f"{package} {version}" in card for package, version in LOWEST_VERSIONS.items())
    for folder in (run.fused, run.half, run.endpoint):
        ranges = [Requirement(line) for line in (folder / "requirements.txt").read_text().splitlines()]
        assert {needed.name for needed in ranges} == set(LOWEST_VERSIONS) - {"peft"}
        for needed in ranges:
            assert needed.specifier.contains(LOWEST_VERSIONS[needed.name])
            assert needed.specifier.contains(version(needed.name))  # what is installed here
            for environment in BUILT:  # the oldest has what the inference toolkit brings, which must stay
                assert needed.specifier.contains(versions_of(environment)[needed.name])
