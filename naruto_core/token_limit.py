"""How much of a text CLIP's encoders read: SDXL's 77 tokens, begin and end among them; what is behind is cut.

Counted with the base model's own tokenizers, so that a text is known to be too long before anything is drawn or learnt
from it, and so are different texts of which the encoders read the same.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from naruto_core import sdxl
from naruto_core.errors import ModelUnusable
from naruto_core.recipe import ModelSection

_MARKS = 2  # begin and end of text
_FEWEST_TOKENS = 256  # of a vocabulary: CLIP has every byte
_LONGEST_TEXT = 10_000  # tokens
_SHOWN = 2  # examples
_WORDS_SHOWN = 5  # of an example, before the cut


@dataclass(frozen=True, slots=True)
class TruncatedText:
    """A text of `tokens`, begin and end left out, of which the encoders read the first `limit`.

    `word` is the first that they do not read, or not wholly; it is number `position` of the text, counted from 1.
    """

    text: str
    tokens: int
    limit: int
    word: str
    position: int

    @property
    def place(self) -> str:
        """Where the text is cut: the last words that are read, and the first that is not."""
        before = self.text.split()[max(0, self.position - 1 - _WORDS_SHOWN) : self.position - 1]
        return f"'… {' '.join(before)}' is cut before {self.word!r}"

    @property
    def sentence(self) -> str:
        """What is cut, without a word of the text itself: it may be private."""
        return (
            f"{self.tokens} tokens, and the text encoders read {self.limit}: "
            f"word {self.position} of {len(self.text.split())} and what follows has no effect"
        )


@dataclass(frozen=True, slots=True)
class TruncationReport:
    """Of `n` texts those that are too long, the longest first, and groups of different texts that become the same."""

    n: int
    limit: int
    truncated: tuple[TruncatedText, ...]
    merged: tuple[tuple[str, ...], ...]

    def sentence(self, noun: str) -> str:
        """How many of the texts, which are called `noun` (plural), are too long; the longest and examples."""
        if not self.truncated:
            return f"all {self.n} {noun} fit into the {self.limit} tokens that the text encoders read."
        examples = ", ".join(list(dict.fromkeys(cut.place for cut in self.truncated))[:_SHOWN])
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
    """The two tokenizers of a base model, with the new tokens of a recipe."""

    def __init__(self, tokenizers: Sequence[Any]) -> None:
        self._tokenizers = tokenizers
        self.limit = min(int(tokenizer.model_max_length) for tokenizer in tokenizers) - _MARKS

    def truncated(self, text: str) -> TruncatedText | None:
        """What is cut of `text`; None when all of it is read."""
        tokens, starts = 0, list[int]()
        for tokenizer in self._tokenizers:
            read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            tokens = max(tokens, len(read.input_ids))
            limit = tokenizer.model_max_length - _MARKS
            if len(read.input_ids) > limit:
                starts.append(read.offset_mapping[limit][0])
        if not starts:
            return None
        before = text[: min(starts)]
        words_before = before.split()
        within = bool(words_before) and not before[-1].isspace() and not text[len(before) : len(before) + 1].isspace()
        position = len(words_before) + (0 if within else 1)
        return TruncatedText(text, tokens, self.limit, text.split()[position - 1], position)

    def report(self, texts: Iterable[str]) -> TruncationReport:
        """Every text that is too long, and different ones that become the same by being cut."""
        every = list(texts)
        different = list(dict.fromkeys(every))
        cut = {text: found for text in self._too_long(different) if (found := self.truncated(text))}
        groups: dict[object, list[str]] = {}
        for text, read in zip(different, self._read(different), strict=True):
            groups.setdefault(read, []).append(text)
        merged = [tuple(group) for group in groups.values() if len(group) > 1 and any(text in cut for text in group)]
        longest = sorted((cut[text] for text in every if text in cut), key=lambda found: -found.tokens)
        return TruncationReport(len(every), self.limit, tuple(longest), tuple(merged))

    def _too_long(self, texts: Sequence[str]) -> list[str]:
        return [
            text
            for text, *ids in zip(texts, *(self._ids(tokenizer, texts) for tokenizer in self._tokenizers), strict=True)
            if any(len(i) > t.model_max_length - _MARKS for i, t in zip(ids, self._tokenizers, strict=True))
        ]

    def _read(self, texts: Sequence[str]) -> list[object]:
        """What the encoders read of each text, to be compared."""
        ids = [
            [tuple(one[: tokenizer.model_max_length - _MARKS]) for one in self._ids(tokenizer, texts)]
            for tokenizer in self._tokenizers
        ]
        return list(zip(*ids, strict=True))

    def _ids(self, tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
        return tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids if texts else []


def load_token_limit(section: ModelSection, new_tokens: Iterable[str] = ()) -> TokenLimit:
    """The limit of the base model of `section`, whose tokenizers learn `new_tokens`, such as "<s0>".

    Raises ModelUnusable when the tokenizers are missing or are none.
    """
    from transformers import CLIPTokenizer

    place, revision = sdxl.locate(section.base, section.revision)
    pinned: dict[str, Any] = {"revision": revision or "main"}  # of a folder it means nothing
    try:
        tokenizers: list[Any] = [
            CLIPTokenizer.from_pretrained(place, subfolder=part, **pinned) for part in ("tokenizer", "tokenizer_2")
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load the tokenizers of {section.base}: {reason}") from error
    for tokenizer in tokenizers:
        # of a folder without files, transformers makes a tokenizer that knows nothing and has no end
        if len(tokenizer) < _FEWEST_TOKENS or tokenizer.model_max_length > _LONGEST_TEXT:
            raise ModelUnusable(f"{section.base} has no CLIP tokenizers in tokenizer/ and tokenizer_2/.")
        tokenizer.add_tokens(list(new_tokens))
    return TokenLimit(tokenizers)
