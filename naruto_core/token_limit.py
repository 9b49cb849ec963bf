"""The token limit of CLIP's text encoders: what is behind it in a text has no effect.

SDXL's encoders read 77 tokens at once, including begin and end; a recipe's `max_token_length` says in how many such
chunks a text is read (see `text_encoding`).

Tokens are counted with the base model's own tokenizers before training and drawing. Also finds different texts that
become equal by truncation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from naruto_core import sdxl
from naruto_core.errors import ModelUnusable
from naruto_core.recipe_sections import GenerationSection, ModelSection
from naruto_core.text_encoding import MARKS, TOKENS_PER_CHUNK, number_of_chunks, without_weights

_FEWEST_TOKENS = 256  # in a vocabulary: CLIP's has every byte
_LONGEST_TEXT = 10_000  # tokens
_SHOWN = 2  # examples
_WORDS_SHOWN = 5  # of an example, before the end of what is read


@dataclass(frozen=True, slots=True)
class TruncatedText:
    """A text of `tokens` tokens (without begin and end), of which the encoders read the first `limit`.

    `word` is the first word that they do not read completely; it is word number `position` of the text, from 1.
    """

    text: str
    tokens: int
    limit: int
    word: str
    position: int

    @property
    def excerpt(self) -> str:
        """The text around its end for the encoders: the last words that are read, and the first that is not."""
        before = self.text.split()[max(0, self.position - 1 - _WORDS_SHOWN) : self.position - 1]
        return f"'… {' '.join(before)}' is cut before {self.word!r}"

    @property
    def sentence(self) -> str:
        """What is truncated, without the text itself, which may be private."""
        return (
            f"{self.tokens} tokens, and the text encoders read {self.limit}: "
            f"word {self.position} of {len(self.text.split())} and what follows has no effect"
        )


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """Of `n` texts, those that are too long (longest first), and groups of texts that become equal."""

    n: int
    limit: int
    truncated: tuple[TruncatedText, ...]
    merged: tuple[tuple[str, ...], ...]

    def sentence(self, noun: str) -> str:
        """A sentence on the truncated texts: number, longest, examples. `noun` names the texts, in the plural."""
        if not self.truncated:
            return f"all {self.n} {noun} fit into the {self.limit} tokens that the text encoders read."
        examples = ", ".join(list(dict.fromkeys(cut.excerpt for cut in self.truncated))[:_SHOWN])
        counted = (
            f"{len(self.truncated)} of {self.n} {noun} are longer than the {self.limit} tokens that the text encoders "
            f"read, the longest has {self.truncated[0].tokens}: {examples}"
        )
        if self.merged:
            counted += (
                f"; {sum(map(len, self.merged))} different {noun} become {len(self.merged)} "
                f"text{'s' if len(self.merged) > 1 else ''}"
            )
        return f"{counted}."


class TokenLimit:
    """The two tokenizers of a base model, with the new tokens of a recipe, and the chunks that a text is read in."""

    def __init__(self, tokenizers: Sequence[Any], chunks: int = 1) -> None:
        self._tokenizers, self._chunks = tokenizers, chunks
        self.limit = min(self._room(tokenizer) for tokenizer in tokenizers)

    def _room(self, tokenizer: Any) -> int:
        """The tokens that are read of a text, without begin and end."""
        return self._chunks * (int(tokenizer.model_max_length) - MARKS)

    def truncated(self, text: str) -> TruncatedText | None:
        """The truncation of `text`; None when all of it is read."""
        tokens, starts = 0, list[int]()
        for tokenizer in self._tokenizers:
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            tokens = max(tokens, len(encoded.input_ids))
            limit = self._room(tokenizer)
            if len(encoded.input_ids) > limit:
                starts.append(encoded.offset_mapping[limit][0])
        if not starts:
            return None
        before = text[: min(starts)]
        words_before = before.split()
        within = bool(words_before) and not before[-1].isspace() and not text[len(before) : len(before) + 1].isspace()
        position = len(words_before) + (0 if within else 1)
        return TruncatedText(text, tokens, self.limit, text.split()[position - 1], position)

    def report(self, texts: Iterable[str]) -> TruncationReport:
        """Every text that is too long, and different texts that become equal by truncation."""
        all_texts = list(texts)
        different = list(dict.fromkeys(all_texts))
        cut = {text: end for text in self._too_long(different) if (end := self.truncated(text))}
        groups: dict[object, list[str]] = {}
        for text, tokens in zip(different, self._read(different), strict=True):
            groups.setdefault(tokens, []).append(text)
        merged = [tuple(group) for group in groups.values() if len(group) > 1 and any(text in cut for text in group)]
        longest = sorted((cut[text] for text in all_texts if text in cut), key=lambda end: -end.tokens)
        return TruncationReport(len(all_texts), self.limit, tuple(longest), tuple(merged))

    def _too_long(self, texts: Sequence[str]) -> list[str]:
        return [
            text
            for text, *ids in zip(texts, *(self._ids(tokenizer, texts) for tokenizer in self._tokenizers), strict=True)
            if any(len(i) > self._room(t) for i, t in zip(ids, self._tokenizers, strict=True))
        ]

    def _read(self, texts: Sequence[str]) -> list[object]:
        """The tokens that the encoders read of each text."""
        ids = [
            [tuple(row[: self._room(tokenizer)]) for row in self._ids(tokenizer, texts)]
            for tokenizer in self._tokenizers
        ]
        return list(zip(*ids, strict=True))

    def _ids(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []


def prompt_words(section: GenerationSection, prompt: str) -> str:
    """A prompt without its weights, where the recipe has such; ValueError for a weight that is too large."""
    return without_weights(prompt) if section.prompt_weights else prompt


def load_token_limit(
    section: ModelSection, new_tokens: Iterable[str] = (), max_token_length: int = TOKENS_PER_CHUNK
) -> TokenLimit:
    """The token limit of the base model of `section`; `new_tokens`, such as "<s0>", are added to its tokenizers.

    `max_token_length` is the recipe's.

    Raises ModelUnusable when the tokenizers are missing or invalid.
    """
    try:
        tokenizers = list(sdxl.load_tokenizers(section).values())
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load the tokenizers of {section.base}: {reason}") from error
    for tokenizer in tokenizers:
        # from a folder without files, transformers makes an empty tokenizer without a maximum length
        if len(tokenizer) < _FEWEST_TOKENS or tokenizer.model_max_length > _LONGEST_TEXT:
            raise ModelUnusable(f"{section.base} has no CLIP tokenizers in tokenizer/ and tokenizer_2/.")
        tokenizer.add_tokens(list(new_tokens))
    return TokenLimit(tokenizers, number_of_chunks(max_token_length))
