"""Features that are processed in chunks give the values that all at once would give."""

import numpy as np
import pytest
from cleanfid import fid as clean_fid
from scipy.spatial.distance import cdist

from naruto_core.scoring import sample_metrics
from naruto_core.scoring.feature_set import each_once
from naruto_core.scoring.memorization import nearest
from naruto_core.scoring.sample_metrics import cosines
from naruto_core.scoring.set_metrics import frechet_measure
from naruto_core.scoring.torchmetrics_fid import fid

RANDOM = np.random.default_rng(0)
FEW = RANDOM.normal(0.2, 1, (1500, 12)).astype(np.float16)
MANY = RANDOM.normal(0, 1, (2600, 12)).astype(np.float16)


def cosine_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return 1 - cdist(first, second, "cosine")


def test_the_nearest_picture_is_the_right_one_in_every_chunk():
    similar = cosine_similarity(FEW.astype(np.float64), MANY.astype(np.float64))
    cosine, rows = nearest(FEW, MANY)
    assert np.array_equal(rows, similar.argmax(axis=1))
    assert cosine == pytest.approx(similar.max(axis=1))
    assert len(np.unique(rows // 1000)) == 3


def test_no_picture_is_its_own_neighbour():
    similar = cosine_similarity(MANY.astype(np.float64), MANY.astype(np.float64))
    np.fill_diagonal(similar, -1)
    assert nearest(MANY[:1500], MANY, same=True)[0] == pytest.approx(similar[:1500].max(axis=1))
    assert sample_metrics.nearness_of_held_out(None, MANY) == pytest.approx(similar.max(axis=1))
    assert sample_metrics.nearness_of_held_out(FEW, MANY) == pytest.approx(nearest(FEW, MANY)[0])


def test_fid_in_chunks_equals_clean_fids():
    expected = clean_fid.fid_from_feats(FEW.astype(np.float64), MANY.astype(np.float64))
    assert frechet_measure(FEW, MANY)(each_once(len(FEW))) == pytest.approx(expected, rel=1e-6)
    assert fid(FEW, MANY) == pytest.approx(expected, rel=1e-6)


def test_cosines_in_chunks_equal_scipys():
    pictures, texts = MANY.astype(np.float64), MANY[::-1].astype(np.float64)
    assert cosines(MANY, MANY[::-1]) == pytest.approx(cosine_similarity(pictures, texts).diagonal())
    unit = pictures / np.linalg.norm(pictures, axis=1, keepdims=True)
    expected = cosine_similarity(pictures, unit.mean(axis=0, keepdims=True))[:, 0]
    assert sample_metrics.style_closeness(MANY, MANY) == pytest.approx(expected)
