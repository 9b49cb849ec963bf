"""The miniature's tokenizers: a CLIP byte-pair vocabulary learnt from the world's own words."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from naruto_core.mini.parts import CONTEXT
from naruto_core.mini.world import BASE_STYLES, FILLER_WORDS, describe, sample_scene

VOCABULARY = 1400  # byte alphabet 2 x 256, the merges, and the two special tokens last
BOS, EOS, PAD_2 = "<|startoftext|>", "<|endoftext|>", "!"
# CLIP's own splitting rule: contractions, letters, single digits, runs of other signs.
_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def _texts(prompts: Iterable[str]) -> Iterator[str]:
    rng = Random(5)
    for index in range(6000):
        yield describe(sample_scene(rng, BASE_STYLES[index % len(BASE_STYLES)]), rng)
    for prompt in prompts:  # the plain English of the prompt suites, often enough to earn merges
        yield from [prompt.lower()] * 8
    for word in FILLER_WORDS:
        yield from [f"{word} " * 8]


def learn_tokenizers(prompts: Iterable[str]) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Tokenizer 1 (pads with end-of-text) and tokenizer 2 (pads with "!"), over one vocabulary, as SDXL's."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    from tokenizers import Regex

    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=lambda sign: (sign != PAD_2, sign))
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2 - 256,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(_texts(prompts), trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    return _assemble(alphabet, merges)


def _assemble(alphabet: list[str], merges: list[tuple[str, str]]) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """CLIP's order of ids: bytes, bytes that end a word, merges, then the special tokens."""
    words = [*alphabet, *(f"{sign}</w>" for sign in alphabet), *("".join(pair) for pair in merges)]
    unique = list(dict.fromkeys(words))
    vocabulary = {word: index for index, word in enumerate([*unique, BOS, EOS])}

    def tokenizer(pad: str) -> CLIPTokenizer:
        pairs: Any = merges  # typed as strings, taken as pairs
        return CLIPTokenizer(
            vocab=vocabulary,
            merges=pairs,
            unk_token=EOS,
            bos_token=BOS,
            eos_token=EOS,
            pad_token=pad,
            model_max_length=CONTEXT,
        )

    return tokenizer(EOS), tokenizer(PAD_2)


def read_tokenizers(folder: Path) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """The two tokenizers saved below `folder` as `tokenizer` and `tokenizer_2`."""
    return CLIPTokenizer.from_pretrained(folder / "tokenizer"), CLIPTokenizer.from_pretrained(folder / "tokenizer_2")
