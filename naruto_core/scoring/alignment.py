"""CLIP score: does a picture show what its prompt says? One cosine a picture, numpy only.

Kept as the plain cosine of open_clip's normalised embeddings (Hessel et al. 2021 without the
factor 2.5, the clipping and the "A photo depicts" prefix, which is wrong for drawings).
"""

import numpy as np
from numpy.typing import NDArray

from naruto_core.scoring.measure import Features, portions


def cosines(pictures: Features, texts: Features) -> NDArray[np.float64]:
    """Row-wise cosine, -1..1, of (n, d) picture and (n, d) text embeddings."""
    found = [
        (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        for a, b in zip(portions(pictures), portions(texts), strict=True)
    ]
    return np.concatenate(found) if found else np.zeros(0)
