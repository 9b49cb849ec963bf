"""Prompt suites: reading and checking their YAML files, fingerprints, new tokens in texts, training texts."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from naruto_core.domain import Prompt, PromptSuite
from naruto_core.errors import RecipeInvalid
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_text import explain, read_text_file, read_yaml
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
    def _entries_are_unique(self) -> "_SuiteFile":
        slugs = [prompt.slug for prompt in self.prompts]
        if repeated := sorted({slug for slug in slugs if slugs.count(slug) > 1}):
            raise ValueError(f"repeated slugs: {', '.join(repeated)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is repeated")
        return self


def read_suite(path: Path, prompts: int | None = None, seeds: int | None = None) -> PromptSuite:
    """The suite in `path`, only its first `prompts` and `seeds` if they are set.

    The fingerprint covers slugs, texts, contents, tags and seeds.
    Raises RecipeInvalid with the file and the entry.
    """
    try:
        tree = read_yaml(read_text_file(path))
        suite = _SuiteFile.model_validate(tree)
    except FileNotFoundError:
        raise RecipeInvalid(f"there is no prompt suite {path}.") from None
    except ValidationError as error:
        raise RecipeInvalid(f"prompt suite {path.name}: {explain(error, _SuiteFile)}") from None
    except (OSError, ValueError, RecipeInvalid) as error:  # ValueError: no UTF-8, or a name with a zero byte
        raise RecipeInvalid(f"cannot read prompt suite {path}: {' '.join(str(error).split())}") from error
    chosen = tuple(Prompt(p.slug, p.text, p.content, p.tags) for p in suite.prompts[:prompts])
    return _suite(suite.name, chosen, suite.seeds[:seeds])


def _suite(name: str, prompts: tuple[Prompt, ...], seeds: tuple[int, ...]) -> PromptSuite:
    canonical = json.dumps([[[p.slug, p.text, p.content, p.tags] for p in prompts], seeds])
    return PromptSuite(name, hashlib.sha256(canonical.encode()).hexdigest(), prompts, seeds)


def with_trigger(suite: PromptSuite, phrase: str, trigger: str) -> PromptSuite:
    """`suite` with `trigger` in place of `phrase` in every text that has it; slugs, contents and seeds stay.

    Raises RecipeInvalid when no text has it.
    """
    pattern = re.compile(re.escape(phrase), re.IGNORECASE)
    prompts = tuple(replace(prompt, text=pattern.sub(lambda _: trigger, prompt.text)) for prompt in suite.prompts)
    if prompts == suite.prompts:
        raise RecipeInvalid(
            f"no prompt of suite {suite.name} has {phrase!r}, so the trigger {trigger!r} has no place: leave --trigger "
            "out, or write a suite whose texts have the trigger."
        )
    return _suite(f"{suite.name} with {trigger}", prompts, suite.seeds)


def insert_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """`text` with every word of `tokens` (whole words, any case) replaced by its tokens: {"TOK": "<s0><s1>"}."""
    if not tokens:
        return text
    words = sorted(tokens, key=len, reverse=True)  # the longest first: "naruto ink" is not "naruto" and a rest
    pattern = "|".join(rf"(\b{re.escape(word)}\b)" for word in words)
    return re.sub(pattern, lambda found: tokens[words[(found.lastindex or 1) - 1]], text, flags=re.IGNORECASE)


def trigger_phrases(recipe: Recipe) -> dict[str, str]:
    """The trigger phrase of each style, with its new tokens: {"main": "a <s0><s1> character"}."""
    phrases = {MAIN_STYLE: recipe.instance_prompt} | {s.name: s.instance_prompt for s in recipe.styles}
    return {style: insert_tokens(phrase, recipe.new_tokens) for style, phrase in phrases.items()}


def _leading(caption: str, phrase: str) -> re.Match[str] | None:
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    return re.match(rf"\s*{words}(?!\w|-\w)", caption, re.IGNORECASE) if words else None


def begins_with(caption: str, phrase: str) -> bool:
    """Whether `caption` begins with the words of `phrase`, in any case and with any white space between them.

    A longer word is another word: "narutos" and "naruto-like" do not begin with "naruto".
    """
    return _leading(caption, phrase) is not None


def had_prompt_twice(caption: str, instance_prompt: str) -> bool:
    """Whether earlier versions put the instance prompt before a caption that begins with it."""
    return caption != instance_prompt and begins_with(caption, instance_prompt)


def without_phrase(caption: str, phrase: str) -> str:
    """`caption` without the `phrase` that it begins with, and without the signs between both; "" if nothing is left."""
    found = _leading(caption, phrase)
    return caption[found.end() :].lstrip(" \t\n,.;:") if found else caption


def join_caption(instance_prompt: str, caption: str) -> str:
    """The training text of one picture: the instance prompt, then the caption, both unchanged.

    A class picture has no instance prompt (""): its text is its class prompt only. A picture without a caption has the
    instance prompt only; one whose caption begins with the instance prompt has the caption only.
    """
    if caption == "":
        return instance_prompt
    if not instance_prompt or begins_with(caption, instance_prompt):
        return caption
    return f"{instance_prompt}, {caption}"
