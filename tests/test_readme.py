"""The README says what is true: its flow is the flow, its commands and files exist."""

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from flows.profiles import choose_recipe
from naruto_core.scoring.metrics import SAMPLE_METRICS, SET_METRICS

HOUSE = Path(__file__).resolve().parent.parent
README = (HOUSE / "README.md").read_text()


def test_the_method_in_the_readme_is_the_flows_own_body():
    source = (HOUSE / "flows" / "train_naruto.py").read_text()
    flow = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "train_naruto")
    lines = source.splitlines()
    first = flow.body[1].lineno - 1  # after the docstring
    body = "\n".join(line.removeprefix("    ") for line in lines[first : flow.end_lineno])
    shown = re.search(r"```python\n(.*?)\n```", README, re.DOTALL)
    assert shown
    assert shown[1] == body


def test_every_file_the_readme_links_to_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert len(links) >= 6
    assert [link for link in links if not (HOUSE / link).exists()] == []


def _dotted(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_the_recipe_excerpts_in_the_readme_are_choices_that_a_recipe_takes():
    excerpts = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)\n```", README, re.DOTALL)]
    tokens, styles = (choose_recipe("mini", None, _dotted(excerpt)) for excerpt in excerpts)
    assert tokens.new_tokens == {"naruto": "<s0><s1>"}
    assert styles.training.adapters == "per-style"
    assert set(styles.fusion.style_scales) == {"main", *(style.name for style in styles.styles)}


def test_the_readme_says_of_every_metric_what_the_catalogue_says():
    told = [f"| {m.name} | {m.sees} | {m.blind} |" for m in (*SET_METRICS, *SAMPLE_METRICS)]
    assert [line for line in told if line not in README] == []


def test_every_make_target_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)\b", README))
    assert {"demo", "test", "up"} <= named
    assert named - targets - {"and"} == set()


def test_every_naruto_command_the_readme_names_exists():
    from typer.main import get_command

    from flows.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"\bnaruto ([a-z]+)", README.replace("naruto anime", "")))
    assert {"run", "ingest", "runs", "show", "scores", "verify"} <= named
    assert named <= known
