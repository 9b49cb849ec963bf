"""Workflows are valid and safe, may do little, and call only what a person can type."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

HOUSE = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((HOUSE / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"[\w-]+/[\w-]+(/[\w-]+)*@[0-9a-f]{40}")
MAY_WRITE = {("image.yml", "publish"): "packages", ("release.yml", "publish"): "contents"}


def _tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)


def _read(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text())


def _jobs() -> list[tuple[str, str, dict[str, Any]]]:
    """Every job with its file's name and its own."""
    return [(path.name, name, job) for path in WORKFLOWS for name, job in _read(path)["jobs"].items()]


def _steps() -> list[tuple[str, dict[str, Any]]]:
    return [(file, step) for file, _, job in _jobs() for step in job["steps"]]


def _commands() -> list[str]:
    return [step["run"] for _, step in _steps() if "run" in step]


def test_workflows_and_dependabots_file_follow_their_schemas():
    assert len(WORKFLOWS) == 5
    for schema, files in (("github-workflows", WORKFLOWS), ("dependabot", [HOUSE / ".github" / "dependabot.yml"])):
        checked = _tool("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
        assert checked.returncode == 0, checked.stdout


def test_nothing_in_a_workflow_is_unsafe():
    checked = _tool("zizmor", "--offline", "--no-progress", "--color=never", ".github")
    assert checked.returncode == 0, checked.stdout
    assert "No findings to report" in checked.stdout


def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it():
    used = [step["uses"] for _, step in _steps() if "uses" in step]
    assert len(used) > 20
    assert [action for action in used if not PINNED.fullmatch(action)] == []
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert [line for line in lines if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []
    assert len({action.split("@")[0].removesuffix("/restore").removesuffix("/save") for action in used}) == len(
        {action.split("@")[1] for action in used}
    ), "one action, two commits"


@pytest.mark.parametrize(("file", "name", "job"), _jobs(), ids=[f"{file}-{name}" for file, name, _ in _jobs()])
def test_a_job_may_read_the_code_and_hardly_anything_more(file: str, name: str, job: dict[str, Any]):
    workflow = _read(HOUSE / ".github" / "workflows" / file)
    assert workflow["permissions"] == {}
    assert job["timeout-minutes"] <= 60
    granted = {scope for scope, access in job["permissions"].items() if access == "write"}
    assert granted == ({MAY_WRITE[file, name]} if (file, name) in MAY_WRITE else set())
    assert set(job["permissions"]) <= granted | {"contents"}
    checkouts = [step for step in job["steps"] if "actions/checkout@" in step.get("uses", "")]
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_once_a_ref_and_never_with_a_strangers_code_and_our_secrets(path: Path):
    workflow = _read(path)
    assert "${{ github.ref }}" in workflow["concurrency"]["group"]
    assert set(workflow[True]) <= {"push", "pull_request", "schedule"}  # YAML reads the key `on` as True
    assert "secrets." not in path.read_text()  # the job's own token is github.token


def test_what_may_write_runs_for_main_and_tags_alone():
    for file, name in MAY_WRITE:
        workflow = _read(HOUSE / ".github" / "workflows" / file)
        assert set(workflow[True]["push"]) <= {"branches", "tags"}
        assert workflow[True]["push"].get("branches", ["main"]) == ["main"]
        assert workflow[True]["push"]["tags"] == ["v*"]
        guarded = workflow["jobs"][name].get("if") == "github.event_name == 'push'"
        assert guarded or set(workflow[True]) == {"push"}


def test_only_main_saves_what_later_pushes_are_compared_with():
    saves = [step for _, step in _steps() if "actions/cache/save@" in step.get("uses", "")]
    assert len(saves) == 1
    assert saves[0]["if"].endswith("&& github.ref == 'refs/heads/main' }}")
    restored = next(step for _, step in _steps() if "actions/cache/restore@" in step.get("uses", ""))
    assert restored["with"]["path"] == saves[0]["with"]["path"] == "main-var"
    assert saves[0]["with"]["key"].startswith(restored["with"]["restore-keys"])


def test_tests_run_on_every_python_that_the_project_allows():
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    first, end = (int(minor) for minor in re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups())  # type: ignore[union-attr]
    matrix = _read(HOUSE / ".github" / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert matrix == [f"3.{minor}" for minor in range(first, end)]


def test_a_step_is_one_command_without_anything_put_into_it():
    assert len(_commands()) >= 9
    for command in _commands():
        assert "\n" not in command
        assert "${{" not in command
        assert not re.search(r"[;&|`]|\$\(", command), command
        assert command.split()[0] in {"make", ".venv/bin/naruto", ".venv/bin/pre-commit", "gh"}


def test_every_make_target_that_a_workflow_calls_exists():
    targets = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    called = {word for line in _commands() for word in shlex.split(line)[1:] if line.startswith("make ")}
    called -= {"PYTHON=python"}
    tests = {"check", "test", "test-loaders", "docs", "notebook"}
    assert tests | {"miniature", "keep", "secrets", "audit", "release"} == called
    assert called <= targets


def test_every_naruto_command_and_option_that_a_workflow_or_the_makefile_calls_exists():
    from flows.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    makefile = (HOUSE / "Makefile").read_text()
    lines = [*_commands(), *re.findall(r"^\t(\.venv/bin/naruto .*)$", makefile, re.MULTILINE)]
    called = [shlex.split(line) for line in lines if line.startswith(".venv/bin/naruto ")]
    assert {words[1] for words in called} >= {"run", "compare", "report", "scores"}
    for words in called:
        options = {option for parameter in known[words[1]].params for option in parameter.opts}
        assert {word for word in words[2:] if re.match(r"--?[a-z]", word)} <= options


CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-25

### Added

- A thing.

## [1.2.2] - 2026-11-01

- Another.
"""


def _release(folder: Path, tag: str, version: str = "1.2.3") -> subprocess.CompletedProcess[str]:
    (folder / "pyproject.toml").write_text(f'[project]\nname = "x"\nversion = "{version}"\n')
    (folder / "CHANGELOG.md").write_text(CHANGELOG)
    command = [sys.executable, HOUSE / ".github" / "release.py"]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"TAG": tag}, capture_output=True, text=True, check=False
    )


def test_the_notes_of_a_release_are_its_section_of_the_changelog(tmp_path: Path):
    process = _release(tmp_path, "v1.2.3")
    assert (process.returncode, process.stdout) == (0, "### Added\n\n- A thing.\n")


@pytest.mark.parametrize(
    ("tag", "version", "sentence"),
    [
        ("v1.2.4", "1.2.3", "the tag is v1.2.4, but pyproject.toml has version 1.2.3."),
        ("", "1.2.3", "the tag is not given (TAG=v1.2.3), but pyproject.toml has version 1.2.3."),
        ("v1.2.9", "1.2.9", "CHANGELOG.md has no section [1.2.9], or nothing in it: say there what is new."),
        ("v1.2", "1.2", "CHANGELOG.md has no section [1.2], or nothing in it: say there what is new."),
    ],
)
def test_a_tag_that_the_project_does_not_bear_out_is_refused(tmp_path: Path, tag: str, version: str, sentence: str):
    refused = _release(tmp_path, tag, version)
    assert (refused.returncode, refused.stdout, refused.stderr) == (1, "", f"release: {sentence}\n")
