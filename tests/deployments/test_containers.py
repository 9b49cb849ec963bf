"""The image: its Dockerfile passes a linter and fits its programs, and only the program is copied into it."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from deployments.service.options import ServiceOptions
from tests.deployments.image_file import (
    DEPLOYMENTS,
    DOCKERFILE,
    HOUSE,
    LISTENS,
    TARGETS,
    command,
    instruction,
    known_variables,
    ships,
    stage,
    tool,
)


@pytest.mark.skipif(not Path(tool("hadolint")).exists(), reason="hadolint exists for x86-64 only")
def test_hadolint_finds_nothing():
    linted = [tool("hadolint"), DEPLOYMENTS / "images" / "Dockerfile"]
    process = subprocess.run(linted, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_a_program_of_the_image_and_checks_its_health(target: str):
    assert ships(command(target)[0])
    assert instruction("EXPOSE", target) == LISTENS[target]
    health = yaml.safe_load(instruction("HEALTHCHECK", target).partition("CMD ")[2])
    assert health[0] == "python"
    assert f"http://127.0.0.1:{LISTENS[target]}/" in health[2]
    compile(health[2], target, "exec")


def test_programs_listen_at_the_ports_of_the_image():
    from prefect.settings.models.worker import WorkerWebserverSettings

    assert str(ServiceOptions.model_fields["port"].default) == LISTENS["service"]
    assert str(WorkerWebserverSettings.model_fields["port"].default) == LISTENS["worker"]
    assert "STREAMLIT_SERVER_PORT" not in DOCKERFILE  # 8501 is Streamlit's own
    assert (HOUSE / command("dashboard")[-1]).is_file()


def test_the_worker_polls_the_pool_of_prefect_yaml():
    written = yaml.safe_load((DEPLOYMENTS / "prefect" / "prefect.yaml").read_text())["deployments"]
    pools = {deployment["work_pool"]["name"] for deployment in written}
    worker = command("worker")
    assert {worker[worker.index("--pool") + 1]} == pools


def test_nothing_runs_as_root_and_the_user_owns_its_data_only():
    user = instruction("USER", "runtime")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    assert all("USER" not in stage(target) for target in TARGETS)
    assert all(re.match("runtime AS ", stage(target)) for target in TARGETS)
    assert re.findall(r"--owner (\w+) .*?(/\w+)", stage("runtime")) == [("naruto", "/data")]
    assert "--chown" not in DOCKERFILE


def test_packages_are_those_of_the_lock_and_come_before_the_code():
    synced = [line for line in DOCKERFILE.splitlines() if "uv sync" in line]
    assert len(synced) == 2
    assert all({"--locked", "--no-dev", "--all-extras"} <= set(line.split()) for line in synced)
    assert "--no-install-project" in stage("build")
    assert "COPY" not in stage("build")
    runtime = stage("runtime")
    assert runtime.index("COPY --from=build /app/.venv") < runtime.index("COPY . .") < runtime.index("uv sync")


def test_every_image_has_a_full_version():
    compose = yaml.safe_load((DEPLOYMENTS / "compose" / "compose.yaml").read_text())["services"].values()
    images = [*re.findall(r"(?m)^FROM (\S+:\S+)", DOCKERFILE), *(service["image"] for service in compose)]
    assert len(images) > 10
    full = re.compile(r".+:v?\d+\.\d+\.\d+(-[a-z0-9.-]+)?|postgres:\d+\.\d+-\w+")  # Postgres' versions have two parts
    assert [image for image in images if not full.fullmatch(image)] == []


def test_every_naruto_variable_is_read_by_a_program():
    named = {path: set(re.findall(r"\bNARUTO_[A-Z_]+\b", path.read_text())) for path in (
        DEPLOYMENTS / "images" / "Dockerfile",
        *sorted((DEPLOYMENTS / "compose").glob("*.yaml")),
        *sorted((DEPLOYMENTS / "k8s").rglob("*.*")),
    )}  # fmt: skip
    assert sum(map(len, named.values())) > 10
    assert {str(path): names - known_variables() for path, names in named.items() if names - known_variables()} == {}


def ignore_rules() -> list[tuple[bool, re.Pattern[str]]]:
    """(takes back in, pattern) of every line of .dockerignore, by Docker's rules for `*`, `**` and folders."""
    lines = [line.strip() for line in (HOUSE / ".dockerignore").read_text().splitlines()]
    rules = []
    for line in (line for line in lines if line and not line.startswith("#")):
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        rules.append((line.startswith("!"), re.compile(f"{pattern}(?:/.*)?")))
    return rules


def stays_outside(path: str) -> bool:
    outside = False
    for takes_back, pattern in ignore_rules():
        if pattern.fullmatch(path):
            outside = not takes_back
    return outside


@pytest.mark.parametrize("path", [
    "var/naruto.db", ".venv/bin/python", ".uv/bin/uv", ".git/config", "tests/conftest.py", ".env",
    "deployments/compose/.env", "deployments/prod.env", ".streamlit/secrets.toml", "flows/__pycache__/cli.pyc",
    "naruto_core/x.pyc", "keys.json",
    "deployments/k8s/base/service.yaml", "deployments/images/Dockerfile", "deployments/compose/compose.yaml",
    "docs/demo.png", "my-pictures/1.png", ".local/x", "id_rsa",
])  # fmt: skip
def test_private_files_stay_outside_the_image(path: str):
    assert stays_outside(path)


def test_of_the_real_tree_only_the_program_is_copied():
    """This includes untracked files: a new folder stays outside without a change of .dockerignore."""
    entries = {entry.name for entry in HOUSE.iterdir()}
    assert {name for name in entries if not stays_outside(name)} == {
        "pyproject.toml", "uv.lock", "README.md", "LICENSE", ".streamlit",
        "flows", "tasks", "naruto_core", "dashboard", "deployments",
    }  # fmt: skip
    sent = [
        path
        for room in entries
        if not stays_outside(room) and (HOUSE / room).is_dir()
        for folder, _, names in os.walk(HOUSE / room)
        for path in (Path(folder) / name for name in names)
        if not stays_outside(str(path.relative_to(HOUSE)))
    ]
    assert {path.suffix for path in sent} <= {
        ".py", ".yaml", ".yml", ".json", ".css", ".js", ".toml", ".j2", ".safetensors", ".txt", ".example", ".md",
        ".html", ".mako", ".ini", ".pbtxt", "", ".gz", ".model", ".sh",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in sent) < 40e6


def test_everything_that_runs_is_copied():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=True).stdout
    folders = ("flows/", "tasks/", "naruto_core/", "dashboard/", ".streamlit/config")
    programs = tuple(f"deployments/{name}/" for name in ("service", "prefect", "triton", "endpoint"))
    needed = [name for name in listed.split("\0") if name.startswith((*folders, *programs))]
    assert len(needed) > 150
    assert [name for name in needed if stays_outside(name)] == []
