"""FID as it is published: torchmetrics' value, computed from stored features."""

from importlib.metadata import version

import torch
from torch import nn

from naruto_core.scoring.feature_set import Features, check_features, chunks


def fid_version() -> str:
    """The library and version that compute `fid`."""
    return f"torchmetrics {version('torchmetrics')}"


class _StoredFeatures(nn.Module):
    """In place of the feature network: returns the features that it gets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def fid(drawn: Features, reference: Features) -> float:
    """FID between features of drawn pictures (n, d) and of the reference (m, d); n, m >= 2.

    Raises NarutoError for features that cannot be used.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    check_features(drawn, 2, "the set of drawn pictures")
    check_features(reference, 2, "the reference set")
    # of several processes that train together only the first scores: it must not wait for the other ones
    metric = FrechetInceptionDistance(feature=_StoredFeatures(drawn.shape[1]), sync_on_compute=False)
    for rows, real in ((reference, True), (drawn, False)):
        for chunk in chunks(rows):
            metric.update(torch.from_numpy(chunk), real=real)
    return float(metric.compute())
