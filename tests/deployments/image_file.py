"""The Dockerfile and the settings, for tests that compare other files with them."""

import re
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import yaml

from deployments.prefect.local import LocalSettings
from deployments.service.options import ServiceOptions
from naruto_core.settings import PREFIX, Settings

HOUSE = Path(__file__).parents[2]
DEPLOYMENTS = HOUSE / "deployments"
DOCKERFILE = (DEPLOYMENTS / "images" / "Dockerfile").read_text()
TARGETS = ("worker", "service", "dashboard")
LISTENS = {"worker": "8080", "service": "8000", "dashboard": "8501"}
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]


def stage(name: str) -> str:
    """The instructions of one stage, without comments, a line each."""
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", DOCKERFILE))
    (instructions,) = re.findall(rf"(?ms)^FROM (\S+ AS {name}\n.*?)(?=^FROM |\Z)", text)
    return instructions


def instruction(name: str, of: str) -> str:
    """The arguments of the only instruction `name` of stage `of`."""
    (arguments,) = re.findall(rf"(?m)^{name} (.+)$", stage(of))
    return arguments


def command(of: str) -> list[str]:
    return yaml.safe_load(instruction("CMD", of))


def known_variables() -> set[str]:
    """Every NARUTO_* variable that a program or prefect.yaml reads."""
    in_prefect_yaml = set(re.findall(r"\$(NARUTO_\w+)", (DEPLOYMENTS / "prefect" / "prefect.yaml").read_text()))
    return in_prefect_yaml | {
        f"{prefix}{field}".upper()
        for kind, prefix in (
            (Settings, PREFIX),
            (LocalSettings, PREFIX),
            (ServiceOptions, ServiceOptions.model_config.get("env_prefix", "")),
        )
        for field in kind.model_fields
    }


def dependencies() -> set[str]:
    return {re.split(r"[^\w-]", line)[0].lower() for line in PROJECT["dependencies"]} | {PROJECT["name"]}


def ships(program: str) -> bool:
    """Whether this command belongs to a package that the image installs by name."""
    (entry_point,) = entry_points(group="console_scripts", name=program)
    assert entry_point.dist is not None
    return entry_point.dist.name.lower() in dependencies()


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
