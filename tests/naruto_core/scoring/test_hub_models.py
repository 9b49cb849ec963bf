"""Networks in transformers' form, recomputed with transformers' own calls; and how they are named and refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize
from transformers import BlipForQuestionAnswering, CLIPModel, Dinov2Model

from naruto_core.errors import ModelUnusable
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts, load_extractor
from naruto_core.scoring.hub_models import VqaModel, phrases_of
from naruto_core.scoring.sample_metrics import cosines
from tests.naruto_core.conftest import CPU
from tests.tiny_models import write_blip, write_clip, write_dinov2

PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)) for i in range(3)]
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])


def rows(extractor: Extractor) -> np.ndarray:
    return np.concatenate(list(embed_pictures(extractor, [lambda p=p: p for p in PICTURES], 2)))


def prepared(size: int, statistics: tuple[Sequence[float], Sequence[float]]) -> torch.Tensor:
    resized = [resize(pil_to_tensor(p), [size, size], interpolation=3, antialias=True) for p in PICTURES]
    return normalize(torch.stack(resized) / 255, *map(list, statistics))


def test_dinov2_gives_its_class_token_of_the_whole_picture(tmp_path: Path):
    write_dinov2(tmp_path)
    extractor = load_extractor(f"transformers:{tmp_path}", CPU)
    with torch.inference_mode():
        expected = Dinov2Model.from_pretrained(tmp_path).eval()(prepared(28, IMAGENET)).last_hidden_state[:, 0]
    assert rows(extractor) == pytest.approx(expected.numpy(), abs=1e-4)
    with pytest.raises(ModelUnusable, match="has no text tower"):
        embed_texts(extractor, ["a person"])


def test_a_preference_model_of_the_clip_kind_gives_pickscores_cosine(tmp_path: Path):
    write_clip(tmp_path)
    model, extractor = CLIPModel.from_pretrained(tmp_path).eval(), load_extractor(f"transformers:{tmp_path}", CPU)
    texts = ["a person with red hair", "night", "a cat"]
    start, end = 49406, 49407
    ids = [[start, 320, 2533, 593, 736, 2225, end], [start, 930, end], [start, 320, 2368, end]]  # CLIP's own tokens
    width = max(map(len, ids))
    padded = torch.tensor([row + [end] * (width - len(row)) for row in ids])
    with torch.inference_mode():
        scores = model(input_ids=padded, pixel_values=prepared(32, OPENAI)).logits_per_image.diagonal()
    expected = scores.numpy() / np.exp(model.logit_scale.item())
    assert cosines(rows(extractor), embed_texts(extractor, texts)) == pytest.approx(expected, abs=1e-4)


def test_a_question_is_answered_with_the_probability_of_yes_and_phrases_multiply(tmp_path: Path):
    write_blip(tmp_path)
    model: BlipForQuestionAnswering = BlipForQuestionAnswering.from_pretrained(tmp_path).eval()

    def yes(question: list[int]) -> np.ndarray:
        seen = model.vision_model(pixel_values=prepared(32, OPENAI))[0]
        labels = torch.tensor([[12, 5]] * len(PICTURES))  # [DEC] yes
        asked = model.text_encoder(torch.tensor([question] * len(PICTURES)), encoder_hidden_states=seen)[0]
        logits = model.text_decoder(labels, encoder_hidden_states=asked).logits
        return logits[:, 0].softmax(dim=-1)[:, 5].numpy()

    vqa = VqaModel(str(tmp_path), lambda: CPU)
    with torch.inference_mode():
        person, hair = yes([2, 10, 11, 3]), yes([2, 7, 8, 11, 3])  # [CLS] person ? [SEP]; [CLS] red hair ? [SEP]
    assert len(set(person.round(6))) == 3  # the answer depends on the picture
    assert rows(vqa.asking("a person"))[:, 0] == pytest.approx(person, rel=1e-3)
    assert rows(vqa.asking("a person with red hair"))[:, 0] == pytest.approx(person * hair, rel=1e-3)
    assert vqa.asking("night").id != vqa.asking("person").id


def test_a_text_is_asked_for_phrase_by_phrase():
    text = "two people, one with blond hair and one wearing an orange jacket in a village"
    assert phrases_of(text) == ("two people", "blond hair", "orange jacket", "village")
    assert phrases_of("a portrait") == ("portrait",)


def test_networks_that_cannot_be_used_are_refused_in_one_sentence(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelUnusable, match=r"the folder has no model\.safetensors\."):
        load_extractor(f"transformers:{tmp_path}", CPU)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelUnusable, match="is a bert model; dinov2 and clip are offered"):
        load_extractor(f"transformers:{tmp_path}", CPU)
    for kind in ("transformers", "open_clip"):
        with pytest.raises(ModelUnusable, match=f"{kind}'s .* or a hub id with its commit"):
            load_extractor(f"{kind}:facebook/dinov2-large@main", CPU)
    with pytest.raises(ModelUnusable, match=r"vqa:me/blip: give a folder with vqa's config\.json"):
        VqaModel("me/blip", lambda: CPU)
