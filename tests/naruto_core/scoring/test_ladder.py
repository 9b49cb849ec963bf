"""Made-up generators whose order is known: what the metrics must see, and what they are known to miss."""

from functools import cache

import pytest

from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.metrics import BY_NAME
from tests.naruto_core.conftest import CPU, JUDGE
from tests.naruto_core.scoring.ladder import RUNGS, build_ladder, climb, failed


@cache
def found() -> dict[str, dict[str, float]]:
    return climb(build_ladder(load_extractor(JUDGE, CPU)))


@pytest.mark.parametrize("metric", ["fid", "kid", "cmmd", "mmd", "coverage"])
def test_a_perfect_generator_is_above_all_worse_ones_but_a_copier(metric: str):
    assert set(failed(found()[metric], BY_NAME[metric].better)) <= {"copies"}


@pytest.mark.parametrize("metric", ["fid", "cmmd", "mmd", "style"])
def test_the_wrong_style_is_further_away_than_the_right_one_with_less_variety(metric: str):
    values, sign = found()[metric], BY_NAME[metric].better
    assert sign * values["perfect"] >= sign * values["fewer hair colours"] - 0.01 > sign * values["wrong style"]


def test_a_collapsed_generator_has_the_fewest_different_pictures_and_no_recall():
    assert min(found()["vendi"], key=found()["vendi"].__getitem__) == "collapsed"
    assert found()["recall"]["collapsed"] < 0.05


def test_precision_density_and_style_do_not_see_a_collapse_so_they_never_stand_alone():
    for metric in ("precision", "density", "style"):
        assert "collapsed" in failed(found()[metric], 1), metric


def test_copies_of_the_training_set_are_flagged_and_nothing_else_is():
    flagged = found()["flagged as copies"]
    assert flagged["copies"] == 1
    assert all(flagged[rung] < 0.05 for rung in RUNGS if rung != "copies")
    named = found()["named as copies"]
    assert named == {rung: float(rung == "copies") for rung in RUNGS}
