"""Networks from a model hub at a pinned commit: their files, and those that transformers loads.

Only safetensors weights are read: no pickle, and no code of the repository. `extractor_of_transformers` makes an
extractor of DINOv2 or CLIP; `VqaModel` answers questions on pictures.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.hub import pinned_folder
from naruto_core.scoring.features import ChooseDevice, Extractor, Network

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_CLIP_LENGTH = 77  # tokens that CLIP reads where its configuration does not say it
_CLIP_WORDS = 49_408  # tokens of CLIP's own tokenizer, which open_clip holds


def extractor_of_transformers(name: str, choose_device: ChooseDevice) -> Extractor:
    """DINOv2 (pictures only) or CLIP (texts too, e.g. PickScore) in transformers' form.

    Pictures are resized to the network's own size without a crop, so that nothing at the edges is lost.
    """
    folder = pinned_folder(name, (CONFIG, WEIGHTS), "transformers")
    config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    kind = config.get("model_type")
    if kind not in ("dinov2", "clip"):
        raise ModelUnusable(f"transformers:{name} is a {kind} model; dinov2 and clip are offered.")
    weights, settings = sha256_file(folder / WEIGHTS), sha256_file(folder / CONFIG)
    load = _dinov2 if kind == "dinov2" else _clip
    read = config.get("text_config", {}).get("max_position_embeddings", _CLIP_LENGTH)
    tokenizer = None if kind == "dinov2" else lambda: _clip_tokenizer(read)
    return Extractor(f"transformers:{weights[:16]}-{settings[:6]}", lambda: load(folder, choose_device()), tokenizer)


def _dinov2(folder: Path, device: "torch.device") -> Network:
    from transformers import Dinov2Model

    model: Any = Dinov2Model.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    model.eval().requires_grad_(False).to(device)
    # trained at 518 pixels; distances are published at 224 (Stein et al. 2023), which costs a fifth
    prepare = squared(min(224, int(model.config.image_size)), *_IMAGENET)
    return Network(prepare, lambda pixels: model(pixel_values=pixels).pooler_output, None, None, device)


def _clip(folder: Path, device: "torch.device") -> Network:
    from transformers import CLIPModel

    model: Any = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    if model.config.text_config.vocab_size != _CLIP_WORDS:
        raise ModelUnusable(f"{folder}: its tokenizer is not CLIP's own, which has {_CLIP_WORDS} tokens.")
    model.eval().requires_grad_(False).to(device)
    tokenizer = _clip_tokenizer(model.config.text_config.max_position_embeddings)

    def tokenize(texts: list[str]) -> "torch.Tensor":
        return tokenizer(texts)

    return Network(
        squared(int(model.config.vision_config.image_size), *_CLIP),
        lambda pixels: _tensor(model.get_image_features(pixel_values=pixels)),
        tokenize,
        lambda ids: _tensor(model.get_text_features(input_ids=ids)),
        device,
    )


def _clip_tokenizer(context_length: int) -> Any:
    """CLIP's own tokenizer, for texts of `context_length` tokens, begin and end included."""
    import open_clip

    return open_clip.SimpleTokenizer(context_length=int(context_length))


def _tensor(output: Any) -> "torch.Tensor":
    """The projected features: transformers 4 returns them, transformers 5 an output that holds them."""
    import torch

    return output if isinstance(output, torch.Tensor) else output.pooler_output


def squared(size: int, mean: Sequence[float], std: Sequence[float]) -> "Callable[[Image], torch.Tensor]":
    """Preparation of a picture: resized to `size` x `size` (bicubic), then normalized."""
    import torch
    from torchvision.transforms import v2

    steps: Any = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((size, size), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
    return lambda picture: steps(picture.convert("RGB"))


_SEPARATOR = re.compile(r"\s*,\s*|\s+(?:with|and|in|on|at|wearing|behind)\s+", re.IGNORECASE)
_FIRST_WORDS = re.compile(r"^(?:(?:wearing|with|and|an?|the|one)\s+)+", re.IGNORECASE)


def phrases_of(text: str) -> tuple[str, ...]:
    """The parts of a prompt that are asked for one by one: "a person with red hair at night" has three."""
    parts = (_FIRST_WORDS.sub("", part.strip()) for part in _SEPARATOR.split(text))
    return tuple(dict.fromkeys(part for part in parts if part and part.lower() not in ("a", "an", "the", "one")))


class VqaModel:
    """BLIP for visual question answering (`BlipForQuestionAnswering`): how sure it is of a "yes".

    The value of a picture and a text is the product over the text's phrases of P(yes | "<phrase>?"), 0 to 1, as
    BLIP-VQA of T2I-CompBench (Huang et al. 2023), which finds the phrases with a parser.
    """

    def __init__(self, name: str, choose_device: ChooseDevice) -> None:
        self._folder = pinned_folder(name, (CONFIG, "vocab.txt", WEIGHTS), "vqa")
        self._choose_device = choose_device
        digests = (sha256_file(self._folder / file)[:length] for file, length in ((WEIGHTS, 16), (CONFIG, 6)))
        self.id = "vqa:" + "-".join(digests)

    def asking(self, text: str) -> Extractor:
        """The extractor whose one feature, (n, 1), is the value of each picture for `text`."""
        question = hashlib.sha256(text.encode()).hexdigest()[:16]
        return Extractor(f"{self.id}:{question}", lambda: self._network(text))

    def _network(self, text: str) -> Network:
        import torch

        model, prepare, tokenizer = self._loaded
        questions = [tokenizer.encode(f"{phrase}?").ids for phrase in phrases_of(text) or (text,)]

        def embed(pixels: "torch.Tensor") -> "torch.Tensor":
            seen = model.vision_model(pixel_values=pixels)[0]
            answers = [yes_probability(model, seen, question, tokenizer.token_to_id("yes")) for question in questions]
            return torch.stack(answers).prod(dim=0)[:, None]

        return Network(prepare, embed, None, None, self._choose_device())

    @cached_property
    def _loaded(self) -> tuple[Any, "Callable[[Image], torch.Tensor]", Any]:
        from tokenizers.implementations import BertWordPieceTokenizer
        from transformers import BlipForQuestionAnswering

        tokenizer: Any = BertWordPieceTokenizer(str(self._folder / "vocab.txt"), lowercase=True)
        model: Any = BlipForQuestionAnswering.from_pretrained(self._folder, use_safetensors=True, local_files_only=True)
        model.eval().requires_grad_(False).to(self._choose_device())
        return model, squared(int(model.config.vision_config.image_size), *_CLIP), tokenizer


def yes_probability(model: Any, seen: "torch.Tensor", question: list[int], yes: int) -> "torch.Tensor":
    """P (n,) that the answer to `question` (token ids) on encoded pictures `seen` (n, p, d) begins with yes."""
    import torch

    n = len(seen)
    ids = torch.tensor([question], device=seen.device).expand(n, -1)
    encoded = model.text_encoder(input_ids=ids, encoder_hidden_states=seen, return_dict=False)[0]
    start = torch.full((n, 1), model.decoder_start_token_id, device=seen.device)
    logits = model.text_decoder(input_ids=start, encoder_hidden_states=encoded, return_dict=True).logits
    return logits[:, -1].float().softmax(dim=-1)[:, yes]
