"""Conditioning, the latent cache, and which pictures a step draws."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from naruto_core.checkpoint import read_checkpoint
from naruto_core.errors import DatasetUnusable, RecordDamaged
from naruto_core.text_encoding import encode_texts
from naruto_core.training.batches import BatchStream, NoiseConfig, StyleData, draw_batch, shuffled_indices
from naruto_core.training.latent_cache import (
    CaptionedPicture,
    Column,
    EncodingOptions,
    Examples,
    encode_examples,
    time_ids,
)
from tests.naruto_core.conftest import CPU
from tests.naruto_core.training.pictures import NAMES, PROMPT, captioned, captioned_tiny, encode, ignore


@pytest.mark.parametrize("text", ["Naruto fighting in the rain", "", "a person " * 60])
@pytest.mark.parametrize("clip_skip", [None, 1])
def test_conditioning_is_the_encoders_penultimate_layers_and_the_second_ones_projection_bit_for_bit(
    load_miniature, text: str, clip_skip: int | None
):
    """Of the text between begin- and end-of-text tokens, cut or filled to the encoders' length."""
    pipeline, layers = load_miniature(), []
    for tokenizer, encoder in (
        (pipeline.tokenizer, pipeline.text_encoder),
        (pipeline.tokenizer_2, pipeline.text_encoder_2),
    ):
        length = tokenizer.model_max_length
        ids = tokenizer([text], padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        assert ids[0, 0] == tokenizer.bos_token_id
        assert tokenizer.eos_token_id in ids
        output = encoder(ids, output_hidden_states=True)
        layers.append(output.hidden_states[-2 - (clip_skip or 0)])
    ours = encode_texts(pipeline, [text], clip_skip)
    assert torch.equal(ours.hidden, torch.cat(layers, dim=-1))
    assert torch.equal(ours.pooled, output.text_embeds)


def test_a_negative_prompt_is_read_as_the_pipeline_reads_it(load_miniature):
    pipeline = load_miniature()
    _, hidden, _, pooled = pipeline.encode_prompt("a person", negative_prompt="low quality, bad anatomy")
    ours = encode_texts(pipeline, ["low quality, bad anatomy"])
    assert torch.equal(ours.hidden, hidden)
    assert torch.equal(ours.pooled, pooled)


def test_time_ids_equal_the_pipelines(load_miniature):
    pipeline = load_miniature()
    size = pipeline.text_encoder_2.config.projection_dim
    theirs = pipeline._get_add_time_ids((640, 512), (8, 0), (64, 96), torch.float32, size)
    assert theirs.tolist() == [time_ids((640, 512), (8, 0), (64, 96))]


def test_latents_captions_and_crops_of_a_picture_stay_together(load_miniature, examples: Examples):
    pipeline = load_miniature()
    for index in (0, 5, 11):
        picture = captioned(NAMES[index])
        pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
        assert torch.allclose(examples.mean.row(index), expected[0], atol=1e-6)
        assert examples.texts[index] == f"{PROMPT}, {picture.caption}"
        assert torch.equal(examples.hidden.row(index), encode_texts(pipeline, [examples.texts[index]]).hidden[0])


def _coded(name: str, view: int) -> CaptionedPicture:
    """A picture whose colour, caption, size and crop all say its number."""
    number = int(name)
    shape = (64, 96) if number % 2 else (64, 64)
    pixels = np.full((*shape, 3), 4 * number + view, dtype=np.uint8)
    return CaptionedPicture(name, f"number {number} view {view}", pixels, (1000 + number, 1000 + view), (number, view))


def test_everything_about_a_picture_stays_together_under_buckets_views_repeats_shuffling_and_resume(
    load_miniature, tmp_path: Path
):
    pipeline = load_miniature()
    groups = [[str(n) for n in range(0, 40, 2)], [str(n) for n in range(1, 40, 2)]]
    how = EncodingOptions(PROMPT, views=3)
    colours: dict[tuple[int, int], float] = {}
    coded = encode_examples(pipeline, groups, _coded, how, tmp_path, ignore)
    for row, text in enumerate(coded.texts):
        number, view = (int(word) for word in text.split() if word.isdigit())
        colours[number, view] = float(coded.mean.row(row).mean())
    again = encode_examples(pipeline, groups, lambda *_: pytest.fail("encoded twice"), how, tmp_path, ignore)
    stream = BatchStream([StyleData(coded), StyleData(again, 0.5, repeats=2)], 3, 4)
    seen: set[tuple[int, int]] = set()
    for micro_step in [*range(60), 7, 3]:  # a resumed run draws old steps again
        batch = draw_batch(stream, NoiseConfig(3, 1000), micro_step, CPU)
        deviation = 0.0
        for row, text in enumerate(batch.texts):
            number, view = (int(word) for word in text.split() if word.isdigit())
            width = 96 if number % 2 else 64
            assert batch.time_ids[row].tolist() == [1000 + number, 1000 + view, number, view, 64, width]
            assert batch.clean.shape[2:] == (8, width // 8)
            assert torch.equal(batch.text.hidden[row], encode_texts(pipeline, [text]).hidden[0]) or row
            deviation = max(deviation, abs(float(batch.clean[row].mean()) - colours[number, view]))
            seen.add((number, view))
        assert deviation < 0.2  # random part of a mean over all of a picture
    assert len(seen) > 60
    assert max(colours.values()) - min(colours.values()) > 0.5


def _of_sizes(*sizes: int) -> Examples:
    """Examples whose latents have these heights, and no texts."""
    zeros = [torch.zeros(1, 4, height, 8) for height in sizes]
    column = Column(zeros)
    return Examples(column, column, Column([torch.zeros(len(sizes), 6)]), None, None, ("",) * len(sizes))


def test_every_picture_weighs_the_same_in_an_epoch_however_few_have_its_shape():
    examples = _of_sizes(*[8] * 9, *[12] * 5, 16)
    for size in (1, 2, 4):
        stream = BatchStream([StyleData(examples)], 7, size)
        steps = sum(-(-count // size) for count in (9, 5, 1))
        epoch = [stream.rows(step) for step in range(steps)]
        weights = dict.fromkeys(range(15), 0.0)
        for row in (row for batch in epoch for row in batch):
            weights[row.picture] += row.share
        assert list(weights.values()) == pytest.approx([1.0] * 15)
        assert {len(batch) for batch in epoch} == {size}
    alone = next(step for step in range(steps) if stream.rows(step)[0].picture == 14)
    batch = draw_batch(stream, NoiseConfig(seed=7, timesteps=1000), alone, CPU)
    assert batch.weights.tolist() == [0.25] * 4
    assert batch.filled == 0.25
    assert not torch.equal(batch.noise[0], batch.noise[1])  # four noises of the only picture of its shape


def test_every_use_of_a_cached_picture_is_another_sample_of_its_latents():
    mean, ones = Column([torch.zeros(1, 4, 8, 8)]), Column([torch.ones(1, 4, 8, 8)])
    examples = Examples(mean, ones, Column([torch.zeros(1, 6)]), None, None, ("",))
    clean = draw_batch(BatchStream([StyleData(examples)], 7, 16), NoiseConfig(seed=7, timesteps=1000), 0, CPU).clean
    assert len({tuple(row.flatten().tolist()) for row in clean}) == 16
    assert abs(float(clean.std()) - 1) < 0.05  # the cached deviation, over 4,096 numbers


def test_an_epoch_shows_every_picture_as_often_as_its_style_repeats(examples: Examples):
    first, second = shuffled_indices(7, 0, 12, 12), shuffled_indices(7, 12, 12, 12)
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert shuffled_indices(7, 10, 4, 12) == (*first[10:], *second[:2])
    stream = BatchStream([StyleData(examples), StyleData(examples, repeats=3)], 7, 4)
    epoch = [row[:2] for step in range(12) for row in stream.rows(step)]
    counts = {index: epoch.count(index) for index in epoch}
    assert {counts[0, n] for n in range(12)} == {1}
    assert {counts[1, n] for n in range(12)} == {3}
    several = tuple(1 + n % 3 for n in range(12))
    stream = BatchStream([StyleData(examples, repeats=2, picture_repeats=several)], 7, 4)
    epoch = [row[:2] for step in range(12) for row in stream.rows(step)]
    assert [epoch.count((0, n)) for n in range(12)] == [2 * repeats for repeats in several]


def test_a_stopped_encoding_goes_on_with_the_next_shard(load_tiny, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("naruto_core.training.latent_cache.ROWS_PER_SHARD", 4)
    pipeline, read = load_tiny(), []

    def failing(name: str, view: int) -> CaptionedPicture:
        if name == "picture-9":
            raise KeyboardInterrupt
        return captioned_tiny(name, view)

    def counting(name: str, view: int) -> CaptionedPicture:
        read.append(name)
        return captioned_tiny(name, view)

    with pytest.raises(KeyboardInterrupt):
        encode_examples(pipeline, [NAMES], failing, EncodingOptions(PROMPT), tmp_path, ignore)
    resumed = encode_examples(pipeline, [NAMES], counting, EncodingOptions(PROMPT), tmp_path, ignore)
    assert read == NAMES[8:]
    assert len(resumed) == 12


def _flip_low_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) - 4000, len(data), 16):
        data[at] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _swap(path: Path) -> None:
    path.write_bytes(path.with_name("shard-00001.safetensors").read_bytes())


def _forget_digest(path: Path) -> None:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
        known = file.metadata()
    save_file(tensors, path, {"values": known["values"]})


@pytest.mark.parametrize("damage", [_flip_low_bits, _cut, _swap, _forget_digest])
def test_a_shard_that_is_not_what_was_written_is_made_again(load_tiny, tmp_path: Path, monkeypatch, damage):
    monkeypatch.setattr("naruto_core.training.latent_cache.ROWS_PER_SHARD", 6)
    pipeline, shard = load_tiny(), tmp_path / "shard-00000.safetensors"
    first = encode(pipeline, tmp_path, picture=captioned_tiny)
    first_means, first_hidden = ([column.row(i).clone() for i in range(12)] for column in (first.mean, first.hidden))
    other = shard.with_name("shard-00001.safetensors").stat().st_mtime_ns
    damage(shard)
    with pytest.raises(RecordDamaged, match="remove it") if damage is not _swap else nullcontext():
        read_checkpoint(shard)
    encoded = encode(pipeline, tmp_path, picture=captioned_tiny)
    assert encoded.texts == first.texts
    assert all(torch.equal(encoded.mean.row(index), first_means[index]) for index in range(12))
    assert all(torch.equal(encoded.hidden.row(index), first_hidden[index]) for index in range(12))
    assert shard.with_name("shard-00001.safetensors").stat().st_mtime_ns == other


def test_where_the_encoders_learn_their_encodings_are_not_cached(load_tiny, tmp_path: Path):
    encoded = encode(load_tiny(), tmp_path, picture=captioned_tiny, with_text=False)
    assert encoded.hidden is None
    with safe_open(next(tmp_path.glob("*.safetensors")), "pt") as file:
        assert set(file.keys()) == {"mean", "deviation", "time_ids"}


def test_a_latent_that_is_not_a_number_is_refused_with_the_pictures_name(load_tiny, tmp_path: Path):
    pipeline = load_tiny()
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.fill_(float("inf"))
    with pytest.raises(DatasetUnusable, match="picture-0"):
        encode(pipeline, tmp_path, picture=captioned_tiny)
