"""The networks that measure a run: what they take on the disk, and what of it is still to be downloaded."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from naruto_core.recipe_sections import ScoringSection

DOWNLOAD_RATE = 12.5e6  # bytes/s: 100 Mbit/s, an assumption
_WEIGHTS = ("model.safetensors", "open_clip_model.safetensors")
_OF_OPEN_CLIP = {"ViT-L-14/openai": "timm/vit_large_patch14_clip_224.openai"}  # where open_clip downloads it from

# Bytes of weights in single precision, as the files are: the parameters of each network's architecture (counted on the
# meta device: open_clip's ViT-L-14, ViT-L-14-336 and ViT-H-14, transformers' Dinov2Model and BlipForQuestionAnswering).
# The hub lists 1.71 GB (timm/vit_large_patch14_clip_224.openai), 1.22 (dinov2-large), 1.54 (blip-vqa-base) and
# 3.94 (PickScore_v1); inception: 95,542,320 bytes of tensors in torch-fidelity's class, and the file's own structure.
_BYTES = {
    "inception": 95_628_359,
    "timm/vit_large_patch14_clip_224.openai": 4 * 427_616_513,
    "timm/vit_large_patch14_clip_336.openai": 4 * 427_944_193,
    "facebook/dinov2-large": 4 * 304_368_640,
    "Salesforce/blip-vqa-base": 4 * 384_672_572,
    "yuvalkirstain/PickScore_v1": 4 * 986_109_441,
}


@dataclass(frozen=True, slots=True)
class MetricNetwork:
    """A network from a hub: its id, its bytes on the disk (None: not known), and whether it was downloaded before."""

    name: str
    size: int | None
    downloaded: bool


def metric_networks(section: ScoringSection) -> list[MetricNetwork]:
    """The networks of `section` that are downloaded, each once; those of packages and folders take no room."""
    return [_network(name) for name in network_names(section) if not _is_local(name)]


def network_names(section: ScoringSection) -> tuple[str, ...]:
    """The names of all networks of `section`, each once."""
    further = (section.cmmd_extractor, section.vqa_model, section.preference_model, section.attribute_reader)
    main = (section.set_extractor, section.pair_extractor, *section.more_set_extractors)
    return tuple(dict.fromkeys([*main, *(name for name in further if name)]))


def _is_local(name: str) -> bool:
    path = name.partition(":")[2] or name
    return name.startswith("package:") or Path(path).expanduser().exists()


def _network(name: str) -> MetricNetwork:
    hub_id, _, commit = name.partition(":")[2].partition("@") if ":" in name else name.partition("@")
    hub_id = _OF_OPEN_CLIP.get(hub_id, hub_id)
    cached = "/" in hub_id and any(
        isinstance(try_to_load_from_cache(hub_id, file, revision=commit or None), str) for file in _WEIGHTS
    )
    return MetricNetwork(hub_id, _BYTES.get(hub_id), cached)
