"""More pictures than are looked at in one go give what all at once would give."""

import numpy as np
import pytest
from cleanfid import fid as clean_fid
from scipy.spatial.distance import cdist

from naruto_core.scoring import sample_metrics
from naruto_core.scoring.fid import frechet_measure
from naruto_core.scoring.memorization import nearest
from naruto_core.scoring.sample_metrics import cosines
from naruto_core.scoring.set_metric import everything
from naruto_core.scoring.torchmetrics_fid import fid

RANDOM = np.random.default_rng(0)
SOME = RANDOM.normal(0.2, 1, (1500, 12)).astype(np.float16)
MANY = RANDOM.normal(0, 1, (2600, 12)).astype(np.float16)


def cosine_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return 1 - cdist(first, second, "cosine")


def test_the_nearest_of_many_is_found_wherever_it_stands():
    similar = cosine_similarity(SOME.astype(np.float64), MANY.astype(np.float64))
    cosine, which = nearest(SOME, MANY)
    assert np.array_equal(which, similar.argmax(axis=1))
    assert cosine == pytest.approx(similar.max(axis=1))
    assert len(np.unique(which // 1000)) == 3


def test_no_picture_is_its_own_neighbour():
    similar = cosine_similarity(MANY.astype(np.float64), MANY.astype(np.float64))
    np.fill_diagonal(similar, -1)
    assert nearest(MANY[:1500], MANY, same=True)[0] == pytest.approx(similar[:1500].max(axis=1))
    assert sample_metrics.nearness_of_new(None, MANY) == pytest.approx(similar.max(axis=1))
    assert sample_metrics.nearness_of_new(SOME, MANY) == pytest.approx(nearest(SOME, MANY)[0])


def test_fid_of_many_is_that_of_all_of_them():
    expected = clean_fid.fid_from_feats(SOME.astype(np.float64), MANY.astype(np.float64))
    assert frechet_measure(SOME, MANY)(everything(len(SOME))) == pytest.approx(expected, rel=1e-6)
    assert fid(SOME, MANY) == pytest.approx(expected, rel=1e-6)


def test_cosines_of_many_are_those_of_each():
    shown, said = MANY.astype(np.float64), MANY[::-1].astype(np.float64)
    assert cosines(MANY, MANY[::-1]) == pytest.approx(cosine_similarity(shown, said).diagonal())
    unit = shown / np.linalg.norm(shown, axis=1, keepdims=True)
    expected = cosine_similarity(shown, unit.mean(axis=0, keepdims=True))[:, 0]
    assert sample_metrics.style_closeness(MANY, MANY) == pytest.approx(expected)
