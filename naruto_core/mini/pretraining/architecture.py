"""The architecture of the miniature: SDXL's classes with random weights, 1/300 of its size, and two tokenizers."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from naruto_core.mini.pretraining.drawing import SIZE
from naruto_core.mini.pretraining.world import BASE_STYLES, FILLER_WORDS, describe, sample_scene

LATENT_CHANNELS = 16  # SDXL: 4, for pictures 8 times as wide; at 128 pixels, 4 channels blur outlines
LATENT_SIDE = SIZE // 8  # latent cells on a side; the VAE has factor 8, as SDXL's
CONTEXT = 48  # tokens of a prompt (SDXL: 77)
WIDTH_1, WIDTH_2 = 64, 96  # hidden sizes of the two text encoders (SDXL: 768 and 1280)
POOLED = 96  # size of the projected, pooled embedding (SDXL: 1280)
TIME_WIDTH = 32  # sinusoid size for each of the six size-and-crop numbers (SDXL: 256)


# diffusers annotates tuples of any length as tuples of length 1.
_Autoencoder, _UNet = cast(Any, AutoencoderKL), cast(Any, UNet2DConditionModel)


def create_vae() -> AutoencoderKL:
    """The VAE with random weights."""
    return _Autoencoder(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),  # narrow at full resolution, where nearly all of the time is spent
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        force_upcast=False,
    )


def create_unet(lower_width: int = 144, latent_channels: int = LATENT_CHANNELS) -> UNet2DConditionModel:
    """The UNet with random weights; `lower_width` is the number of channels below the highest resolution."""
    return _UNet(
        sample_size=LATENT_SIDE,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, lower_width),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=(2, 4),  # number of heads; the argument keeps its historical name
        cross_attention_dim=WIDTH_1 + WIDTH_2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED + 6 * TIME_WIDTH,
        norm_num_groups=16,
    )


def create_text_encoders(
    vocab_size: int, bos: int, eos: int, pads: tuple[int, int]
) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Text encoder 1 and encoder 2 (with projection) with random weights; the vocabulary's last id is `eos`."""

    def config(width: int, layers: int, heads: int, pad: int) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=CONTEXT,
            projection_dim=POOLED,
            hidden_act="quick_gelu" if width == WIDTH_1 else "gelu",
            bos_token_id=bos,
            eos_token_id=eos,
            pad_token_id=pad,
        )

    first = CLIPTextModel(config(WIDTH_1, 3, 2, pads[0]))
    second = CLIPTextModelWithProjection(config(WIDTH_2, 4, 3, pads[1]))
    return first, second


def scheduler() -> EulerDiscreteScheduler:
    """A scheduler with the values of SDXL's scheduler_config.json.

    The last three keys have no effect on Euler, but matter for other schedulers that are made from
    its configuration: DDIM clips its predictions to -1..1 by default, and latents are larger.
    """
    made: Any = EulerDiscreteScheduler.from_config(
        {
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "interpolation_type": "linear",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
        }
    )
    return made


VOCABULARY = 1400  # byte alphabet 2 x 256, the merges, and the two special tokens last
BOS, EOS, PAD_2 = "<|startoftext|>", "<|endoftext|>", "!"
# CLIP's own splitting rule: contractions, letters, single digits, sequences of other characters.
_SPLIT = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""


def _texts(prompts: Iterable[str]) -> Iterator[str]:
    rng = Random(5)
    for index in range(6000):
        yield describe(sample_scene(rng, BASE_STYLES[index % len(BASE_STYLES)]), rng)
    for prompt in prompts:  # the English of the prompt suites, often enough to get merges
        yield from [prompt.lower()] * 8
    for word in FILLER_WORDS:
        yield from [f"{word} " * 8]


def make_tokenizers(prompts: Iterable[str]) -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """Train tokenizer 1 (pads with end-of-text) and tokenizer 2 (pads with "!"), with one vocabulary, as SDXL's."""
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
    """Tokenizers with CLIP's order of ids: bytes, bytes at a word's end, merges, special tokens."""
    entries = [*alphabet, *(f"{sign}</w>" for sign in alphabet), *("".join(pair) for pair in merges)]
    unique = list(dict.fromkeys(entries))
    vocabulary = {entry: index for index, entry in enumerate([*unique, BOS, EOS])}

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
