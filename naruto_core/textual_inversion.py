"""New tokens for SDXL's two text encoders: textual inversion (Gal et al. 2022).

In prompts and captions, one word is replaced by a style's new tokens (`TOK` by `<s0><s1>`). Of the embedding matrices
(100 million numbers in full-size SDXL), only the new rows are trained and written: `clip_l` (n, 768) and `clip_g`
(n, 1280), the names that ComfyUI and diffusers' own scripts use.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from naruto_core.artifacts import atomic_file
from naruto_core.errors import ModelUnusable

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


FILE = "embeddings.safetensors"
_KEYS = ("clip_l", "clip_g")


class TokenEmbedding(nn.Module):
    """An embedding extended by `rows` (n, d), which alone are trainable. Token ids from `first` on refer to them."""

    def __init__(self, embedding: nn.Embedding, rows: torch.Tensor) -> None:
        super().__init__()
        self.embedding, self.rows = embedding, nn.Parameter(rows)

    @property
    def first(self) -> int:
        """The first token id of `rows`."""
        return self.embedding.num_embeddings

    @property
    def weight(self) -> torch.Tensor:
        """Libraries read the size and precision of an embedding from its weight."""
        return self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        frozen = self.embedding(ids.clamp(max=self.first - 1))
        new = self.rows[(ids - self.first).clamp(min=0)].to(frozen.dtype)
        return torch.where((ids >= self.first)[..., None], new, frozen)


def _encoders(pipeline: "StableDiffusionXLPipeline") -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return (pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)


def add_tokens(
    pipeline: "StableDiffusionXLPipeline", names: Mapping[str, str], initializer_concept: str | None, seed: int
) -> dict[str, nn.Parameter]:
    """Add the tokens of `names` to both tokenizers and encoders; their rows (n, d), fp32, as `text_encoder.tokens` etc.

    Each word's tokens are initialized with the embeddings of `initializer_concept` in turn, or else at random with the
    standard deviation of all embeddings. Only the rows are trainable.
    """
    words = [split_tokens(tokens) for tokens in names.values()]
    generator = torch.Generator().manual_seed(seed)
    rows: dict[str, nn.Parameter] = {}
    for part, (tokenizer, encoder) in zip(("text_encoder", "text_encoder_2"), _encoders(pipeline), strict=True):
        embedding: nn.Embedding = encoder.get_input_embeddings()
        table = embedding.weight.detach().float()
        start = [_initial_rows(tokenizer, table, initializer_concept, len(word), generator) for word in words]
        tokenizer.add_tokens([token for word in words for token in word])
        extended = TokenEmbedding(embedding, torch.cat(start))
        encoder.set_input_embeddings(extended)
        rows[f"{part}.tokens"] = extended.rows
    _pool_at_the_end(pipeline)
    return rows


def split_tokens(name: str) -> list[str]:
    """["<s0>", "<s1>"] of "<s0><s1>"."""
    return re.findall(r"<s\d+>", name)


def _initial_rows(
    tokenizer: Any, table: torch.Tensor, concept: str | None, count: int, generator: torch.Generator
) -> torch.Tensor:
    if concept is None:
        noise = torch.randn((count, table.shape[1]), generator=generator).to(table.device)
        return noise * table.std()
    ids = tokenizer(concept, add_special_tokens=False).input_ids
    return table[[ids[index % len(ids)] for index in range(count)]]


def _pool_at_the_end(pipeline: "StableDiffusionXLPipeline") -> None:
    """Make both encoders take the pooled embedding at the end-of-text token.

    SDXL's second encoder takes it at the highest token id (an old convention of transformers), which would be a new
    token's; ComfyUI takes it at the end. Without new tokens both are the same position.
    """
    for tokenizer, encoder in _encoders(pipeline):
        for module in encoder.modules():
            if hasattr(module, "eos_token_id"):
                module.eos_token_id = tokenizer.eos_token_id
        encoder.config.eos_token_id = tokenizer.eos_token_id


def write_tokens(rows: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write the rows that `add_tokens` returned as `path`, atomically. Raises StorageFailed."""
    tensors = {key: tensor.detach().float().cpu().clone() for key, tensor in zip(_KEYS, rows.values(), strict=True)}
    with atomic_file(path) as scratch:
        scratch.write_bytes(save(tensors, metadata={"format": "pt"}))


def write_word_embeddings(embeddings: Path, name: str, path: Path) -> None:
    """Write the rows of the tokens `name`, e.g. "<s2><s3>", as `path`, atomically.

    ComfyUI needs one file per word: `embedding:<file>` in a prompt inserts all rows of that file.
    """
    numbers = [int(number) for number in re.findall(r"<s(\d+)>", name)]
    rows = {key: tensor[numbers].contiguous() for key, tensor in load_file(embeddings).items()}
    with atomic_file(path) as scratch:
        scratch.write_bytes(save(rows, metadata={"format": "pt"}))


def load_tokens(pipeline: "StableDiffusionXLPipeline", path: Path) -> None:
    """Add the tokens `<s0>`, `<s1>` ... of the file `path` to both tokenizers and text encoders.

    Raises ModelUnusable when the file is missing, belongs to other encoders, or was not loaded correctly.
    """
    if not path.is_file():
        raise ModelUnusable(f"there are no embeddings {path}; train them first.")
    tensors = load_file(path)
    for key, (tokenizer, encoder) in zip(_KEYS, _encoders(pipeline), strict=True):
        if key not in tensors or tensors[key].shape[1] != encoder.get_input_embeddings().weight.shape[1]:
            raise ModelUnusable(f"the embeddings {path} do not fit the text encoders of this base model ({key}).")
        names = [f"<s{number}>" for number in range(len(tensors[key]))]
        # diffusers types only files here; it also accepts a tensor of n rows for n tokens
        loader: Any = pipeline
        loader.load_textual_inversion(tensors[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
        table = encoder.get_input_embeddings().weight
        rows = table[tokenizer.convert_tokens_to_ids(names)]
        if not torch.equal(rows, tensors[key].to(rows.device, rows.dtype)):
            raise ModelUnusable(
                f"the embeddings {path} were not loaded correctly ({key}): they have values that are not finite, or "
                "diffusers has another version than uv.lock names."
            )
    _pool_at_the_end(pipeline)
