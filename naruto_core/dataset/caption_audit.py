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

# Words that are in nearly every caption: they do not make two captions similar.
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
# A character has only one of each: two colours of it are a contradiction.
_NOUNS = frozenset(
    "hair eyes background shirt t-shirt jacket coat hoodie sweater turtleneck kimono dress skirt pants hat headband".split()  # noqa: E501
)
# Words for a person. With two of them, or one of `_SEVERAL`, nouns may belong to different people.
_PERSON = frozenset("person man woman boy girl character ninja lady guy kid child figure".split())
_SEVERAL = frozenset(
    "two three four several many both each other another one people men women boys girls characters ninjas "
    "children kids friends group couple team pair".split()
)
_REACH = 3  # words before a noun where its colour may be: "red long open jacket"


def has_letters_or_digits(caption: str) -> bool:
    """Whether `caption` has a letter or a digit, of any script."""
    return any(sign.isalnum() for sign in caption)


def split_words(caption: str) -> tuple[str, ...]:
    """The words of `caption` in order, case-folded, without punctuation, and normalized (NFKC)."""
    return tuple(_WORD.findall(unicodedata.normalize("NFKC", caption).casefold()))


def word_similarity(first: str, second: str) -> float:
    """Jaccard index (Jaccard 1912), 0..1, of the sets of words without function words; 1 for two empty sets."""
    left, right = (set(split_words(caption)) - _FUNCTION_WORDS for caption in (first, second))
    return len(left & right) / len(left | right) if left | right else 1.0


def colour_conflicts(*captions: str) -> list[str]:
    """Nouns with two colours, e.g. "black hair and blond hair"; all `captions` are of the same picture.

    [] when a caption may describe more than one character, because colours may then belong to different people.
    """
    colours: dict[str, list[str]] = defaultdict(list)
    for caption in captions:
        words = split_words(caption)
        if _several(words):
            return []
        for noun, colour in _coloured_nouns(caption):
            if colour not in colours[noun]:
                colours[noun].append(colour)
    return [" and ".join(f"{c} {noun}" for c in names) for noun, names in sorted(colours.items()) if len(names) > 1]


def _several(words: tuple[str, ...]) -> bool:
    return bool(_SEVERAL.intersection(words)) or sum(word in _PERSON for word in words) > 1


def _coloured_nouns(caption: str) -> list[tuple[str, str]]:
    """(noun, colour) for every colour shortly before a noun, with only adjectives between."""
    pairs: list[tuple[str, str]] = []
    for part in re.split(r"[,.;:!?()]", unicodedata.normalize("NFKC", caption)):
        words = split_words(part)
        for at, noun in enumerate(words):
            if noun in _NOUNS and (colour := _colour_before(words, at)):
                pairs.append((noun, colour))
    return pairs


def _colour_before(words: tuple[str, ...], at: int) -> str | None:
    for word in reversed(words[max(0, at - _REACH) : at]):
        if word in _COLOURS:
            return _COLOURS[word]
        if word in _NOUNS or word in _FUNCTION_WORDS:
            return None
    return None


Similarity = NDArray[np.float64]

ALIKE = 0.5  # Jaccard index, 0..1, of two captions' word sets; below it, they describe different things
OUTLIER_Z = -3.5  # modified z score; below it, a value is an outlier (Iglewicz and Hoaglin 1993)


class CaptionFault(StrEnum):
    """The kinds of faults of a caption."""

    EMPTY = "empty"  # no letter and no digit
    REPEATED = "repeated"  # the same words on several different pictures
    DOUBLE_DISAGREES = "double-disagrees"  # a near duplicate has a different caption
    CONTRADICTS_ITSELF = "contradicts-itself"  # one character, one noun, two colours
    TRUNCATED = "truncated"  # longer than what the text encoders read
    UNLIKE_PICTURE = "unlike-picture"  # an outlier of picture-caption similarity


@dataclass(frozen=True, slots=True)
class CaptionFinding:
    """A fault of a caption. `sha256` and `caption` identify the row, `detail` is the reason for people."""

    sha256: str
    caption: str
    kind: CaptionFault
    detail: str


@dataclass(frozen=True, slots=True)
class CaptionSummary:
    """`n` captions, `flagged` of them with a finding (`share`, 0..1), findings by kind.

    `median_similarity` (cosine, -1..1) was measured with `extractor`; None and "" when it was not measured.
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

    `similarity` (n,) is the cosine, -1..1, of each picture with its caption; None: no search for outliers.
    `truncated` maps captions that are too long for the text encoders to a detail; None: no search for them. Raises
    ValueError when `similarity` has another shape or non-finite numbers.
    """
    if similarity is not None and (similarity.shape != (len(pictures),) or not np.isfinite(similarity).all()):
        raise ValueError(f"similarity needs {len(pictures)} finite numbers, one per picture")
    details = truncated or {}
    faults = _empty(pictures) | _repeated(pictures) | _double_disagrees(pictures) | _contradicts_itself(pictures)
    faults |= {(i, CaptionFault.TRUNCATED): details[p.caption] for i, p in enumerate(pictures) if p.caption in details}
    if similarity is not None:
        faults |= _unlike_picture(pictures, similarity)
    order = list(CaptionFault)
    keys = sorted(faults, key=lambda key: (key[0], order.index(key[1])))
    return [CaptionFinding(pictures[i].sha256, pictures[i].caption, kind, faults[i, kind]) for i, kind in keys]


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

    It is robust: up to half of the values may be outliers. All 0 where MAD is 0, when more than half are equal.
    """
    deviations = values - np.median(values)
    spread = float(np.median(np.abs(deviations)))
    return 0.6745 * deviations / spread if spread > 0 else np.zeros_like(values)


_Faults = dict[tuple[int, CaptionFault], str]  # details by row index and kind


def _empty(pictures: Sequence[Picture]) -> _Faults:
    return {
        (i, CaptionFault.EMPTY): f"{picture.caption.strip()!r} has neither letter nor digit"
        for i, picture in enumerate(pictures)
        if not has_letters_or_digits(picture.caption)
    }


def _repeated(pictures: Sequence[Picture]) -> _Faults:
    """Near duplicates count as one picture: they should have the same caption."""
    shown: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for picture in pictures:
        shown[split_words(picture.caption)].add(picture.duplicate_of or picture.sha256)
    return {
        (i, CaptionFault.REPEATED): f"the same words on {len(shown[words])} pictures"
        for i, picture in enumerate(pictures)
        if len(shown[words := split_words(picture.caption)]) > 1 and words
    }


def _double_disagrees(pictures: Sequence[Picture]) -> _Faults:
    """Captions of near duplicates are compared; with the most similar caption where the first picture has several."""
    captions: dict[str, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        captions[picture.sha256].append(i)
    faults: _Faults = {}
    for i, picture in enumerate(pictures):
        candidates = [pictures[j].caption for j in captions.get(picture.duplicate_of, ()) if j != i]
        if not candidates or not has_letters_or_digits(picture.caption):
            continue
        nearest = max(candidates, key=lambda caption: word_similarity(picture.caption, caption))
        alike = word_similarity(picture.caption, nearest)
        conflicts = colour_conflicts(nearest, picture.caption)
        if has_letters_or_digits(nearest) and (alike < ALIKE or conflicts):
            reason = conflicts[0] if conflicts else f"Jaccard {alike:.2f}"
            faults[i, CaptionFault.DOUBLE_DISAGREES] = f"a near duplicate has the caption {nearest!r} ({reason})"
    return faults


def _contradicts_itself(pictures: Sequence[Picture]) -> _Faults:
    conflicts = ((i, colour_conflicts(picture.caption)) for i, picture in enumerate(pictures))
    return {(i, CaptionFault.CONTRADICTS_ITSELF): "; ".join(nouns) for i, nouns in conflicts if nouns}


def _unlike_picture(pictures: Sequence[Picture], similarity: Similarity) -> _Faults:
    """Captions without letters are not compared: they have a fault already."""
    rows = [i for i, picture in enumerate(pictures) if has_letters_or_digits(picture.caption)]
    if not rows:
        return {}
    compared = similarity[rows]
    median, scores = float(np.median(compared)), modified_z(compared)
    return {
        (rows[i], CaptionFault.UNLIKE_PICTURE): (
            f"cosine {compared[i]:.3f}, robust z {scores[i]:.1f}, median {median:.3f}"
        )
        for i in np.flatnonzero(scores < OUTLIER_Z).tolist()
    }
