"""README and docs say what is true: the flow is the flow, links, commands and excerpts work, generated pages are fresh.

tests/flows/test_documented_commands.py runs the commands.
"""

import ast
import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.profiles import choose_recipe
from naruto_core.sweep import SweepFile
from tests.documented_commands import PAGES, PROJECT, REASONS, Block, blocks, fences, make_targets, parse

README = (PROJECT / "README.md").read_text(encoding="utf-8")
NUMBER_OF_BLOCKS = 54  # a new block is counted here, so that none is overlooked


def _reference() -> Any:
    """The program that writes the generated pages."""
    spec = importlib.util.spec_from_file_location("reference", PROJECT / "docs" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_method_in_the_readme_is_the_flows_own_body():
    source = (PROJECT / "flows" / "train_naruto.py").read_text(encoding="utf-8")
    flow = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "train_naruto")
    lines = source.splitlines()
    first = flow.body[1].lineno - 1  # after the docstring
    body = "\n".join(line.removeprefix("    ") for line in lines[first : flow.end_lineno])
    shown = re.search(r"```python\n(.*?)\n```", README, re.DOTALL)
    assert shown
    assert shown[1] == body


def test_every_command_of_the_notebook_is_one_that_exists():
    cells = json.loads((PROJECT / "docs" / "colab.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    commands = [line.strip().removeprefix("!") for cell in code for line in cell.splitlines() if "!" in line[:5]]
    assert len(commands) == 7
    for command in commands:
        chosen = command.replace("{choices}", "--recipe t4-fast --set publish.push_to_hub=false")
        parse(shlex.split(re.sub(r"\{[^}]*\}", "X", chosen)))
    assert all(cell.get("outputs", []) == [] for cell in cells), "clear the outputs before a commit"


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_generated_pages_are_what_the_code_says_now():
    stale = [
        str(path)
        for path, text in _reference().pages().items()
        if not (PROJECT / path).is_file() or (PROJECT / path).read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `make docs` and commit what it wrote"


def test_every_key_of_a_recipe_and_every_setting_is_described():
    pages = [PROJECT / "docs" / "reference" / name for name in ("recipe.md", "settings.md", "metrics.md")]
    rows = [line for path in pages for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert [row for row in rows if row.endswith("|  |")] == []


def test_every_link_and_picture_leads_to_a_file():
    links = [
        (path, link)
        for path in [*PAGES, PROJECT / "DECISIONS.md", PROJECT / "deployments" / "README.md"]
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert len(links) > 150
    assert [(path.name, link) for path, link in links if not (path.parent / link).exists()] == []


def test_every_link_into_a_page_leads_to_a_heading():
    def headings(path: Path) -> set[str]:
        found = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        words = [re.sub(r"[^\w\s-]", "", heading.replace("`", "").lower()).strip() for heading in found]
        return {re.sub(r"[-\s]+", "-", heading) for heading in words}

    links = [
        (path, target or path.name, heading)
        for path in PAGES
        for target, heading in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", path.read_text(encoding="utf-8"))
    ]
    assert len(links) > 5
    assert [
        (path.name, target, heading) for path, target, heading in links if heading not in headings(path.parent / target)
    ] == []


def test_every_path_of_the_project_that_a_page_names_is_there():
    top = "flows|tasks|naruto_core|dashboard|deployments|docs|tests"
    named = {
        (path.name, name)
        for path in PAGES
        for name in re.findall(rf"`((?:{top})/[\w./-]*)`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert [(page, name) for page, name in sorted(named) if not (PROJECT / name).exists()] == []


def test_every_page_is_in_the_navigation_or_is_a_decision():
    text = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    docs = PROJECT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/0")} == listed


def test_the_layout_in_the_readme_names_folders_that_exist():
    layout = re.search(r"## Layout\n\n```text\n(.*?)```", README, re.DOTALL)
    assert layout
    parent, folders = "", list[str]()
    for indent, name in re.findall(r"^( *)([a-z_]+/) ", layout[1], re.MULTILINE):
        parent = parent if indent else name
        folders.append(parent + name if indent else name)
    assert len(folders) > 12
    assert [folder for folder in folders if not (PROJECT / folder).is_dir()] == []


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def test_the_recipe_excerpts_in_the_guides_are_choices_that_a_recipe_takes():
    excerpts = [yaml.safe_load(found["text"]) for _, found in fences() if found["language"] == "yaml"]
    sweeps = [excerpt for excerpt in excerpts if {"grid", "search", "pruning"} & set(excerpt)]
    of_recipes = [excerpt for excerpt in excerpts if excerpt not in sweeps]
    whole = [SweepFile.model_validate(excerpt) for excerpt in sweeps if "name" in excerpt]
    assert (len(sweeps), {sweep.search is None for sweep in whole}) == (3, {True, False})
    recipes = [choose_recipe("mini", None, _dotted(excerpt)) for excerpt in of_recipes]
    assert len(recipes) == 5
    assert any(recipe.new_tokens == {"naruto": "<s0><s1>"} for recipe in recipes)
    (styles,) = (recipe for recipe in recipes if recipe.styles)
    assert styles.training.adapters == "per-style"
    assert set(styles.fusion.style_scales) == {"main", *(style.name for style in styles.styles)}


def test_every_python_block_compiles():
    texts = [found["text"] for _, found in fences() if found["language"] == "python"]
    assert len(texts) >= 2
    for text in texts:
        ast.parse(text)


def test_no_fence_is_without_a_language_and_no_block_is_overlooked():
    assert {found["language"] for _, found in fences()} <= {"bash", "python", "text", "yaml"}
    starts = sum(path.read_text(encoding="utf-8").count("\n```bash\n") for path in PAGES)
    assert len(blocks()) == starts == NUMBER_OF_BLOCKS


def test_a_block_that_is_not_run_says_why():
    comments = sum(path.read_text(encoding="utf-8").count("<!-- not run") for path in PAGES)
    assert sum(bool(block.reason) for block in blocks()) == comments
    assert {block.reason for block in blocks() if block.reason} == REASONS
    assert sum(any(block.is_run(words) for words in block.lines) for block in blocks()) >= 11


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"{block.page}-{block.text.split(chr(10))[0][:40]}")
def test_every_command_is_one_that_its_program_takes(block: Block):
    assert block.lines
    for words in block.lines:
        parse(words)


def test_every_command_named_in_the_text_exists():
    from typer.main import get_command

    from flows.cli import app

    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"`naruto ([a-z]+)", text))
    assert {"captions", "compare", "rescore"} <= named
    assert named <= set(get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert {"demo", "up", "docs"} <= targets
    assert targets <= make_targets()


def test_every_variable_that_the_code_reads_is_in_the_settings_page():
    page = (PROJECT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    named = {
        name
        for folder in ("flows", "tasks", "naruto_core", "dashboard", "deployments")
        for path in Path(PROJECT / folder).rglob("*.py")
        for name in re.findall(r"NARUTO_[A-Z]+(?:_[A-Z]+)*\b", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 8
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def test_every_known_report_has_a_row_of_its_own_and_a_test_that_exists():
    page = (PROJECT / "docs" / "known-reports.md").read_text(encoding="utf-8")
    row = r"^\| \[([\w-]+/[\w.-]+)#(\d+)\]\(https://github\.com/\1/(?:issues|pull)/\2\) \|[^|]+\|[^|]+\| `([^`]+)` \|$"
    lines = [line for line in page.splitlines() if line.startswith("| [")]
    reports = [match for line in lines if (match := re.match(row, line))]
    assert len(reports) == len(lines) >= 40
    assert len({(match[1], match[2]) for match in reports}) == len(reports)
    tests: dict[str, set[str]] = {}
    for path, _, name in (match[3].partition("::") for match in reports):
        if path not in tests:
            tests[path] = set(
                re.findall(r"^def (test_\w+)\(", (PROJECT / path).read_text(encoding="utf-8"), re.MULTILINE)
            )
        assert name in tests[path], f"{path} has no {name}: see docs/known-reports.md"
