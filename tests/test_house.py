"""The rules of the house that a machine can check: imports, names, sizes, paths, targets."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parent.parent
ROOMS = ("flows", "tasks", "naruto_core", "dashboard", "deployments")
UNNAMED = {"utils", "util", "helpers", "helper", "manager", "misc"}
MACHINE_PATH = re.compile("|".join(f"/{folder}" for folder in ("root/", "work/", "tmp/w", "home/[a-z]")))


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is or could be committed."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    assert listed.returncode == 0, f"these tests need the git checkout: {listed.stderr}"
    found = [HOUSE / name for name in sorted(set(listed.stdout.split("\0"))) if name]
    return [path for path in found if path.is_file()]


@pytest.fixture(scope="module")
def modules(files: list[Path]) -> list[Path]:
    """The Python files of the rooms."""
    found = [path for path in files if path.suffix == ".py" and path.relative_to(HOUSE).parts[0] in ROOMS]
    assert len(found) > 20
    return found


def test_every_import_contract_is_kept() -> None:
    linted = run(sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert linted.returncode == 0, linted.stdout + linted.stderr
    contracts = (HOUSE / ".importlinter").read_text().count("[importlinter:contract:")
    assert f"Contracts: {contracts} kept, 0 broken." in linted.stdout


def test_database_dashboard_listings_and_the_services_key_commands_load_without_torch() -> None:
    source = """
import pkgutil, sys, importlib
import flows.listings, deployments.service.__main__
names = [m.name for room in sys.argv[1:] for m in pkgutil.walk_packages([room.replace('.', '/')], room + '.')
         if not m.name.startswith('naruto_core.store.migrations')]
for name in names:
    importlib.import_module(name)
print(len(names), 'torch' in sys.modules)
"""
    loaded = run(sys.executable, "-c", source, "naruto_core.store", "dashboard")
    assert loaded.returncode == 0, loaded.stderr
    count, torch_is_loaded = loaded.stdout.split()
    assert int(count) >= 20
    assert torch_is_loaded == "False"


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_wrong_recipe_is_told_without_torch_and_prefect(command: str) -> None:
    source = """
import sys
from flows.cli import main
try:
    main()
finally:
    print({'torch', 'prefect'} & set(sys.modules))
"""
    told = run(sys.executable, "-c", source, command, "--set", "training.rank=-1")
    assert (told.returncode, told.stdout.strip()) == (1, "set()"), told.stderr
    assert "training.rank" in told.stderr


def test_no_room_is_called_utils_or_the_like(modules: list[Path]) -> None:
    names = {part for path in modules for part in (path.stem, *path.relative_to(HOUSE).parent.parts)}
    assert len(names) > 20
    assert names & UNNAMED == set()


def test_no_module_is_longer_than_400_lines(modules: list[Path]) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in modules if "versions" not in path.parts}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_a_small_module_with_one_importer_is_part_of_its_importer(modules: list[Path]) -> None:
    """Flows and tasks stay apart: one flow a file, one step a file; the others are explained in docs/decisions/0077."""
    allowed = ("flows/", "tasks/", "naruto_core/scoring/torchmetrics_fid.py", "dashboard/queries/serving.py")
    names = {".".join(path.relative_to(HOUSE).with_suffix("").parts): path for path in modules}
    importers: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                for imported in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    if imported in importers:
                        importers[imported].add(name)
    small = [name for name, path in names.items() if 0 < len(path.read_text().splitlines()) < 60]
    assert len(small) > 10
    single = [str(names[name].relative_to(HOUSE)) for name in small if len(importers[name]) == 1]
    assert [path for path in single if not path.startswith(allowed)] == []


def test_every_module_says_what_lives_there(modules: list[Path]) -> None:
    silent = [
        path for path in modules if path.name != "__init__.py" and not path.read_text().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_every_package_file_is_empty(modules: list[Path]) -> None:
    packages = [path for path in modules if path.name == "__init__.py"]
    assert {path.parent.name for path in packages} >= set(ROOMS)
    assert [path for path in packages if path.stat().st_size] == []


def test_no_file_names_a_place_on_somebodys_machine(files: list[Path]) -> None:
    visited, naming = 0, list[str]()
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue  # pictures and weights
        visited += 1
        naming += [f"{path.relative_to(HOUSE)}:{n}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert visited > 30
    assert naming == []


def test_make_alone_explains_every_target() -> None:
    phony = re.findall(r"^\.PHONY: (.*)$", (HOUSE / "Makefile").read_text(), re.MULTILINE)
    targets = " ".join(phony).split()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(["make"], cwd=HOUSE, env=environment, capture_output=True, text=True, check=True).stdout
    explained = re.findall(r"^  make ([a-z-]+) +\S.*$", told, re.MULTILINE)
    assert sorted(explained) == sorted(targets)
    assert len(targets) >= 8


def test_ci_calls_exactly_what_a_person_types() -> None:
    script = (HOUSE / ".ci" / "run").read_text().splitlines()
    commands = [line for line in script if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make test"]
    assert os.access(HOUSE / ".ci" / "run", os.X_OK)
