"""The cache of results: by content, checked, bounded."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from naruto_core import intervals
from naruto_core.git_info import SCORING_CODE
from naruto_core.mini import attribute_reader
from naruto_core.mini.pretraining import attribute_classifier
from naruto_core.report import score_table
from naruto_core.scoring import comparison, evaluation
from tasks import evaluation as tasks_evaluation
from tasks.results import ResultCache

PROJECT = Path(__file__).parents[2]

KEY = ["comparison", {"n": 4}, 0.5]


def test_results_depend_on_the_code_of_every_module_that_scores_come_from():
    modules = (attribute_reader, attribute_classifier, comparison, evaluation, intervals, score_table, tasks_evaluation)
    folders = {Path(str(module.__file__)).parent for module in modules}
    assert folders <= {PROJECT / folder for folder in SCORING_CODE}


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
