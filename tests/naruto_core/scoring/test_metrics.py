"""The register of metrics: what a metric declares is used everywhere, and is declared once."""

import subprocess
import sys
from dataclasses import replace

import pytest

from flows.profiles import choose_recipe
from naruto_core.errors import RecipeInvalid
from naruto_core.scoring.metrics import BY_NAME, HEADLINE_METRICS, SAMPLE_METRICS, SET_METRICS, decimals
from naruto_core.scoring.registry import register
from naruto_core.scoring.set_metrics import SetMetric


@pytest.mark.parametrize("metric", BY_NAME.values(), ids=lambda metric: metric.name)
def test_every_metric_says_in_one_sentence_what_it_sees_and_what_it_is_blind_to(metric):
    for sentence in (metric.sees, metric.blind):
        assert sentence.endswith(".")
        assert "|" not in sentence  # it is a cell of a Markdown table
    assert metric.version.rstrip("0123456789") != metric.version


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="there is already a metric fid"):
        register(replace(SET_METRICS[0], version="2"))


def test_primary_metrics_of_a_recipe_are_metrics_that_exist():
    section = choose_recipe("mini", None, {"scoring.primary": sorted(BY_NAME)}).scoring
    assert set(section.primary) == set(BY_NAME)
    with pytest.raises(
        RecipeInvalid, match=r"^recipe mini\.yaml: scoring\.primary: mdm is not a metric; the metrics are"
    ):
        choose_recipe("mini", None, {"scoring.primary": ["mmd", "mdm"]})


def test_further_extractors_and_tags_give_names_of_their_own():
    assert isinstance(BY_NAME["fd"], SetMetric)
    assert BY_NAME["fd"].prepare is BY_NAME["fid"].prepare
    assert {"fid", "clip", "clip on base styles"} < set(HEADLINE_METRICS)
    assert (decimals("fd"), decimals("clip"), decimals("clip on base styles")) == (1, 3, 3)


def test_only_metrics_that_require_a_model_of_the_recipe_are_optional():
    section = choose_recipe("mini").scoring
    required = {metric.name: metric.requires.removeprefix("scoring.") for metric in SAMPLE_METRICS if metric.optional}
    assert required == {"preference": "preference_model", "aesthetic": "aesthetic_head"}
    assert all(getattr(section, key) is None for key in required.values())


# two metrics as somebody would add them, each to one file
ADDED = """
import numpy as np
from naruto_core.scoring import sample_metrics, set_metrics
from naruto_core.scoring.registry import register

def mean_distance(drawn, reference):
    distances = np.linalg.norm(drawn - reference.mean(axis=0), axis=1)
    return lambda counts: float(counts @ distances / counts.sum())

register(set_metrics.SetMetric(
    name="distance", version="1", prepare=mean_distance, axis="shift", better=-1, least=2, headline=True,
    sees="Distance to the mean.", blind="All else.",
))
register(sample_metrics.SampleMetric(
    name="norm", version="1", values=lambda features, variant: np.linalg.norm(features.sets.pictures(variant), axis=1),
    better=1, sees="Length.", blind="All else.",
))

from flows.profiles import choose_recipe
from naruto_core.domain import Variant
from naruto_core.report.tables import score_lines
from naruto_core.scoring.comparison import Side, compare
from naruto_core.scoring.evaluation import evaluate
from naruto_core.scoring.metrics import HEADLINE_METRICS
from tests.naruto_core.scoring.test_evaluation import SUITE, TEMPLATE, features

section = choose_recipe("mini", None, {"scoring.primary": ["distance", "norm"], "scoring.resamples": 100}).scoring
run = features()
scores = evaluate(run, SUITE, section, TEMPLATE).scores
print({line.metric: line.description for line in score_lines([s for s in scores if s.sample_id is None])})
sides = Side("base", run, Variant.BASE), Side("adapted", run, Variant.ADAPTED)
print([c.metric for c in compare(*sides, section) if c.primary], "distance" in HEADLINE_METRICS)
"""


def test_a_metric_that_registers_itself_is_measured_compared_shown_and_may_be_primary():
    done = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines, comparison = done.stdout.splitlines()
    assert "'distance': 'Distance to the mean. All else.'" in lines
    assert "'norm': 'Length. All else.'" in lines
    assert comparison == "['distance', 'norm'] True"
