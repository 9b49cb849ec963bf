"""What differs between recipes: keys as `section.key`, values as JSON."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence


def recipe_differences(recipes: Sequence[str]) -> dict[str, list[str]]:
    """The keys in which recipes (JSON) differ, as `section.key`, with the value in each; "" where it is missing."""
    flat_recipes = [flatten(json.loads(text)) for text in recipes]
    keys = sorted({key for recipe in flat_recipes for key in recipe})
    values = {key: [recipe.get(key, "") for recipe in flat_recipes] for key in keys}
    return {key: of_key for key, of_key in values.items() if len(set(of_key)) > 1}


def changed_keys(recipes: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """For each run: the keys in which its recipe (JSON) differs from the most common value over all `recipes`.

    Of two values that are equally common, the one of the first recipe counts.
    """
    flat_recipes = {run_id: flatten(json.loads(text)) for run_id, text in recipes.items()}
    keys = {key: None for recipe in flat_recipes.values() for key in recipe}
    common = {
        key: Counter(recipe.get(key, "") for recipe in flat_recipes.values()).most_common(1)[0][0] for key in keys
    }
    return {
        run_id: {key: recipe.get(key, "") for key in sorted(keys) if recipe.get(key, "") != common[key]}
        for run_id, recipe in flat_recipes.items()
    }


def flatten(value: object, path: str = "") -> dict[str, str]:
    """The leaves of a JSON value: their paths, joined by dots, and their values as JSON."""
    if not isinstance(value, dict):
        return {path: json.dumps(value)}
    return {
        key: text for name, inner in value.items() for key, text in flatten(inner, f"{path}.{name}".lstrip(".")).items()
    }
