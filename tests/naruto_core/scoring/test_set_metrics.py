"""Set metrics against other people's code, closed forms and brute force."""

import numpy as np
import pytest
import torch
from cleanfid import fid as clean_fid
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from naruto_core.errors import NarutoError
from naruto_core.scoring.feature_set import each_once, unit_length
from naruto_core.scoring.metrics import BY_NAME, SET_METRICS
from naruto_core.scoring.set_metrics import SetMetric, cmmd_measure, median_squared_width

# the other metrics make no pairs of a picture with its own copy
WITH_COPIES = [m for m in SET_METRICS if m.name in ("fid", "vendi", "precision", "density")]
SHAPES = [(60, 60, 12), (40, 40, 96), (80, 30, 20), (30, 90, 64)]


def sets(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, n, m, d))
    return rng.normal(0.3, 1.2, (n, d)), rng.normal(0, 1, (m, d))


def value(name: str, drawn: np.ndarray, reference: np.ndarray) -> float:
    metric = BY_NAME[name]
    assert isinstance(metric, SetMetric)
    return metric.measure(drawn, reference)(each_once(len(drawn)))


@pytest.mark.parametrize("shape", SHAPES)
def test_fid_equals_torch_fidelitys(shape: tuple[int, int, int]):
    drawn, reference = sets(*shape)
    theirs = [fid_features_to_statistics(torch.from_numpy(x)) for x in (drawn, reference)]
    expected = fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"]
    assert value("fid", drawn, reference) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_fid_equals_clean_fids(shape: tuple[int, int, int]):
    drawn, reference = sets(*shape)
    assert value("fid", drawn, reference) == pytest.approx(clean_fid.fid_from_feats(drawn, reference), rel=1e-6)


def test_kid_equals_clean_fids_of_one_subset_that_is_everything():
    drawn, reference = sets(50, 50, 16)
    expected = clean_fid.kernel_distance(drawn, reference, num_subsets=1, max_subset_size=50)
    assert value("kid", drawn, reference) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] == shape[1]])
def test_kid_equals_torch_fidelitys_of_one_subset_that_is_everything(shape: tuple[int, int, int]):
    drawn, reference = sets(*shape)
    options = {"kid_subsets": 1, "kid_subset_size": shape[0], "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(drawn), torch.from_numpy(reference), **options)
    assert value("kid", drawn, reference) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)


def test_cmmd_equals_torch_fidelitys_gaussian_kernel_of_width_10():
    drawn, reference = (unit_length(x) for x in sets(50, 50, 16))
    options = {"kid_subsets": 1, "kid_subset_size": 50, "kid_kernel": "rbf", "kid_kernel_rbf_sigma": 10.0}
    theirs = kid_features_to_metric(torch.from_numpy(drawn), torch.from_numpy(reference), **options, verbose=False)
    expected = 1000 * theirs["kernel_inception_distance_mean"]
    assert value("cmmd", drawn, reference) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_u_statistic_has_no_bias_where_the_published_form_has():
    rng = np.random.default_rng(3)
    pairs = [[unit_length(rng.normal(size=(16, 8))) for _ in range(2)] for _ in range(400)]
    values = [cmmd_measure(first, second)(each_once(16)) for first, second in pairs]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)
    assert np.mean(values) < 0.2  # the biased form's mean here is about 1.2


def test_the_median_width_is_half_the_median_squared_distance():
    rows = np.array([[0.0], [1.0], [3.0]])  # squared distances 1, 4, 9
    assert median_squared_width(rows) == 2.0


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[0] == shape[1]])
def test_precision_and_recall_equal_torch_fidelitys(shape: tuple[int, int, int]):
    drawn, reference = sets(*shape)
    options = {"prc_neighborhood": 5, "prc_batch_size": 1000, "verbose": False, "save_cpu_ram": False}
    theirs = prc_features_to_metric(torch.from_numpy(drawn), torch.from_numpy(reference), **options)
    assert value("precision", drawn, reference) == pytest.approx(theirs["precision"], rel=1e-6)
    assert value("recall", drawn, reference) == pytest.approx(theirs["recall"], rel=1e-6)


def test_density_and_coverage_equal_a_loop_over_all_pairs():
    drawn, reference = sets(40, 40, 6)
    radii = [sorted(np.linalg.norm(reference - r, axis=1))[5] for r in reference]
    inside = [[np.linalg.norm(x - r) <= radius for r, radius in zip(reference, radii, strict=True)] for x in drawn]
    assert value("density", drawn, reference) == pytest.approx(np.sum(inside) / (5 * 40))
    assert value("coverage", drawn, reference) == pytest.approx(np.mean(np.any(inside, axis=0)))


def test_the_vendi_score_of_equal_pictures_is_one_and_of_orthogonal_ones_their_number():
    reference = np.eye(7)
    assert value("vendi", np.ones((7, 7)), reference) == pytest.approx(1.0)
    assert value("vendi", np.eye(7), reference) == pytest.approx(7.0)
    two_kinds = np.repeat(np.eye(2), 5, axis=0)
    assert value("vendi", two_kinds, np.eye(2)) == pytest.approx(2.0)


@pytest.mark.parametrize("metric", SET_METRICS, ids=lambda m: m.name)
def test_counts_of_0_and_1_give_the_metric_of_that_subset(metric: SetMetric):
    drawn, reference = sets(60, 30, 10)
    counts = np.zeros(60)
    counts[::2] = 1
    subset = metric.measure(drawn[::2], reference)(each_once(30))
    assert metric.measure(drawn, reference)(counts) == pytest.approx(subset, rel=1e-9)


@pytest.mark.parametrize("metric", WITH_COPIES, ids=lambda m: m.name)
def test_a_picture_counted_twice_is_two_equal_pictures(metric: SetMetric):
    drawn, reference = sets(30, 30, 50)
    counts = np.ones(30)
    counts[4] = 2
    doubled = np.concatenate([drawn, drawn[4:5]])
    expected = metric.measure(doubled, reference)(each_once(31))
    assert metric.measure(drawn, reference)(counts) == pytest.approx(expected, rel=1e-9)


def test_features_that_cannot_be_used_are_an_error_in_one_sentence():
    drawn, reference = sets(20, 20, 4)
    fid, recall = BY_NAME["fid"], BY_NAME["recall"]
    assert isinstance(fid, SetMetric)
    assert isinstance(recall, SetMetric)
    with pytest.raises(NarutoError, match="the reference set holds 1 picture; this score needs at least 16"):
        fid.measure(drawn, reference[:1])
    with pytest.raises(NarutoError, match="drawn pictures holds 7 pictures; this score needs at least 8"):
        recall.measure(drawn[:7], reference)
    broken = drawn.copy()
    broken[3, 1] = np.nan
    with pytest.raises(NarutoError, match="features that are not numbers"):
        fid.measure(broken, reference)
    with pytest.raises(NarutoError, match="have 3 features and the reference 4: they are not of one extractor"):
        fid.measure(drawn[:, :3], reference)
