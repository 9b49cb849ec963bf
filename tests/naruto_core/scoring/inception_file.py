"""Random weights for FID's Inception network, in the file format that torch-fidelity reads: nothing is downloaded."""

from pathlib import Path
from unittest import mock

import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3


def write_random_inception(path: Path) -> Path:
    """Write the file; features stay of ordinary size because batch norms are given the layers' own statistics."""
    torch.manual_seed(0)
    torch.save({}, path)
    with mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=str(path))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8))
    torch.save(network.eval().state_dict(), path)
    return path
