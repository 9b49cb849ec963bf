"""Near duplicates have hashes at most three bits apart, and all such pairs are detected."""

import time

import numpy as np
import pytest
from picture_bytes import picture
from PIL import Image

from naruto_core.dataset.duplicates import NEAR_BITS, find_duplicates, perceptual_hash
from naruto_core.dataset.ingest import assign_splits
from naruto_core.domain import Picture, Split
from naruto_core.errors import DatasetUnusable


def _distance(a: str, b: str) -> int:
    return (int(a, 16) ^ int(b, 16)).bit_count()


def _random_hashes(count: int) -> list[str]:
    return [f"{h:016x}" for h in np.random.default_rng(5).integers(0, 1 << 63, count, dtype=np.uint64).tolist()]


def _row(sha256: str, perceptual: str, caption: str = "a ninja") -> Picture:
    return Picture(sha256 * 64, ".png", 8, 8, caption, Split.TRAIN, perceptual)


def test_a_resized_picture_keeps_its_hash_and_another_does_not() -> None:
    big, other = picture(1, 256, 256), picture(2, 256, 256)
    small = big.resize((90, 90), Image.Resampling.BICUBIC)
    dim = Image.eval(big, lambda v: int(v * 0.9))
    assert _distance(perceptual_hash(big), perceptual_hash(small)) <= NEAR_BITS
    assert _distance(perceptual_hash(big), perceptual_hash(dim)) <= NEAR_BITS
    assert _distance(perceptual_hash(big), perceptual_hash(other)) > 10


def test_the_hash_of_a_known_picture_never_changes() -> None:
    """Versions remember hashes: another algorithm would have to re-hash old ones."""
    ramp = np.add.outer(np.arange(32) ** 2 % 251, np.arange(32) * 7 % 256).astype(np.uint8)
    assert perceptual_hash(Image.fromarray(ramp)) == "8a073e2f2a6b4a97"


def test_exactly_the_pairs_within_three_bits_are_detected() -> None:
    hashes = _random_hashes(300)
    flips = np.random.default_rng(6)
    for i in range(0, 120, 2):  # 1, 2, 3 or 4 bits away from an earlier one, anywhere in the 64
        bits = flips.choice(64, 1 + i // 2 % 4, replace=False).tolist()
        hashes.append(f"{int(hashes[i], 16) ^ sum(1 << bit for bit in bits):016x}")
    near = np.array([[_distance(a, b) <= NEAR_BITS for b in hashes] for a in hashes])
    np.fill_diagonal(near, val=False)
    duplicates = find_duplicates(hashes)
    assert duplicates.any.tolist() == near.any(axis=1).tolist()
    first = [int(row[:i].argmax()) if row[:i].any() else -1 for i, row in enumerate(near)]
    assert duplicates.earliest.tolist() == first
    assert duplicates.any.sum() == 90


def test_a_hundred_thousand_hashes_take_seconds() -> None:
    hashes = _random_hashes(100_000)
    began = time.process_time()
    find_duplicates([*hashes, *hashes[:10], *["00" * 8] * 20_000])
    assert time.process_time() - began < 8


def test_same_bytes_with_another_caption_are_marked_and_equal_records_stored_once() -> None:
    far = _random_hashes(2)
    rows = assign_splits([_row("b", far[0]), _row("a", far[1]), _row("a", far[1], "a kunoichi"), _row("a", far[1])], 0)
    assert [(r.sha256[0], r.caption, r.duplicate_of[:1]) for r in rows] == [
        ("a", "a kunoichi", ""),
        ("a", "a ninja", "a"),
        ("b", "a ninja", ""),
    ]


def test_a_near_duplicate_of_a_training_picture_is_never_held_out() -> None:
    first, *distinct = _random_hashes(9)
    near = f"{int(first, 16) ^ 5:016x}"
    content = [_row("0", first), _row("1", near), *(_row(f"{i + 2:x}", h) for i, h in enumerate(distinct))]
    for order in (content, content[::-1]):
        rows = assign_splits(order, len(distinct))
        assert [r.split for r in rows] == [Split.TRAIN] * 2 + [Split.REFERENCE] * len(distinct)
        assert [r.duplicate_of[:1] for r in rows[:2]] == ["", "0"]
        with pytest.raises(DatasetUnusable, match="only 8 of 10 pictures have no duplicate"):
            assign_splits(order, len(distinct) + 1)
