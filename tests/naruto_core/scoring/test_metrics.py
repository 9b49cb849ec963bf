"""The register of metrics: what a metric declares is used everywhere, and is declared once."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from flows.profiles import choose_recipe
from naruto_core.errors import RecipeInvalid
from naruto_core.scoring.feature_set import FeatureSet
from naruto_core.scoring.metrics import (
    BY_NAME,
    SAMPLE_METRICS,
    SET_METRICS,
    decimals,
    direction,
    find_metric,
    headline_metrics,
    is_in_lists,
)
from naruto_core.scoring.model_metrics import MODEL_METRICS
from naruto_core.scoring.registry import extractor_label, register
from naruto_core.scoring.sample_metrics import ATTRIBUTES
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


def test_primary_metrics_of_a_recipe_are_metrics_that_it_measures():
    names = sorted(set(BY_NAME) - {"fid", "kid", "vqa", "preference", "aesthetic"} | {"fd-judge", "kd-judge", "fid"})
    changes = {"scoring.primary": names, "scoring.more_set_extractors": ["inception"]}
    assert set(choose_recipe("mini", None, changes).scoring.primary) == set(names)
    with pytest.raises(
        RecipeInvalid, match=r"^recipe mini\.yaml: scoring\.primary: mdm is not a metric; the metrics are"
    ):
        choose_recipe("mini", None, {"scoring.primary": ["mmd", "mdm"]})
    with pytest.raises(RecipeInvalid, match=r"fid is measured with Inception only, .* there it is called fd-judge"):
        choose_recipe("mini", None, {"scoring.primary": ["fid"]})
    with pytest.raises(RecipeInvalid, match=r"a/dino and b/dino are both called dino .* another name"):
        choose_recipe("mini", None, {"scoring.more_set_extractors": ["a/dino", "b/dino"]})


@pytest.mark.parametrize("name", ["vqa", "preference", "aesthetic"])
def test_a_primary_metric_whose_model_is_not_named_is_refused_before_the_training(name: str) -> None:
    with pytest.raises(RecipeInvalid, match=rf"scoring\.primary: {name} is measured only where scoring\.\w+ names"):
        choose_recipe("mini", None, {"scoring.primary": ["mmd", name]})


@pytest.mark.parametrize(
    ("extractor", "label"),
    [
        ("package:naruto_core.mini/weights/judge", "judge"),
        ("inception:weights/inception.pth", "inception"),
        ("ViT-L-14/openai", "vit-l-14"),
        ("timm:timm/vit_large_patch14_dinov2.lvd142m@" + "a" * 40, "dinov2"),
        ("transformers:facebook/dinov2-small@" + "a" * 40, "dinov2-small"),
        ("timm:models/My Network", "my-network"),
    ],
)
def test_the_name_of_a_distance_ends_with_a_short_name_of_its_extractor(extractor: str, label: str):
    assert extractor_label(extractor) == label


def test_the_distances_of_an_extractor_and_the_means_of_a_tag_have_names_of_their_own():
    features = FeatureSet("open_clip:1", [], {}, np.zeros((0, 1)), np.zeros((0, 1)), "judge")
    assert [m.named_for(features).name for m in SET_METRICS[:2]] == ["fd-judge", "kd-judge"]
    assert [m.named_for(replace(features, extractor="inception:1")).name for m in SET_METRICS[:2]] == ["fid", "kid"]
    frechet = find_metric("fd-dinov2")
    assert isinstance(frechet, SetMetric)
    assert (frechet.name, frechet.prepare) == ("fd-dinov2", SET_METRICS[0].prepare)
    assert list(headline_metrics(("clip", "blank", "fd-judge", "clip on base styles", "mmd"))) == [
        "mmd",
        "fd-judge",
        "clip",
    ]
    assert (decimals("fd-judge"), decimals("clip"), decimals("clip on base styles")) == (1, 3, 3)
    assert (direction("kd-judge"), direction("clip on base styles")) == ("lower is better", "higher is better")
    assert find_metric("fd") is None
    assert (decimals("fd-judge on base styles"), direction("mmd on base styles")) == (1, "")
    assert not headline_metrics(("fd-judge on base styles", "vendi on base styles"))
    assert find_metric("recall on base styles") is None


def test_a_recorded_recipe_that_names_fid_on_other_features_still_has_it_as_primary():
    frechet = replace(SET_METRICS[0], name="fd-judge")
    assert frechet.is_named_by(["fid"])
    assert frechet.is_named_by(["fd-judge"])
    assert not frechet.is_named_by(["mmd", "kid"])


def test_only_metrics_that_require_a_model_of_the_recipe_are_optional():
    section = choose_recipe("mini").scoring
    required = {metric.name: metric.requires.removeprefix("scoring.") for metric in SAMPLE_METRICS if metric.optional}
    assert required == {
        "preference": "preference_model",
        "aesthetic": "aesthetic_head",
        "vqa": "vqa_model",
        **dict.fromkeys(("attributes", *(f"attributes-{one}" for one in ATTRIBUTES)), "attribute_reader"),
    }
    assert set(required.values()) == set(MODEL_METRICS)
    assert [key for key in MODEL_METRICS if getattr(section, key)] == ["attribute_reader"]


# two metrics as somebody would add them, each to one file
ADDED = """
import numpy as np
from naruto_core.scoring import sample_metrics, set_metrics
from naruto_core.scoring.registry import register

def mean_distance(drawn, reference):
    distances = np.linalg.norm(drawn - reference.mean(axis=0), axis=1)
    return lambda counts: float(counts @ distances / counts.sum())

register(set_metrics.SetMetric(
    name="distance", version="1", prepare=mean_distance, axis="shift", better=-1, least=2, headline=7, title="distance",
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
from naruto_core.scoring.metrics import headline_metrics
from tests.naruto_core.scoring.test_evaluation import SUITE, TEMPLATE, features

section = choose_recipe("mini", None, {"scoring.primary": ["distance", "norm"], "scoring.resamples": 100}).scoring
run = features()
scores = evaluate(run, SUITE, section, TEMPLATE).scores
print({line.metric: line.description for line in score_lines([s for s in scores if s.sample_id is None])})
sides = Side("base", run, Variant.BASE), Side("adapted", run, Variant.ADAPTED)
print([c.metric for c in compare(*sides, section) if c.primary], headline_metrics(["distance"]))
"""


def test_a_metric_that_registers_itself_is_measured_compared_shown_and_may_be_primary():
    done = subprocess.run([sys.executable, "-c", ADDED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines, comparison = done.stdout.splitlines()
    assert "'distance': 'Distance to the mean. All else.'" in lines
    assert "'norm': 'Length. All else.'" in lines
    assert comparison == "['distance', 'norm'] {'distance': 'distance'}"


def test_the_list_of_all_runs_has_room_for_the_metrics_that_say_so():
    names = ("fid", "fd-judge", "fd-dinov2", "clip", "attributes", "mmd", "attributes-place", "fid on base styles", "x")
    assert [name for name in names if is_in_lists(name)] == ["fid", "fd-judge", "fd-dinov2", "clip", "attributes"]
