"""Where recipes and prompt suites are found: beside the flows that use them, or at a path."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from naruto_core.domain import PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.prompts import read_suite
from naruto_core.recipe import GenerationSection, Recipe, read_recipe

_HERE = Path(__file__).parent


def _find(kind: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = _HERE / kind
    path = folder / f"{name}.yaml"
    if path.parent != folder or not path.exists():
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        matches = get_close_matches(name, names, 1)
        hint = f"did you mean {matches[0]}?" if matches else f"there are {', '.join(names)}."
        raise RecipeInvalid(f"there is no {kind[:-1]} {name!r}: {hint}")
    return path


def choose_recipe(profile: str, dataset: str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a profile name or .yaml path; `dataset` takes the place of its source, `overrides` are dotted.

    Raises RecipeInvalid for a recipe that cannot be read, and for primary metrics that do not exist.
    """
    from naruto_core.scoring.metrics import check_metric_names

    values = dict(overrides or {})
    if dataset is not None:
        values = {"dataset.source": dataset, **values}
    path = _find("recipes", profile)
    recipe = read_recipe(path, values)
    check_metric_names(recipe.scoring.primary, f"recipe {path.name}: scoring.primary")
    return recipe


def choose_suite(section: GenerationSection) -> PromptSuite:
    """The prompts that a generation section asks for."""
    return read_suite(_find("prompts", section.suite), section.prompts, section.seeds)


def profile_names() -> list[str]:
    """The names of the recipes that are shipped."""
    return sorted(path.stem for path in (_HERE / "recipes").glob("*.yaml"))


def all_prompt_texts() -> list[str]:
    """Every text of every suite: the words that the miniature's tokenizers must know."""
    return [p.text for path in sorted((_HERE / "prompts").glob("*.yaml")) for p in read_suite(path).prompts]
