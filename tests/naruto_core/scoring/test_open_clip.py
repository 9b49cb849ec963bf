"""Networks of open_clip: the activation that their weights were trained with, and how much of a text they read."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip import factory, pretrained
from PIL import Image
from safetensors.torch import save_file

from naruto_core.errors import ModelUnusable
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor
from tasks.truncation import find_text_beyond_scores
from tests.naruto_core.conftest import CPU, JUDGE
from tests.tiny_models import write_clip

TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The architectures `tiny` and `tiny-quickgelu` with the weights `quick`, trained with QuickGELU, and `plain`."""
    weights = tmp_path / "tiny.safetensors"
    for name, config in (("tiny", TINY), ("tiny-quickgelu", {**TINY, "quick_gelu": True})):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, config)
        tags = {"quick": {"file": str(weights), "quick_gelu": True}, "plain": {"file": str(weights)}}
        monkeypatch.setitem(pretrained._PRETRAINED, name, tags)
    torch.manual_seed(0)
    save_file(open_clip.create_model("tiny").state_dict(), weights)
    return weights


def _features(extractor: Extractor) -> np.ndarray:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pictures = np.concatenate(list(embed_pictures(extractor, [lambda: picture], 1)))
    return np.concatenate([pictures, embed_texts(extractor, ["red hair"])])


def test_weights_are_computed_with_the_activation_they_were_trained_with_however_they_are_named(tiny: Path):
    quick, suffixed, plain = (load_extractor(n, CPU) for n in ("tiny/quick", "tiny-quickgelu/quick", "tiny/plain"))
    assert np.array_equal(_features(quick), _features(suffixed))
    assert np.abs(_features(quick) - _features(plain)).max() > 1e-4
    assert quick.id != plain.id
    with pytest.raises(ModelUnusable, match="were trained with GELU: name tiny/plain"):
        load_extractor("tiny-quickgelu/plain", CPU)


def test_the_shipped_recipes_weights_are_of_that_kind():
    assert open_clip.get_pretrained_cfg("ViT-L-14", "openai")["quick_gelu"]
    assert not (open_clip.get_model_config("ViT-L-14") or {}).get("quick_gelu")


def test_texts_that_a_network_reads_in_part_are_told_whatever_their_tokenizer(tiny: Path, tmp_path: Path):
    write_clip(tmp_path / "clip")
    for name, read in ((JUDGE, 46), ("tiny/quick", 75), (f"transformers:{tmp_path / 'clip'}", 75)):
        extractor = load_extractor(name, CPU)
        whole, longer = "hair " * read, "hair " * (read + 1)
        assert extractor.truncated([longer, whole, "hair"]) == [longer], name
        assert extractor.network.tokenize
        end_of_whole, end_of_longer = extractor.network.tokenize([whole, longer])[:, -1].tolist()
        assert end_of_whole == end_of_longer, name  # the end of the text, from which its embedding is taken
    finding = find_text_beyond_scores("run", extractor, {"prompts": [longer, whole], "captions": [whole]})
    assert finding.warning
    assert finding.sentence.startswith("1 of 2 prompts are longer than the network of the CLIP scores reads")
    none = find_text_beyond_scores("run", extractor, {"prompts": [whole], "captions": ["hair"]})
    assert (none.warning, none.sentence.startswith("the network of the CLIP scores reads all")) == (False, True)
