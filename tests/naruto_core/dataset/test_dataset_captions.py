"""Captions with known faults, alone and planted in the drawn world; the words behind them."""

import io
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from naruto_core.artifacts import Layout
from naruto_core.dataset.caption_audit import (
    CaptionFault,
    audit_captions,
    colour_conflicts,
    modified_z,
    split_words,
    summarise_captions,
    word_similarity,
)
from naruto_core.dataset.ingest import ingest
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Picture, Split
from naruto_core.recipe_sections import DatasetSection
from naruto_core.scoring.features import embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.sample_metrics import cosines
from tests.naruto_core.conftest import CPU, JUDGE

Pair = tuple[Picture, ...]


def row(name: str, caption: str, duplicate_of: str = "") -> Picture:
    return Picture(name, ".png", 8, 8, caption, Split.TRAIN, "0" * 16, duplicate_of)


def kinds(*rows: Picture) -> list[tuple[str, CaptionFault]]:
    return [(finding.sha256, finding.kind) for finding in audit_captions(rows, None)]


def test_a_caption_without_letter_or_digit_is_empty():
    captions = ["...", " \n ", "—!", "a ninja", "忍者", "7"]
    assert kinds(*(row(str(i), caption) for i, caption in enumerate(captions))) == [
        (str(i), CaptionFault.EMPTY) for i in range(3)
    ]


def test_a_repeated_caption_is_found_on_each_picture_whatever_its_case_and_punctuation():
    rows = [row("a", "A ninja, running."), row("b", "a ninja  running"), row("c", "a NINJA running!"), row("d", "x")]
    findings = audit_captions(rows, None)
    assert [(f.sha256, f.kind) for f in findings] == [(name, CaptionFault.REPEATED) for name in "abc"]
    assert {f.detail for f in findings} == {"the same words on 3 pictures"}


def test_doubles_may_share_a_caption():
    assert kinds(row("a", "a ninja running"), row("b", "a ninja running", duplicate_of="a")) == []


def test_a_double_that_says_something_else_is_found_with_what_the_other_says():
    rows = [row("a", "a woman at night"), row("b", "a dog on a beach", duplicate_of="a")]
    (finding,) = audit_captions(rows, None)
    assert (finding.sha256, finding.kind) == ("b", CaptionFault.DOUBLE_DISAGREES)
    assert "'a woman at night' (Jaccard 0.00)" in finding.detail


def test_a_near_duplicate_with_similar_words_has_no_finding():
    first = row("a", "a smiling woman with long black hair at night")
    assert kinds(first, row("b", "the woman with long black hair, smiling", duplicate_of="a")) == []


def test_near_duplicates_that_differ_in_a_colour_are_found():
    first = row("a", "a woman with long black hair wearing a red kimono at night")
    second = row("b", "a woman with long blond hair wearing a red kimono at night", duplicate_of="a")
    (finding,) = audit_captions([first, second], None)
    assert "(black hair and blond hair)" in finding.detail


def test_two_captions_of_the_same_bytes_are_compared_with_each_other():
    rows = [row("a", "a dog on a beach"), row("a", "a woman at night", duplicate_of="a")]
    findings = audit_captions(rows, None)
    assert [(f.caption, f.kind) for f in findings] == [("a woman at night", CaptionFault.DOUBLE_DISAGREES)]


@pytest.mark.parametrize(
    ("caption", "conflicts"),
    [
        ("a person with black hair wearing a shirt, long blond hair", ["black hair and blond hair"]),
        ("a man with spiky red hair and blue eyes and green eyes", ["blue eyes and green eyes"]),
        ("a girl in a red open jacket on a blue background, gray background", ["blue background and gray background"]),
        ("a boy with blonde hair, yellow hair", []),  # one colour under two names
        ("a person with black hair and blue eyes wearing a white shirt on a red background", []),
        ("a boy in a black and white shirt", []),
        ("two people, one with black hair and one with blond hair", []),
        ("a man with black hair and a woman with blond hair", []),
        ("a person with black eyes, hair in a bun, blond", []),
        ("a girl in red with hair in a bun, black hair", []),  # the red is not of the hair
        ("a person with black hair eyes closed, green eyes", []),
    ],
)
def test_a_character_has_only_a_single_colour_of_each_noun(caption: str, conflicts: list[str]):
    assert colour_conflicts(caption) == conflicts
    assert kinds(row("a", caption)) == ([("a", CaptionFault.CONTRADICTS_ITSELF)] if conflicts else [])


def test_words_are_compared_as_sets_without_function_words():
    assert split_words("A T-shirt, don’t… ＲＥＤ") == ("a", "t-shirt", "don’t", "red")
    assert word_similarity("a red shirt", "the shirt is blue") == pytest.approx(1 / 3)
    assert word_similarity("a", "the") == 1.0


def test_modified_z_is_the_published_formula():
    values = np.array([2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3])  # median 2.45, MAD 0.15
    assert modified_z(values)[[0, 8]] == pytest.approx([0.6745 * -0.35 / 0.15, 0.6745 * 5.75 / 0.15])
    assert modified_z(np.array([1.0, 1.0, 1.0, 9.0])).tolist() == [0, 0, 0, 0]


def test_only_a_low_similarity_is_an_outlier():
    rows = [row(str(i), f"number {i}") for i in range(9)]
    similarity = np.array([0.70, 0.71, 0.69, 0.72, 0.68, 0.70, 0.10, 0.99, 0.70])
    (finding,) = audit_captions(rows, similarity)
    assert (finding.sha256, finding.kind) == ("6", CaptionFault.UNLIKE_PICTURE)
    assert finding.detail == "cosine 0.100, robust z -40.5, median 0.700"


@pytest.mark.parametrize("similarity", [[0.5], [0.5, float("nan")], [[0.5, 0.5]]])
def test_similarity_that_is_not_of_these_pictures_is_a_bug(similarity: list[float]):
    with pytest.raises(ValueError, match="2 finite numbers"):
        audit_captions([row("a", "one"), row("b", "two")], np.array(similarity))


def test_the_summary_counts_captions_once_and_findings_by_kind():
    rows = [row("a", "black hair, blond hair"), row("b", "black hair, blond hair"), row("c", "fine"), row("d", "too")]
    similarity = np.array([0.1, 0.2, 0.3, 0.5])
    summary = summarise_captions(rows, audit_captions(rows, None), similarity, "open_clip:x")
    assert (summary.n, summary.flagged, summary.share) == (4, 2, 0.5)
    assert summary.counts == Counter({CaptionFault.REPEATED: 2, CaptionFault.CONTRADICTS_ITSELF: 2}) | dict.fromkeys(
        set(CaptionFault) - {CaptionFault.REPEATED, CaptionFault.CONTRADICTS_ITSELF}, 0
    )
    assert (summary.extractor, summary.median_similarity) == ("open_clip:x", 0.25)


def test_a_set_without_pictures_has_no_findings_and_no_median():
    assert audit_captions([], np.zeros(0)) == []
    summary = summarise_captions([], [], np.zeros(0), "x")
    assert (summary.share, summary.extractor, summary.median_similarity) == (0.0, "", None)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, np.ndarray, np.ndarray]:
    """Sixty drawings with the captions they were drawn from, and the extractor's features of both."""
    layout = Layout(tmp_path_factory.mktemp("var"))
    version = ingest(DatasetSection(source="world:naruto?count=60&seed=5"), layout, lambda _: None).version
    pictures = tuple(read_pictures(layout, version))
    extractor = load_extractor(JUDGE, CPU)

    def load(picture: Picture) -> Image.Image:
        return Image.open(io.BytesIO(layout.picture(picture.sha256, picture.suffix).read_bytes()))

    picture_features = np.concatenate(list(embed_pictures(extractor, [lambda p=p: load(p) for p in pictures], 32)))
    return pictures, picture_features, embed_texts(extractor, [p.caption for p in pictures])


def test_captions_shuffled_among_drawings_are_detected_by_similarity(world: tuple[Pair, np.ndarray, np.ndarray]):
    pictures, picture_features, text_features = world
    correct, flagged, planted = 0, 0, 0
    for seed in range(20):  # six wrong captions of sixty, twenty times
        wrong = np.random.default_rng(seed).choice(60, 6, replace=False)
        order = np.arange(60)
        order[wrong] = np.roll(wrong, 1)
        rows = [replace(p, caption=pictures[j].caption) for p, j in zip(pictures, order, strict=True)]
        findings = audit_captions(rows, cosines(picture_features, text_features[order]))
        named = {f.sha256 for f in findings if f.kind is CaptionFault.UNLIKE_PICTURE}
        truth = {pictures[i].sha256 for i in wrong}
        correct, flagged, planted = correct + len(named & truth), flagged + len(named), planted + len(truth)
    precision, recall = correct / flagged, correct / planted
    print(f"precision {precision:.2f}, recall {recall:.2f}")
    assert precision > 0.8
    assert recall > 0.75


def test_hardly_a_true_caption_is_an_outlier(world: tuple[Pair, np.ndarray, np.ndarray]):
    pictures, picture_features, text_features = world
    findings = audit_captions(pictures, cosines(picture_features, text_features))
    assert {f.kind for f in findings} <= {CaptionFault.UNLIKE_PICTURE}
    assert len(findings) <= 3  # of 60: those that leave nearly everything out
