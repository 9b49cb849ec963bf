"""Text encoding: prompts and captions as SDXL's UNet reads them, in chunks of what the encoders read at once.

Imports no other module of this project: `naruto export endpoint` and `naruto export triton` copy this file into what
they export. So training, the run, the service, the endpoint and Triton read a text with the same code.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

TOKENS_PER_CHUNK = 75  # of SDXL's encoders; see `number_of_chunks`
MARKS = 2  # begin and end of text, in every chunk
LARGEST_WEIGHT = 2.0
# (words:1.2), with no parentheses inside; of \( and \) the parentheses are text
_WEIGHTED = re.compile(r"(?<!\\)\(((?:[^()\\]|\\.)*):\s*([0-9]*\.?[0-9]+)\s*\)")
_ESCAPED = re.compile(r"\\([()])")


@dataclass(frozen=True, slots=True)
class TextEncoding:
    """`hidden` (B, T, D1 + D2): penultimate layers of both text encoders; `pooled` (B, P): projection of encoder 2."""

    hidden: torch.Tensor
    pooled: torch.Tensor


def number_of_chunks(max_token_length: int) -> int:
    """The chunks of every text: 1, 2 or 3 for 75, 150 or 225.

    For a base model whose encoders read fewer than 75 tokens at once, the number of chunks is the same.
    """
    return max_token_length // TOKENS_PER_CHUNK


def split_weights(text: str) -> list[tuple[str, float]]:
    """The parts of a prompt with their weights: "a (red:1.2) cat" is [("a ", 1), ("red", 1.2), (" cat", 1)].

    Weights are from 0 to `LARGEST_WEIGHT`. Raises ValueError for a larger one.
    """
    parts: list[tuple[str, float]] = []
    end = 0
    for match in _WEIGHTED.finditer(text):
        weight = float(match[2])
        if weight > LARGEST_WEIGHT:
            raise ValueError(f"the weight {match[2]} in a prompt is above {LARGEST_WEIGHT:g}.")
        parts += [(text[end : match.start()], 1.0), (match[1], weight)]
        end = match.end()
    parts.append((text[end:], 1.0))
    return [(_ESCAPED.sub(r"\1", part), weight) for part, weight in parts if part]


def without_weights(text: str) -> str:
    """The words of a prompt with weights."""
    return "".join(part for part, _ in split_weights(text))


def encode_texts(
    pipeline: Any,
    texts: Sequence[str],
    clip_skip: int | None = None,
    max_token_length: int = TOKENS_PER_CHUNK,
    *,
    weighted: bool = False,
) -> TextEncoding:
    """Encode B `texts` with both text encoders of `pipeline`, on the encoders' device.

    With one chunk the result is that of `StableDiffusionXLPipeline.encode_prompt`: begin of text, tokens, end of text,
    padding. A longer text is split into chunks, each encoded like that on its own; an unused chunk is encoded as the
    empty text. `hidden` has the chunks one after the other (T = chunks * 77), `pooled` is the first chunk's. Tokens
    behind the last chunk have no effect. Gradients flow when the encoders are trained.

    `weighted`: the texts may have weights, see `split_weights`. A token of weight w has the encoding e + w (h - e),
    with h its own and e that of the empty text at its place; `pooled` has no weights.
    """
    count = number_of_chunks(max_token_length)
    parts = [split_weights(text) if weighted else [(text, 1.0)] for text in texts]
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
    tokens, weights = zip(*(_chunks(pipeline, tokenizer, parts, count) for tokenizer in tokenizers), strict=True)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    hidden: list[torch.Tensor] = []
    pooled: list[torch.Tensor] = []
    for number in range(count):  # one after the other: the first has the same numbers, whatever `count` is
        outputs = [
            encoder(ids[number].to(encoder.device), output_hidden_states=True)
            for encoder, ids in zip(encoders, tokens, strict=True)
        ]
        layer = -2 - (clip_skip or 0)  # SDXL reads the penultimate layers
        layers = [output.hidden_states[layer] for output in outputs]
        if any(weight != 1 for of_text in parts for _, weight in of_text):
            layers = [
                _weigh(own, factors[number], _empty(pipeline, tokenizer, encoder, layer))
                for own, factors, tokenizer, encoder in zip(layers, weights, tokenizers, encoders, strict=True)
            ]
        hidden.append(torch.cat(layers, dim=-1))
        pooled.append(outputs[1].text_embeds)
    return TextEncoding(torch.cat(hidden, dim=1).to(encoders[1].dtype), pooled[0])


def encode_prompts(
    pipeline: Any,
    prompts: Sequence[str],
    negative_prompts: Sequence[str],
    clip_skip: int | None,
    max_token_length: int,
    *,
    weighted: bool = False,
) -> dict[str, torch.Tensor]:
    """The arguments of diffusers' SDXL pipelines that replace `prompt`, `negative_prompt` and `clip_skip`.

    As in diffusers, `clip_skip` has no effect on the negative prompts.
    """
    positive = encode_texts(pipeline, prompts, clip_skip, max_token_length, weighted=weighted)
    negative = encode_texts(pipeline, negative_prompts, None, max_token_length, weighted=weighted)
    return {
        "prompt_embeds": positive.hidden,
        "pooled_prompt_embeds": positive.pooled,
        "negative_prompt_embeds": negative.hidden,
        "negative_pooled_prompt_embeds": negative.pooled,
    }


def _weigh(own: torch.Tensor, weights: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """Encodings (B, L, D) at their `weights` (B, L); `empty` (1, L, D) is that of the empty text."""
    factors = weights.to(own.device, own.dtype)[..., None]
    # where a weight is 1, nothing is rounded: the encoding does not depend on the other texts
    return torch.where(factors == 1, own, empty + factors * (own - empty))


def _empty(pipeline: Any, tokenizer: Any, encoder: Any, layer: int) -> torch.Tensor:
    """The encoding (1, L, D) of the empty text by one encoder."""
    ids, _ = _chunks(pipeline, tokenizer, [[("", 1.0)]], 1)
    return encoder(ids[0].to(encoder.device), output_hidden_states=True).hidden_states[layer]


def _chunks(
    pipeline: Any, tokenizer: Any, texts: Sequence[Sequence[tuple[str, float]]], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and weights (count, B, model_max_length) of the chunks of B texts in parts, with marks and padding."""
    length: int = tokenizer.model_max_length
    room = length - MARKS
    # a token of textual inversion may stand for several, as diffusers numbers them
    converted = pipeline.maybe_convert_prompt([part for text in texts for part, _ in text], tokenizer)
    ids = iter(tokenizer(converted, add_special_tokens=False, verbose=False).input_ids if converted else [])
    rows = [[(token, weight) for _, weight in text for token in next(ids)] for text in texts]
    begin, end, padding = (
        (mark, 1.0) for mark in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    )
    parts = [[row[start : start + room] for row in rows] for start in range(0, count * room, room)]
    chunks = [[[begin, *part, end, *[padding] * (room - len(part))] for part in chunk] for chunk in parts]
    tokens = [[[token for token, _ in row] for row in chunk] for chunk in chunks]
    weights = [[[weight for _, weight in row] for row in chunk] for chunk in chunks]
    return torch.tensor(tokens, dtype=torch.long), torch.tensor(weights)
