"""Made-up generators whose order is known: what the metrics must see, and what they are known not to see."""

from functools import cache

import pytest

from naruto_core.scoring.features import load_extractor
from naruto_core.scoring.metrics import BY_NAME
from tests.naruto_core.conftest import CPU, JUDGE
from tests.naruto_core.scoring.ladder import RUNGS, build_ladder, failed_rungs, ladder_values


@cache
def values() -> dict[str, dict[str, float]]:
    return ladder_values(build_ladder(load_extractor(JUDGE, CPU), 72, n_training=100, n_reference=160))


@pytest.mark.parametrize("metric", ["fid", "kid", "cmmd", "mmd", "coverage"])
def test_a_perfect_generator_scores_better_than_all_others_but_one_that_copies(metric: str):
    assert set(failed_rungs(values()[metric], BY_NAME[metric].better)) <= {"copies"}


@pytest.mark.parametrize("metric", ["fid", "cmmd", "mmd"])
def test_the_wrong_style_scores_worse_than_the_right_style_with_less_variety(metric: str):
    of_rungs, sign = values()[metric], BY_NAME[metric].better
    assert sign * of_rungs["perfect"] >= sign * of_rungs["fewer hair colours"] - 0.01 > sign * of_rungs["wrong style"]


def test_the_style_of_every_generator_of_the_right_style_is_far_above_that_of_the_others():
    style = values()["style"]
    others = {"wrong style", "base"}
    assert min(style[rung] for rung in set(RUNGS) - others) > 0.3 + max(style[rung] for rung in others)


def test_a_collapsed_generator_has_the_fewest_different_pictures_and_no_recall():
    assert min(values()["vendi"], key=values()["vendi"].__getitem__) == "collapsed"
    assert values()["recall"]["collapsed"] < 0.05


def test_precision_density_and_style_do_not_see_that_variety_is_lost_so_they_are_never_used_alone():
    for metric in ("precision", "density", "style"):
        of_rungs = values()[metric]
        assert of_rungs["fewer hair colours"] > 0.8 * of_rungs["perfect"], metric
    assert "collapsed" in failed_rungs(values()["precision"], 1)


def test_copies_of_the_training_set_are_flagged_and_nothing_else_is():
    flagged = values()["flagged as copies"]
    assert flagged["copies"] == 1
    assert all(flagged[rung] < 0.05 for rung in RUNGS if rung != "copies")
    named = values()["named as copies"]
    assert named == {rung: float(rung == "copies") for rung in RUNGS}
