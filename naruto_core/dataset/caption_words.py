"""The words of a caption: which they are, how alike two captions are, and colours that exclude each other."""

import re
import unicodedata
from collections import defaultdict

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")

# Words every captioner puts into every sentence: two captions are not alike for having them.
_FUNCTION_WORDS = frozenset(
    "a an the and or of in on at by to for from with without is are has have his her their its it that this "
    "wearing who which while as there picture image".split()
)
_COLOURS = {
    name: names.split()[0]
    for names in (
        "blond blonde golden yellow", "gray grey silver", "black", "white", "red", "orange", "brown", "green",
        "blue", "purple violet", "pink",
    )
    for name in names.split()
}  # fmt: skip
# One character has one of each: two colours of it are one too many.
_NOUNS = frozenset(
    "hair eyes background shirt t-shirt jacket coat hoodie sweater turtleneck kimono dress skirt pants hat headband".split()  # noqa: E501
)
# Who a caption may speak of. Two of them, or one of `_SEVERAL`, and its nouns may belong to different people.
_ONE = frozenset("person man woman boy girl character ninja lady guy kid child figure".split())
_SEVERAL = frozenset(
    "two three four several many both each other another one people men women boys girls characters ninjas "
    "children kids friends group couple team pair".split()
)
_REACH = 3  # words between a colour and its noun, and one more: "red long open jacket"


def says_something(caption: str) -> bool:
    """Whether there is a letter or a digit in it, of any script."""
    return any(sign.isalnum() for sign in caption)


def words_of(caption: str) -> tuple[str, ...]:
    """Its words in order, without case, punctuation and the ways Unicode has of writing one sign."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", caption).casefold()))


def words_alike(first: str, second: str) -> float:
    """Jaccard index, 0..1, of the sets of words (Jaccard 1912) without function words; 1 for two empty sets."""
    one, other = (set(words_of(caption)) - _FUNCTION_WORDS for caption in (first, second))
    return len(one & other) / len(one | other) if one | other else 1.0


def colour_conflicts(*captions: str) -> list[str]:
    """What has two colours, e.g. "black hair and blond hair", by noun; all `captions` tell of one picture.

    A caption that may speak of more than one character has none, because colours then belong to different people.
    """
    colours: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        words = words_of(caption)
        if _several(words):
            return []
        for noun, colour in _coloured_nouns(caption):
            if colour not in colours[noun]:
                colours[noun].append(colour)
    return [" and ".join(f"{c} {noun}" for c in found) for noun, found in sorted(colours.items()) if len(found) > 1]


def _several(words: tuple[str, ...]) -> bool:
    return bool(_SEVERAL.intersection(words)) or sum(word in _ONE for word in words) > 1


def _coloured_nouns(caption: str) -> list[tuple[str, str]]:
    """(noun, colour) wherever a colour stands shortly before one of the nouns, with only qualities between."""
    found: list[tuple[str, str]] = []
    for part in re.split(r"[,.;:!?()]", unicodedata.normalize("NFKC", caption)):
        words = words_of(part)
        for at, noun in enumerate(words):
            if noun in _NOUNS and (colour := _colour_before(words, at)):
                found.append((noun, colour))
    return found


def _colour_before(words: tuple[str, ...], at: int) -> str | None:
    for word in reversed(words[max(0, at - _REACH) : at]):
        if word in _COLOURS:
            return _COLOURS[word]
        if word in _NOUNS or word in _FUNCTION_WORDS:
            return None
    return None
