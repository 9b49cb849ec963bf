"""Caption noise: captions that are empty, repeated, contradictory, or that do not describe their picture."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from naruto_core.domain import Picture

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


def has_letters_or_digits(caption: str) -> bool:
    """Whether there is a letter or a digit in it, of any script."""
    return any(sign.isalnum() for sign in caption)


def split_words(caption: str) -> tuple[str, ...]:
    """Its words in order, without case, punctuation and the ways Unicode has of writing one sign."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", caption).casefold()))


def word_similarity(first: str, second: str) -> float:
    """Jaccard index, 0..1, of the sets of words (Jaccard 1912) without function words; 1 for two empty sets."""
    one, other = (set(split_words(caption)) - _FUNCTION_WORDS for caption in (first, second))
    return len(one & other) / len(one | other) if one | other else 1.0


def colour_conflicts(*captions: str) -> list[str]:
    """What has two colours, e.g. "black hair and blond hair", by noun; all `captions` tell of one picture.

    A caption that may speak of more than one character has none, because colours then belong to different people.
    """
    colours: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        words = split_words(caption)
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
        words = split_words(part)
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


Similarity = NDArray[np.float64]

ALIKE = 0.5  # Jaccard index, 0..1, of two captions' word sets: under it, they tell of different things
OUTLIER_Z = -3.5  # modified z score under which a value is an outlier (Iglewicz and Hoaglin 1993)


class CaptionFault(StrEnum):
    """What may be wrong with a caption."""

    EMPTY = "empty"  # no letter and no digit
    REPEATED = "repeated"  # word for word on several pictures that do not look alike
    DOUBLE_DISAGREES = "double-disagrees"  # a picture of nearly the same shapes says something else
    CONTRADICTS_ITSELF = "contradicts-itself"  # one character, one noun, two colours
    TRUNCATED = "truncated"  # longer than what the text encoders read
    UNLIKE_PICTURE = "unlike-picture"  # an outlier of picture-caption similarity


@dataclass(frozen=True, slots=True)
class CaptionFinding:
    """One fault of one caption. `sha256` and `caption` name the row, `detail` says why, for people."""

    sha256: str
    caption: str
    kind: CaptionFault
    detail: str


@dataclass(frozen=True, slots=True)
class CaptionSummary:
    """`n` captions, `flagged` of them with a finding (`share`, 0..1), findings by kind.

    `median_similarity` (cosine, -1..1) was measured by `extractor`; None and "" when nothing was measured.
    """

    n: int
    flagged: int
    share: float
    counts: dict[CaptionFault, int]
    extractor: str
    median_similarity: float | None


def audit_captions(
    pictures: Sequence[Picture], similarity: Similarity | None, truncated: Mapping[str, str] | None = None
) -> list[CaptionFinding]:
    """Every fault of every caption, in the order of `pictures` and then of the kinds.

    `similarity` (n,) is the cosine, -1..1, of each picture with its own caption; None leaves outliers out.
    `truncated` says of captions that are too long for the text encoders what is cut; None leaves them out. Raises
    ValueError when it is not of these pictures or holds something else than numbers.
    """
    if similarity is not None and (similarity.shape != (len(pictures),) or not np.isfinite(similarity).all()):
        raise ValueError(f"similarity needs {len(pictures)} finite numbers, one a picture")
    cut = truncated or {}
    found = _empty(pictures) | _repeated(pictures) | _double_disagrees(pictures) | _contradicts_itself(pictures)
    found |= {(i, CaptionFault.TRUNCATED): cut[p.caption] for i, p in enumerate(pictures) if p.caption in cut}
    if similarity is not None:
        found |= _unlike_picture(similarity)
    order = list(CaptionFault)
    places = sorted(found, key=lambda place: (place[0], order.index(place[1])))
    return [CaptionFinding(pictures[i].sha256, pictures[i].caption, kind, found[i, kind]) for i, kind in places]


def summarise_captions(
    pictures: Sequence[Picture], findings: Sequence[CaptionFinding], similarity: Similarity | None, extractor: str
) -> CaptionSummary:
    """The figures of an audit; see CaptionSummary."""
    flagged = len({(finding.sha256, finding.caption) for finding in findings})
    measured = similarity is not None and len(similarity) > 0
    return CaptionSummary(
        n=len(pictures),
        flagged=flagged,
        share=flagged / len(pictures) if pictures else 0.0,
        counts={kind: sum(finding.kind is kind for finding in findings) for kind in CaptionFault},
        extractor=extractor if measured else "",
        median_similarity=float(np.median(similarity)) if similarity is not None and measured else None,
    )


def modified_z(values: Similarity) -> Similarity:
    """0.6745 (x - median) / MAD of each value (Iglewicz and Hoaglin 1993), MAD the median absolute deviation.

    Up to half of the values may be wrong and hardly move it. All 0 where MAD is 0: more than half are equal.
    """
    away = values - np.median(values)
    spread = float(np.median(np.abs(away)))
    return 0.6745 * away / spread if spread > 0 else np.zeros_like(values)


_Found = dict[tuple[int, CaptionFault], str]  # what is wrong at which place, in words


def _empty(pictures: Sequence[Picture]) -> _Found:
    return {
        (i, CaptionFault.EMPTY): f"{picture.caption.strip()!r} has neither letter nor digit"
        for i, picture in enumerate(pictures)
        if not has_letters_or_digits(picture.caption)
    }


def _repeated(pictures: Sequence[Picture]) -> _Found:
    """Duplicates count as one picture: of them, the same caption is right."""
    shown: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for picture in pictures:
        shown[split_words(picture.caption)].add(picture.duplicate_of or picture.sha256)
    return {
        (i, CaptionFault.REPEATED): f"the same words on {len(shown[words])} pictures"
        for i, picture in enumerate(pictures)
        if len(shown[words := split_words(picture.caption)]) > 1 and words
    }


def _double_disagrees(pictures: Sequence[Picture]) -> _Found:
    """Compared with the picture it is a double of; with the nearest caption, where that one has several."""
    captions: dict[str, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        captions[picture.sha256].append(i)
    found: _Found = {}
    for i, picture in enumerate(pictures):
        others = [pictures[j].caption for j in captions.get(picture.duplicate_of, ()) if j != i]
        if not others or not has_letters_or_digits(picture.caption):
            continue
        nearest = max(others, key=lambda other: word_similarity(picture.caption, other))
        alike = word_similarity(picture.caption, nearest)
        conflicts = colour_conflicts(nearest, picture.caption)
        if has_letters_or_digits(nearest) and (alike < ALIKE or conflicts):
            why = conflicts[0] if conflicts else f"Jaccard {alike:.2f}"
            found[i, CaptionFault.DOUBLE_DISAGREES] = f"a picture of nearly the same shapes says {nearest!r} ({why})"
    return found


def _contradicts_itself(pictures: Sequence[Picture]) -> _Found:
    conflicts = ((i, colour_conflicts(picture.caption)) for i, picture in enumerate(pictures))
    return {(i, CaptionFault.CONTRADICTS_ITSELF): "; ".join(told) for i, told in conflicts if told}


def _unlike_picture(similarity: Similarity) -> _Found:
    if not len(similarity):
        return {}
    median, scores = float(np.median(similarity)), modified_z(similarity)
    return {
        (i, CaptionFault.UNLIKE_PICTURE): f"cosine {similarity[i]:.3f}, robust z {scores[i]:.1f}, median {median:.3f}"
        for i in np.flatnonzero(scores < OUTLIER_Z).tolist()
    }
