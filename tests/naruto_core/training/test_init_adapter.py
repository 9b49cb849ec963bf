"""A training that goes on from an adapter: it starts as that adapter, and what does not fit is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.profiles import choose_recipe
from naruto_core.adapter_file import load_lora, write_adapter
from naruto_core.artifacts import sha256_file
from naruto_core.domain import DatasetVersion
from naruto_core.errors import ModelUnusable
from naruto_core.kohya import write_kohya
from naruto_core.recipe import Recipe
from naruto_core.training.lora import add_adapters, trainable
from naruto_core.training.weights import Weights
from tasks.preflight import check_init_adapter
from tasks.run import _fingerprint
from tests.naruto_core.conftest import MINIATURE
from tests.naruto_core.training.pictures import section_of

RANK = {"training.rank": 4}


@pytest.fixture
def adapter(load_miniature: Callable[..., object], tmp_path: Path) -> Path:
    """An adapter file of rank 4 on the UNet; B is far from zero, and every value has an exact half-precision form."""
    pipeline = load_miniature()
    add_adapters(pipeline, section_of(rank=4))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trainable(pipeline).values():
            weight.copy_((0.1 * torch.randn(weight.shape, generator=generator)).half())
    path = tmp_path / "adapter" / "pytorch_lora_weights.safetensors"
    write_adapter(pipeline, path)
    return path


def _recipe(file: Path, **changes: object) -> Recipe:
    return choose_recipe("mini", None, RANK | {"training.init_adapter": str(file)} | changes)


def _drawn(pipeline: object) -> torch.Tensor:
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(0), "output_type": "pt"}
    with torch.inference_mode():
        return pipeline("a person in the rain", height=64, width=64, **options).images[0]


def test_training_starts_as_the_adapter_whatever_the_form_of_its_file(
    load_miniature: Callable[..., object], adapter: Path, tmp_path: Path
):
    loaded = load_miniature()
    plain = _drawn(loaded)
    load_lora(loaded, adapter, "own")
    expected = _drawn(loaded)
    assert (expected - plain).abs().max() > 0.05
    write_kohya(adapter, tmp_path / "kohya.safetensors", {}, MINIATURE)
    for number, file in enumerate((adapter, tmp_path / "kohya.safetensors")):
        lora = check_init_adapter(_recipe(file))
        assert lora is not None
        converted = tmp_path / str(number) / "pytorch_lora_weights.safetensors"
        lora.write(converted, MINIATURE)
        pipeline = load_miniature()
        weights = Weights(pipeline, section_of(rank=4, init_adapter=str(converted)), {})
        with weights.exported():
            assert torch.equal(_drawn(pipeline), expected)
    assert sorted(map(sha256_file, (adapter, converted)))[0] == sha256_file(adapter)  # kohya's is converted back


def test_another_scale_and_half_precision_leave_the_first_update_as_it_is(
    load_miniature: Callable[..., object], adapter: Path
):
    pipeline = load_miniature()
    Weights(pipeline, section_of(rank=4, lora_alpha=2, mixed_precision="bf16", init_adapter=str(adapter)), {}).finish()
    layer = pipeline.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
    tensors = load_file(adapter)
    key = next(
        key
        for key in tensors
        if key.endswith("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight")
    )
    assert layer.scaling["default"] == 0.5
    assert torch.equal(layer.lora_B["default"].weight, tensors[key] * 2)


def test_a_dora_starts_as_the_lora_that_it_goes_on_from(load_miniature: Callable[..., object], adapter: Path):
    drawn = []
    for use_dora in (False, True):
        pipeline = load_miniature()
        Weights(pipeline, section_of(rank=4, use_dora=use_dora, init_adapter=str(adapter)), {}).finish()
        drawn.append(_drawn(pipeline))
    assert (drawn[0] - drawn[1]).abs().max() < 1e-3


def test_an_adapter_of_another_rank_or_of_layers_that_are_not_trained_is_refused(adapter: Path, tmp_path: Path):
    for changes, sentence in (
        ({"training.rank": 8}, r"has rank 4 in unet\..*, and training\.rank is 8: set training\.rank=4"),
        ({"training.lora_layers": ["to_q", "to_v"]}, r"to_k, which this recipe does not train: see training\.lora_l"),
    ):
        with pytest.raises(ModelUnusable, match=sentence):
            check_init_adapter(_recipe(adapter, **changes))
    with pytest.raises(ModelUnusable, match="there is no LoRA file"):
        check_init_adapter(_recipe(tmp_path / "gone.safetensors"))
    assert check_init_adapter(choose_recipe("mini")) is None
    # layers that the file lacks start at zero
    assert check_init_adapter(_recipe(adapter, **{"training.text_encoder_lr": 1.0})) is not None


def test_the_content_of_the_file_is_part_of_the_runs_fingerprint(adapter: Path):
    dataset = DatasetVersion("ds-1", "x", "t", 0, 3, 0, 0, 0)
    before = _fingerprint(_recipe(adapter), [dataset])
    tensors = load_file(adapter)
    assert before == _fingerprint(_recipe(adapter), [dataset]) != _recipe(adapter).fingerprint
    save_file({key: 2 * tensor for key, tensor in tensors.items()}, adapter)
    assert _fingerprint(_recipe(adapter), [dataset]) != before
