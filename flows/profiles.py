"""Where recipes and prompt suites are found: beside the flows that use them, or at a path."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from naruto_core.domain import PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.prompts import read_suite
from naruto_core.recipe import Recipe, read_recipe
from naruto_core.recipe_sections import GenerationSection, ImportedSection
from naruto_core.recipe_text import explain

_HERE = Path(__file__).parent


def profile_names() -> list[str]:
    """The names of the recipes that are shipped."""
    return sorted(path.stem for path in (_HERE / "recipes").glob("*.yaml"))


# Prefect's form offers these; a call from Python or from the command may also name a recipe file
Profile = Annotated[str, Field(json_schema_extra={"enum": [*profile_names()]})]
Overrides = Annotated[dict[str, Any] | None, Field(examples=[{"training.rank": 8}])]


def _find(kind: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = _HERE / kind
    path = folder / f"{name}.yaml"
    if path.parent != folder or not path.exists():
        names = sorted(p.stem for p in folder.glob("*.yaml"))
        matches = get_close_matches(name, names, 1)
        hint = f"did you mean {matches[0]}?" if matches else f"there are {', '.join(names)}."
        raise RecipeInvalid(f"there is no {'prompt suite' if kind == 'prompts' else 'recipe'} {name!r}: {hint}")
    return path


def choose_recipe(profile: str, dataset: str | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe of a profile name or .yaml path; `dataset` takes the place of its source, `overrides` are dotted.

    Raises RecipeInvalid for a recipe that cannot be read, and for primary metrics that it does not measure.
    """
    from naruto_core.scoring.metrics import check_metric_names

    values = dict(overrides or {})
    if dataset is not None:
        values = {"dataset.source": dataset, **values}
    path = _find("recipes", profile)
    recipe = read_recipe(path, values)
    check_metric_names(recipe.scoring, f"recipe {path.name}")
    return recipe


def choose_ingest(profile: str, dataset: str | None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe that pictures are ingested by: `choose_recipe`, without what only a training needs of them."""
    return choose_recipe(profile, dataset, {"training.validation": None} | dict(overrides or {}))


_UNKNOWN = ("training", "styles", "imported", "publish")  # sections that say nothing of an import


def choose_import(
    profile: str, base: str | None, dataset: str | None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """The recipe that an import is drawn and scored by: `choose_recipe`, with another `base` (folder, or ID@COMMIT).

    Raises RecipeInvalid for overrides of sections that an import does not have.
    """
    for key in overrides or {}:
        if key.partition(".")[0] in _UNKNOWN:
            raise RecipeInvalid(f"--set {key}: an import has no {key.partition('.')[0]}: leave this out.")
    values: dict[str, Any] = {"training.validation": None}  # it could not be had without held-out pictures
    if base is not None and base != choose_recipe(profile).model.base:  # else with the recipe's revision and variant
        name, at, revision = ("", "", "") if Path(base).expanduser().exists() else base.rpartition("@")
        values |= {"model.base": name if at else base, "model.revision": revision if at else None}
        values["model.variant"] = None
    values |= overrides or {}
    for key in ("clip_skip", "max_token_length"):  # a recipe has each of them twice, with the same value
        if f"generation.{key}" in values:
            values[f"training.{key}"] = values[f"generation.{key}"]
    return choose_recipe(profile, dataset, values)


def imported_section(**values: Any) -> ImportedSection:
    """The section `imported` with `values`. Raises RecipeInvalid for one that is out of range."""
    try:
        return ImportedSection.model_validate(values)
    except ValidationError as error:
        raise RecipeInvalid(f"this cannot be imported: {explain(error, ImportedSection)}") from None


def imported_recipe(recipe: Recipe, imported: ImportedSection, name: str, *, draw_base: bool = True) -> Recipe:
    """The recipe of an imported run called `name`: drawn and scored as by `recipe`; nothing is said of a training.

    Of imported pictures, `draw_base` says whether the base draws too; if not, the base is what drew the pictures.
    """
    tree = recipe.model_dump(mode="json", exclude={"training_section", "imported", "styles", "publish"})
    tree |= {"profile": _profile_name(name), "imported": imported.model_dump(mode="json"), "publish": {}}
    tree["fusion"] |= {"style_scales": {}}
    if imported.kind == "pictures":
        tree["generation"]["variants"] = ["base", "adapted"] if draw_base else ["adapted"]
        tree["fusion"] = {}
        if not draw_base:
            tree["model"] = {"base": imported.name}
    return Recipe.model_validate(tree)


def _profile_name(name: str) -> str:
    """`name` as a part of run ids: "My LoRA_v2" is "my-lora-v2"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:41].strip("-") or "imported"


def choose_suite(section: GenerationSection) -> PromptSuite:
    """The prompts that a generation section asks for."""
    return read_suite(_find("prompts", section.suite), section.prompts, section.seeds)


def all_prompt_texts() -> list[str]:
    """Every text of every suite: the words that the miniature's tokenizers must know."""
    return [p.text for path in sorted((_HERE / "prompts").glob("*.yaml")) for p in read_suite(path).prompts]
