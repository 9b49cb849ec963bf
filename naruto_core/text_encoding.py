"""Text encoding: prompts and captions as SDXL's UNet reads them, in chunks of what the encoders read at once.

Imports no other module of this project: `naruto export endpoint` and `naruto export triton` copy this file into what
they export. So training, the run, the service, the endpoint and Triton read a text with the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

TOKENS_PER_CHUNK = 75  # of SDXL's encoders; see `number_of_chunks`
MARKS = 2  # begin and end of text, in every chunk


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


def encode_texts(
    pipeline: Any, texts: Sequence[str], clip_skip: int | None = None, max_token_length: int = TOKENS_PER_CHUNK
) -> TextEncoding:
    """Encode B `texts` with both text encoders of `pipeline`, on the encoders' device.

    With one chunk the result is that of `StableDiffusionXLPipeline.encode_prompt`: begin of text, tokens, end of text,
    padding. A longer text is split into chunks, each encoded like that on its own; an unused chunk is encoded as the
    empty text. `hidden` has the chunks one after the other (T = chunks * 77), `pooled` is the first chunk's. Tokens
    behind the last chunk have no effect. Gradients flow when the encoders are trained.
    """
    count = number_of_chunks(max_token_length)
    tokens = [_chunks(pipeline, tokenizer, texts, count) for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)]
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    hidden: list[torch.Tensor] = []
    pooled: list[torch.Tensor] = []
    for number in range(count):  # one after the other: the first has the same numbers, whatever `count` is
        outputs = [
            encoder(ids[number].to(encoder.device), output_hidden_states=True)
            for encoder, ids in zip(encoders, tokens, strict=True)
        ]
        layer = -2 - (clip_skip or 0)  # SDXL reads the penultimate layers
        hidden.append(torch.cat([output.hidden_states[layer] for output in outputs], dim=-1))
        pooled.append(outputs[1].text_embeds)
    return TextEncoding(torch.cat(hidden, dim=1).to(encoders[1].dtype), pooled[0])


def encode_prompts(
    pipeline: Any, prompts: Sequence[str], negative_prompts: Sequence[str], clip_skip: int | None, max_token_length: int
) -> dict[str, torch.Tensor]:
    """The arguments of diffusers' SDXL pipelines that replace `prompt`, `negative_prompt` and `clip_skip`.

    As in diffusers, `clip_skip` has no effect on the negative prompts.
    """
    positive = encode_texts(pipeline, prompts, clip_skip, max_token_length)
    negative = encode_texts(pipeline, negative_prompts, None, max_token_length)
    return {
        "prompt_embeds": positive.hidden,
        "pooled_prompt_embeds": positive.pooled,
        "negative_prompt_embeds": negative.hidden,
        "negative_pooled_prompt_embeds": negative.pooled,
    }


def _chunks(pipeline: Any, tokenizer: Any, texts: Sequence[str], count: int) -> torch.Tensor:
    """Token ids (count, B, model_max_length) of the chunks of B texts, each with its marks and padding."""
    length: int = tokenizer.model_max_length
    room = length - MARKS
    # a token of textual inversion may stand for several, as diffusers numbers them
    converted = pipeline.maybe_convert_prompt(list(texts), tokenizer)
    rows = tokenizer(converted, add_special_tokens=False, verbose=False).input_ids
    chunks = [[row[start : start + room] for row in rows] for start in range(0, count * room, room)]
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    return torch.tensor(
        [[[begin, *part, end, *[padding] * (room - len(part))] for part in chunk] for chunk in chunks], dtype=torch.long
    )
