"""Scores against closed forms and libraries that are not ours."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy import linalg

from naruto_core.errors import NarutoError
from naruto_core.scoring.alignment import cosines
from naruto_core.scoring.features import embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.fid import fid
from naruto_core.scoring.frechet import frechet_distance
from naruto_core.sdxl import locate
from tests.naruto_core.conftest import CPU, JUDGE


def _textbook_fid(a: np.ndarray, b: np.ndarray) -> float:
    """Heusel et al. 2017 with scipy's matrix square root."""
    root = linalg.sqrtm(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    shift = a.mean(axis=0) - b.mean(axis=0)
    return float(shift @ shift + np.trace(np.cov(a, rowvar=False) + np.cov(b, rowvar=False) - 2 * np.real(root)))


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 12), (40, 60, 96), (500, 30, 64)])
def test_both_forms_of_fid_equal_the_textbook(n: int, m: int, d: int):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0, 1, (n, d)), rng.normal(0.3, 1.4, (m, d))
    expected = _textbook_fid(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert fid(a, b) == pytest.approx(expected, rel=1e-6)


def test_fid_of_gaussians_with_known_moments_is_their_known_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (40_000, 4)), rng.normal(0.5, 2, (40_000, 4))
    # |0.5|^2 x 4 + 4 x (1 + 4 - 2 x 2) = 5
    assert fid(a, b) == pytest.approx(5.0, abs=0.1)


def test_fid_of_a_set_with_itself_is_zero():
    a = np.random.default_rng(1).normal(size=(50, 80))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)  # of features whose variances sum to 80


def test_too_few_or_broken_features_are_refused_in_a_sentence():
    good = np.zeros((5, 3))
    with pytest.raises(NarutoError, match="holds 1 pictures; this score needs at least 2"):
        fid(good[:1], good)
    broken = good.copy()
    broken[0, 0] = np.nan
    with pytest.raises(NarutoError, match="not numbers"):
        fid(good, broken)


def test_clip_scores_equal_open_clips_own_path():
    folder, _ = locate(JUDGE, None)
    model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "navy", "white")]
    texts = ["a person with red hair", "a naruto anime character at night", "a pencil sketch"]
    with torch.inference_mode():
        seen = model.eval().encode_image(torch.stack([prepare(p) for p in pictures]), normalize=True)
        said = model.encode_text(tokenizer(texts), normalize=True)
    expected = (seen * said).sum(-1).numpy()

    judge = load_extractor(JUDGE, CPU)
    rows = embed_pictures(judge, [lambda p=p: p for p in pictures], 2, lambda _: None)
    assert cosines(rows, embed_texts(judge, texts)) == pytest.approx(expected, abs=1e-5)


def test_an_extractor_that_is_not_there_is_named():
    with pytest.raises(NarutoError, match="no-such-folder"):
        load_extractor("package:naruto_core.mini/no-such-folder", CPU)
