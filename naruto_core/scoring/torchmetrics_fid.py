"""FID as it is reported: torchmetrics' figure, computed from stored features."""

from importlib.metadata import version

import torch
from torch import nn

from naruto_core.scoring.set_metric import Features, check_features, portions


def fid_version() -> str:
    """Which code computed the figure."""
    return f"torchmetrics {version('torchmetrics')}"


class _Stored(nn.Module):
    """Stands where the feature network stood: gives back the features it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def fid(drawn: Features, reference: Features) -> float:
    """FID between (n, d) features of drawn pictures and (m, d) of the reference; n, m >= 2."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    check_features(drawn, 2, "the set of drawn pictures")
    check_features(reference, 2, "the reference set")
    # where several processes train together only the first one scores: it must not wait for the others
    metric = FrechetInceptionDistance(feature=_Stored(drawn.shape[1]), sync_on_compute=False)
    for rows, real in ((reference, True), (drawn, False)):
        for part in portions(rows):
            metric.update(torch.from_numpy(part), real=real)
    return float(metric.compute())
