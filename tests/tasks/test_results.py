"""The cache of results: by content, checked, bounded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.results import ResultCache

KEY = ["comparison", {"n": 4}, 0.5]


def test_a_result_is_read_for_its_own_key_only(tmp_path: Path):
    kept = ResultCache(tmp_path / "results")
    assert kept.read(KEY) is None
    kept.write(KEY, {"value": 1.25, "low": None})
    assert ResultCache(tmp_path / "results").read(KEY) == {"value": 1.25, "low": None}
    assert kept.read(["comparison", {"n": 5}, 0.5]) is None


def _cut(data: bytes) -> bytes:
    return data[:-3]


def _change(data: bytes) -> bytes:
    return data.replace(b"1.25", b"1.26")


def _garble(data: bytes) -> bytes:
    return b"\xff" + data


@pytest.mark.parametrize("damage", [_cut, _change, _garble])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: Callable[[bytes], bytes]):
    kept = ResultCache(tmp_path)
    kept.write(KEY, {"value": 1.25})
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read(KEY) is None
    kept.write(KEY, {"value": 1.25})
    assert kept.read(KEY) == {"value": 1.25}


def test_results_that_were_used_last_are_kept(tmp_path: Path):
    kept = ResultCache(tmp_path, most=3)
    for number in range(3):
        kept.write(number, number)
        for age, path in enumerate(sorted(tmp_path.glob("*.json"), key=os.path.getmtime, reverse=True)):
            os.utime(path, (1000 - age, 1000 - age))
    assert kept.read(0) == 0
    kept.write(3, 3)
    assert [kept.read(number) for number in range(4)] == [0, None, 2, 3]


def test_a_result_that_is_not_json_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        ResultCache(tmp_path).write(KEY, {"value": float("nan")})
    assert not list(tmp_path.iterdir())
