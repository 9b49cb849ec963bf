"""Prompt suites: read from YAML, checked, fingerprinted."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from naruto_core.domain import Prompt, PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_text import explain, read_yaml
from naruto_core.recipe_training import MAX_INT


class _PromptEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")
    text: str = Field(min_length=1, max_length=2000)
    content: str = Field(min_length=1, max_length=2000)
    tags: tuple[str, ...] = Field(min_length=1)


class _SuiteFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,60}$")
    seeds: tuple[Annotated[int, Field(ge=0, le=MAX_INT)], ...] = Field(min_length=1)
    prompts: tuple[_PromptEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _nothing_twice(self) -> "_SuiteFile":
        slugs = [prompt.slug for prompt in self.prompts]
        if twice := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
            raise ValueError(f"slugs stand twice: {', '.join(twice)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands twice")
        return self


def read_suite(path: Path, prompts: int | None = None, seeds: int | None = None) -> PromptSuite:
    """The suite in `path`, cut to its first `prompts` and `seeds` if given.

    The fingerprint covers what is drawn: slugs, texts, contents, tags and seeds.
    Raises RecipeInvalid, naming the file and the entry.
    """
    try:
        tree = read_yaml(path.read_text(encoding="utf-8"))
        suite = _SuiteFile.model_validate(tree)
    except FileNotFoundError:
        raise RecipeInvalid(f"there is no prompt suite {path}.") from None
    except (OSError, UnicodeDecodeError, RecipeInvalid) as error:
        raise RecipeInvalid(f"cannot read prompt suite {path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise RecipeInvalid(f"prompt suite {path.name}: {explain(error, _SuiteFile)}") from None
    chosen = tuple(Prompt(p.slug, p.text, p.content, p.tags) for p in suite.prompts[:prompts])
    kept = suite.seeds[:seeds]
    canonical = json.dumps([[[p.slug, p.text, p.content, p.tags] for p in chosen], kept])
    return PromptSuite(suite.name, hashlib.sha256(canonical.encode()).hexdigest(), chosen, kept)


def put_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """`text` with every word of `tokens` (whole, in upper or lower case) replaced: {"TOK": "<s0><s1>"}."""
    for word, names in tokens.items():
        text = re.sub(rf"\b{re.escape(word)}\b", names, text, flags=re.IGNORECASE)
    return text


def trigger_phrases(recipe: Recipe) -> dict[str, str]:
    """What each style is called by, with its new tokens put in: {"main": "a <s0><s1> character"}."""
    phrases = {MAIN_STYLE: recipe.training.instance_prompt} | {s.name: s.instance_prompt for s in recipe.styles}
    return {style: put_tokens(phrase, recipe.new_tokens) for style, phrase in phrases.items()}
