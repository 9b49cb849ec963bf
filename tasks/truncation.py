"""Texts beyond what the text encoders read: counted and said before anything is learnt or drawn from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Finding, Picture, Prompt, PromptSuite, Split
from naruto_core.errors import ModelUnusable, RecipeInvalid
from naruto_core.prompts import had_prompt_twice, insert_tokens, join_caption
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import LONGEST_TEXT
from naruto_core.scoring.findings import CUT_CAPTIONS, TRUNCATED_FOR_SCORES, TRUNCATED_TEXT
from naruto_core.textual_inversion import split_tokens
from naruto_core.token_limit import TokenLimit, TruncationReport, load_token_limit, prompt_words
from tasks.context import task_context
from tasks.progress import say

if TYPE_CHECKING:
    from naruto_core.scoring.features import Extractor


@dataclass(frozen=True, slots=True)
class StyleCaptions:
    """The pictures of one style, and the prompt that each of their captions is appended to."""

    instance_prompt: str
    pictures: Sequence[Picture]

    @property
    def n_with_prompt(self) -> int:
        """The captions that have the instance prompt at their beginning, and more: it is not put before them again."""
        return sum(had_prompt_twice(picture.caption, self.instance_prompt) for picture in self.pictures)


def limit_of(recipe: Recipe) -> TokenLimit:
    """What the text encoders of the recipe's base model read, new tokens included."""
    new_tokens = [token for tokens in recipe.new_tokens.values() for token in split_tokens(tokens)]
    return load_token_limit(recipe.model, new_tokens, recipe.generation.max_token_length)


def training_text(recipe: Recipe, instance_prompt: str, caption: str) -> str:
    """What the encoders are given for a picture: instance prompt and caption, new tokens put in."""
    return join_caption(insert_tokens(instance_prompt, recipe.new_tokens), insert_tokens(caption, recipe.new_tokens))


def read_captions(layout: Layout, recipe: Recipe, datasets: Sequence[DatasetVersion]) -> list[StyleCaptions]:
    """The captions of a run's styles, from the datasets of the recipe's own style and of the others."""
    prompts = [recipe.training.instance_prompt, *(style.instance_prompt for style in recipe.styles)]
    return [StyleCaptions(p, read_pictures(layout, d)) for p, d in zip(prompts, datasets, strict=True)]


def count_captions(recipe: Recipe, styles: Iterable[StyleCaptions], limit: TokenLimit) -> TruncationReport:
    """How many of the texts that are trained on are too long."""
    return limit.report(
        training_text(recipe, style.instance_prompt, picture.caption) for style in styles for picture in style.pictures
    )


def check_new_tokens(recipe: Recipe, styles: Sequence[StyleCaptions]) -> None:
    """Raise RecipeInvalid when no training text has the word of new tokens: they would learn nothing."""
    trained = [
        training_text(recipe, style.instance_prompt, picture.caption)
        for style in styles
        for picture in style.pictures
        if picture.split is Split.TRAIN
    ]
    for word, tokens in recipe.new_tokens.items():
        if not any(tokens in text for text in trained):
            raise RecipeInvalid(
                f"no training text has the word {word!r}, so that its new tokens would learn nothing: put the word "
                "into an instance_prompt, or set token_abstraction to a word of the captions."
            )


def prompt_sentence(styles: Iterable[StyleCaptions]) -> str:
    """How many captions have the instance prompt already; "" if none has."""
    counts = [
        f"{n} of {len(style.pictures)} captions begin with the instance prompt {style.instance_prompt!r} already"
        for style in styles
        if (n := style.n_with_prompt)
    ]
    return f"{'; '.join(counts)}: it is not put before them again." if counts else ""


def say_long_captions(recipe: Recipe, dataset: DatasetVersion) -> None:
    """After an ingest: how many captions are too long for the recipe's base model, where that can be known."""
    try:
        limit = limit_of(recipe)
    except ModelUnusable as error:
        say(f"captions that are too long for the model were not looked for: {error}")
        return
    with task_context() as context:
        captions = StyleCaptions(recipe.training.instance_prompt, read_pictures(context.layout, dataset))
    if known := prompt_sentence([captions]):
        say(known)
    report = count_captions(recipe, [captions], limit)
    if report.truncated:
        say(f"warning: with the instance prompt, {report.sentence('captions')}{_remedy(recipe)}")


def _remedy(recipe: Recipe) -> str:
    """A sentence, after a space, on how more of a text is read; "" where nothing more can be read."""
    if recipe.generation.max_token_length == LONGEST_TEXT:
        return ""
    return f" To read more, set training.max_token_length and generation.max_token_length to {LONGEST_TEXT}."


def _words(recipe: Recipe, prompt: str) -> str:
    """A prompt without its weights. Raises RecipeInvalid for one that is too large."""
    try:
        return prompt_words(recipe.generation, prompt)
    except ValueError as error:
        raise RecipeInvalid(f"{error} Lower it, or set generation.prompt_weights to false.") from None


def check_suite(recipe: Recipe, suite: PromptSuite) -> None:
    """Say which prompts are too long; RecipeInvalid when two of the suite become the same text by being cut."""
    limit, section = limit_of(recipe), recipe.generation
    for drawn_by, tokens in (("base", dict[str, str]()), ("adapted and fused", recipe.new_tokens)):
        by_text: dict[str, list[Prompt]] = {}
        for prompt in suite.prompts:
            by_text.setdefault(insert_tokens(_words(recipe, prompt.text), tokens), []).append(prompt)
        report = limit.report(by_text)
        if report.merged:
            slugs = ", ".join(prompt.slug for text in report.merged[0] for prompt in by_text[text])
            raise RecipeInvalid(
                f"suite {suite.name}: the prompts {slugs} would draw the same pictures: the text encoders read "
                f"{report.limit} tokens, and they differ only behind those; shorten them, or leave all but one "
                f"out.{_remedy(recipe)}"
            )
        if report.truncated and (tokens or drawn_by == "base"):
            say(f"warning: suite {suite.name}: {report.sentence(f'prompts ({drawn_by})')}")
    other_texts = {"negative_prompt": _words(recipe, section.negative_prompt)}
    prior = recipe.training_section and recipe.training.prior
    other_texts |= {f"class_prompts.{number}": text for number, text in enumerate(prior.class_prompts if prior else ())}
    for name, text in other_texts.items():
        if cut := limit.truncated(text):
            say(f"warning: {name}: {cut.sentence} (from {cut.word!r})")


def find_text_beyond_scores(run_id: str, extractor: "Extractor", texts: Mapping[str, Sequence[str]]) -> Finding:
    """How many texts `extractor` reads only in part, so that the CLIP scores do not see their ends.

    `texts` are by what they are, in the plural: {"prompts": [...]}. The text encoders of the base model may read more
    than the network of the scores (training.max_token_length).
    """
    cut = {noun: len(extractor.truncated(list(of_noun))) for noun, of_noun in texts.items()}
    if not any(cut.values()):
        sentence = f"the network of the CLIP scores reads all {' and '.join(texts)} to their end."
        return Finding(run_id, TRUNCATED_FOR_SCORES, False, sentence, dict.fromkeys(cut, 0.0))
    counted = " and ".join(f"{cut[noun]} of {len(texts[noun])} {noun}" for noun in texts if cut[noun])
    sentence = (
        f"{counted} are longer than the network of the CLIP scores reads: those scores do not see their ends; "
        "put what matters first, or name a network that reads longer texts in scoring.pair_extractor."
    )
    return Finding(run_id, TRUNCATED_FOR_SCORES, True, sentence, {noun: float(count) for noun, count in cut.items()})


def find_truncated_text(
    run_id: str, recipe: Recipe, styles: Iterable[StyleCaptions], suite: PromptSuite, limit: TokenLimit
) -> Finding:
    """What was cut of the captions and prompts of a run, as a finding on it; of an import, which has no `styles`, only
    of the prompts. A warning needs a cut prompt, or `CUT_CAPTIONS` of the captions.
    """
    captions = count_captions(recipe, styles, limit)
    negative = _words(recipe, recipe.generation.negative_prompt)
    prompts = limit.report(
        dict.fromkeys(
            text
            for prompt in suite.prompts
            for words in [_words(recipe, prompt.text)]
            for text in (words, insert_tokens(words, recipe.new_tokens))
        )
    )
    parts = [captions.sentence("captions")] if captions.n else []
    sentence = " ".join(part[0].upper() + part[1:] for part in (*parts, prompts.sentence("prompts")))
    figures = {
        "captions": float(len(captions.truncated)),
        "captions_merged": float(sum(map(len, captions.merged))),
        "prompts": float(len(prompts.truncated)),
    }
    if cut := limit.truncated(negative):
        sentence += f" The negative prompt has {cut.sentence}."
        figures["negative_prompt"] = 1.0
    of_captions = bool(captions.truncated) and len(captions.truncated) >= CUT_CAPTIONS * captions.n
    warning = bool(of_captions or prompts.truncated or cut)
    return Finding(run_id, TRUNCATED_TEXT, warning, sentence, figures)
