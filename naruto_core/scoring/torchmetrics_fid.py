"""FID as it is published: torchmetrics' value, computed from stored features."""

from importlib.metadata import version

import numpy as np

from naruto_core.scoring.feature_set import Features, check_features, chunks


def fid_version() -> str:
    """The library and version that compute `fid`."""
    return f"torchmetrics {version('torchmetrics')}"


def fid(drawn: Features, reference: Features) -> float:
    """FID between features of drawn pictures (n, d) and of the reference (m, d); n, m >= 2.

    Raises NarutoError for features that cannot be used.
    """
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    check_features(drawn, 2, "the set of drawn pictures")
    check_features(reference, 2, "the reference set")
    if len(drawn) + len(reference) < drawn.shape[1]:  # the same in the span of all rows, where matrices are small
        span, _ = np.linalg.qr(np.concatenate([drawn, reference]).astype(np.float64).T)
        drawn, reference = (np.asarray(rows, dtype=np.float64) @ span for rows in (drawn, reference))
    # of several processes that train together only the first scores: it must not wait for the other ones
    stored_features = torch.nn.Identity()  # in place of the feature network: returns the features that it gets
    stored_features.num_features = drawn.shape[1]
    metric = FrechetInceptionDistance(feature=stored_features, sync_on_compute=False)
    for rows, real in ((reference, True), (drawn, False)):
        for chunk in chunks(rows):
            metric.update(torch.from_numpy(chunk), real=real)
    return float(metric.compute())
