"""Every option changes what it should, and nothing else."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from torch import nn

from naruto_core.errors import DeviceUnfit, RecipeInvalid
from naruto_core.fusion import ScaledAdapter, fuse_adapters, load_adapters
from naruto_core.generation import Job, Painter
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import StyleLossSection
from naruto_core.sdxl import load_pipeline
from naruto_core.text_encoding import encode_texts
from naruto_core.textual_inversion import add_tokens, load_tokens
from naruto_core.training.batches import Batch, BatchStream, NoiseConfig, StyleData, draw_batch
from naruto_core.training.latent_cache import Examples
from naruto_core.training.loss import LossWeighting, gram, style_loss
from naruto_core.training.optimizer import learning_rate_factor
from naruto_core.training.step import Trainer
from naruto_core.training.weights import write_files
from tests.naruto_core.conftest import CPU, MINIATURE
from tests.naruto_core.test_fusion import JOBS, SECTION
from tests.naruto_core.training.pictures import ADAPTER, data_of, section_of, train

TOKENS = {"TOK": "<s0><s1>"}


def _training(load_miniature, examples: Examples, tokens: dict[str, str] | None = None, **changes: object) -> Trainer:
    section = section_of(**changes)
    return Trainer(load_miniature(section.mixed_precision), [data_of(examples, section)], section, tokens or {})


def _with_tokens(examples: Examples) -> Examples:
    texts = tuple(text.replace("naruto", "<s0><s1>") for text in examples.texts)
    return Examples(examples.mean, examples.deviation, examples.time_ids, None, None, texts)


def _batch(examples: Examples, micro_step: int = 0, size: int = 64, **noise: object) -> Batch:
    stream = BatchStream([StyleData(examples)], 1, size)
    return draw_batch(stream, NoiseConfig(1, 1000, **noise), micro_step, CPU)


def test_noise_offset_shifts_each_channel_by_a_number_of_its_own_and_nothing_else(examples: Examples):
    plain, shifted = _batch(examples), _batch(examples, noise_offset=0.1)
    assert torch.equal(plain.clean, shifted.clean)
    assert torch.equal(plain.t, shifted.t)
    shift = shifted.noise - plain.noise
    assert torch.allclose(shift, shift.mean(dim=(2, 3), keepdim=True).expand_as(shift), atol=1e-6)
    assert float(shift[:, :, 0, 0].std()) == pytest.approx(0.1, rel=0.15)


def test_caption_dropout_takes_the_text_of_its_share_of_pictures_and_nothing_else(load_miniature, examples: Examples):
    empty = encode_texts(load_miniature(), [""])
    plain, dropped = _batch(examples), _batch(examples, caption_dropout=0.3, empty=empty)
    assert torch.equal(plain.clean, dropped.clean)
    assert torch.equal(plain.noise, dropped.noise)
    gone = [text == "" for text in dropped.texts]
    assert 8 < sum(gone) < 32
    for row, without in enumerate(gone):
        assert torch.equal(dropped.text.hidden[row], empty.hidden[0] if without else plain.text.hidden[row])
        assert torch.equal(dropped.text.pooled[row], empty.pooled[0] if without else plain.text.pooled[row])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_weights_are_one_over_the_root_of_the_signal_to_noise_ratio(prediction: str):
    scheduler = DDPMScheduler(prediction_type=prediction)
    scheduler.alphas_cumprod = torch.tensor([0.9, 0.5, 0.01, 0.99999])
    weights = LossWeighting(debiased=True).weights(scheduler, torch.arange(4))
    snr = [9.0, 1.0, 0.01 / 0.99, 1000.0]  # the last one is limited, as kohya does
    expected = [1 / math.sqrt(r) if prediction == "epsilon" else 1 / (r + 1) for r in snr]
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_styles_loss_weight_and_nothing_else_scales_its_gradients(load_tiny, tiny_examples: Examples):
    gradients = []
    for weight in (1.0, 3.0):
        run = _training(load_tiny, tiny_examples)
        run.gradients[0].stream = BatchStream([StyleData(tiny_examples, weight)], 5, 2)
        run.gradients[0].backward(0, 1.0)
        gradients.append(torch.cat([p.grad.flatten() for p in run.weights.named.values()]))
    assert torch.allclose(gradients[1], 3 * gradients[0], rtol=1e-4, atol=1e-5 * float(gradients[1].abs().max()))


def test_dropout_differs_from_step_to_step_and_is_off_in_evaluation_mode(load_tiny, tiny_examples):
    run = _training(load_tiny, tiny_examples, lora_dropout=0.5)
    with torch.no_grad():
        for weight in run.weights.named.values():
            weight.add_(0.1)
    first = [float(run.gradients[0].backward(0, 1.0)[0]) for _ in range(2)]
    assert first[0] == first[1]  # the same step, the same noise
    without_dropout = _training(load_tiny, tiny_examples)
    without_dropout.weights.load_state_dict(run.weights.state_dict())
    assert first[0] != float(without_dropout.gradients[0].backward(0, 1.0)[0])
    run.pipeline.unet.eval()
    without_dropout.pipeline.unet.eval()
    assert float(run.gradients[0].backward(0, 1.0)[0]) == float(without_dropout.gradients[0].backward(0, 1.0)[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"use_rslora": True, "lora_alpha": 2},
        {"use_dora": True},
        # proj_in stands first in a file: by the first key diffusers decides how it reads all others
        {"lora_layers": ["to_q", "ff.net.2", "proj_in"]},
    ],
)
def test_what_variants_of_lora_learn_is_read_by_vanilla_diffusers(load_miniature, examples, tmp_path, changes):
    pipeline = load_miniature()
    section = section_of(optimizer="adamw", learning_rate=0.05, max_train_steps=3, **changes)
    _, weights = train(pipeline, examples, section, tmp_path / "c.safetensors")
    write_files(pipeline, weights, tmp_path / "a")
    saved = load_file(tmp_path / "a" / ADAPTER)
    assert any("magnitude" in name for name in saved) is bool(changes.get("use_dora"))
    layers = {name.split(".lora")[0].rpartition("transformer_blocks.0.")[2] for name in saved}
    assert any("ff.net.2" in layer for layer in layers) is ("lora_layers" in changes)

    ours = Painter(pipeline, SECTION).paint(JOBS)
    vanilla = load_miniature()
    vanilla.load_lora_weights(tmp_path / "a")
    theirs = Painter(vanilla, SECTION).paint(JOBS)
    untouched = Painter(load_miniature(), SECTION).paint(JOBS)
    for mine, their, base in zip(ours, theirs, untouched, strict=True):
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(their, dtype=int)).max() <= 1
        assert np.abs(np.asarray(mine, dtype=int) - np.asarray(base, dtype=int)).max() > 10
    if not changes.get("use_dora"):
        layer = pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q
        stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
        update = saved[f"{stem}.lora_B.weight"] @ saved[f"{stem}.lora_A.weight"]
        assert torch.allclose(layer.get_delta_weight("default"), update, atol=1e-6)


def test_the_running_average_is_diffusers_and_is_what_is_written(load_tiny, tiny_examples, tmp_path: Path):
    pipeline = load_tiny()
    run = _training(load_tiny, tiny_examples, ema_decay=0.6, optimizer="adamw", learning_rate=0.01)
    theirs = EMAModel([nn.Parameter(flat.weights.clone()) for flat in run.weights.flats], decay=0.6)
    for step in range(6):
        run.optimizer_step(step)
        theirs.step([nn.Parameter(flat.weights) for flat in run.weights.flats])
    live = [flat.weights.clone() for flat in run.weights.flats]
    with run.weights.exported():
        for flat, shadow in zip(run.weights.flats, theirs.shadow_params, strict=True):
            assert torch.allclose(flat.weights, shadow, atol=1e-6)
    assert all(torch.equal(flat.weights, weight) for flat, weight in zip(run.weights.flats, live, strict=True))
    section = section_of(ema_decay=0.6, optimizer="adamw", learning_rate=0.01)
    _, weights = train(pipeline, tiny_examples, section, tmp_path / "c.safetensors")
    write_files(pipeline, weights, tmp_path / "a")
    exported = torch.cat([t.flatten() for t in load_file(tmp_path / "a" / ADAPTER).values()])
    assert float(exported.double().sum()) == pytest.approx(float(theirs.shadow_params[0].double().sum()), rel=1e-5)


def test_weights_that_would_stop_before_they_begin_to_learn_are_refused(load_tiny, tiny_examples: Examples):
    options = {"text_encoder_lr": 1.0, "text_encoder_stop_step": 3, "max_train_steps": 8}
    for modules, step in (("text_encoder_2", 3), ("text_encoder", 5)):
        with pytest.raises(RecipeInvalid, match=rf"would learn from step {step} on, but they are frozen from step 3"):
            _training(load_tiny, tiny_examples, unfreeze=[{"modules": modules, "step": step}], **options)


def test_gradual_unfreezing_and_stops_freeze_truly_and_only_what_they_name(load_tiny, tiny_examples: Examples):
    run = _training(
        load_tiny,
        _with_tokens(tiny_examples),
        TOKENS,
        text_encoder_lr=1.0,
        text_encoder_stop_step=4,
        unfreeze=[{"modules": "unet.up_blocks", "step": 2}],
        textual_inversion={"pivot_step": 3},
        max_train_steps=8,
    )

    def part(name: str) -> str:
        return "tokens" if name.endswith(".tokens") else "up" if "up_blocks" in name else name.split(".", maxsplit=1)[0]

    moved: list[set[str]] = []
    for step in range(6):
        before = {name: p.detach().clone() for name, p in run.weights.named.items()}
        run.optimizer_step(step)
        moved.append({part(name) for name, p in run.weights.named.items() if not torch.equal(p, before[name])})
    text = {"text_encoder", "text_encoder_2"}
    # at the first step Prodigy knows no direction yet; B is zero, so A moves by weight decay alone
    assert moved[1] == {"unet", "tokens"} | text
    assert moved[2] == {"unet", "tokens", "up"} | text
    assert moved[3] == {"unet", "up"} | text
    assert moved[4] == moved[5] == {"unet", "up"}


def test_a_block_that_does_not_exist_cannot_be_unfrozen(load_tiny, tiny_examples: Examples):
    with pytest.raises(RecipeInvalid, match=r"no weight begins with 'unet.attic'; weights are unet.down_blocks"):
        _training(load_tiny, tiny_examples, unfreeze=[{"modules": "unet.attic", "step": 2}])


@pytest.mark.parametrize(
    ("name", "warm_up", "theirs"),
    [("constant", 0, "constant"), ("constant", 3, "constant_with_warmup"), ("cosine", 3, "cosine")],
)
def test_schedules_are_diffusers(name: str, warm_up: int, theirs: str):
    section = section_of(lr_scheduler=name, lr_warmup_steps=warm_up, max_train_steps=10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = get_scheduler(theirs, optimizer, num_warmup_steps=warm_up, num_training_steps=10)
    factor = learning_rate_factor(section)
    for step in range(10):
        assert 0.5 * factor(step) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


def test_adamw_is_torchs(load_tiny, tiny_examples: Examples):
    run = _training(load_tiny, tiny_examples, optimizer="adamw", learning_rate=0.01, adam_weight_decay=0.1)
    alone = [nn.Parameter(p.detach().clone()) for p in run.weights.named.values()]
    theirs = torch.optim.AdamW(alone, lr=0.01, weight_decay=0.1)
    for step in range(3):
        gradients: list[torch.Tensor] = []
        handle = run.optimizer.register_step_pre_hook(lambda *_, seen=gradients: seen.extend(_grads(run)))
        run.optimizer_step(step)
        handle.remove()
        for parameter, gradient in zip(alone, gradients, strict=True):
            parameter.grad = gradient
        theirs.step()
    for mine, their in zip(run.weights.named.values(), alone, strict=True):
        assert torch.allclose(mine, their, atol=1e-7)


def _grads(run: Trainer) -> list[torch.Tensor]:
    return [p.grad.detach().clone() for p in run.weights.named.values()]


def test_the_8_bit_optimizer_names_the_package_that_is_missing(
    load_tiny, tiny_examples, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(DeviceUnfit, match="needs the package bitsandbytes"):
        _training(load_tiny, tiny_examples, optimizer="adamw8bit", learning_rate=1e-4)


def test_gram_matrices_depend_on_which_features_occur_together_and_not_on_where():
    features = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    by_hand = torch.einsum("bchw,bdhw->bcd", features, features) / 64
    assert torch.allclose(gram(features), by_hand, atol=1e-6)
    moved = features.flatten(2)[:, :, torch.randperm(64, generator=torch.Generator().manual_seed(1))].view_as(features)
    assert torch.allclose(gram(moved), by_hand, atol=1e-6)


@pytest.mark.parametrize("features", ["latent", "decoder"])
def test_the_style_loss_is_zero_for_the_picture_itself_and_its_gradient_leads_there(load_miniature, examples, features):
    section, vae = StyleLossSection(features=features, weight=2.0), load_miniature().vae
    clean = examples.mean[[0, 1]]
    weights = torch.tensor([1.0, 0.5])
    assert float(style_loss(section, vae, clean, clean, weights)) == 0.0
    denoised = (0.5 * clean).requires_grad_()
    loss = style_loss(section, vae, denoised, clean, weights)
    loss.backward()
    nearer = denoised.detach() - 1e-3 * denoised.grad / denoised.grad.norm()
    assert 0 < float(style_loss(section, vae, nearer, clean, weights)) < float(loss.detach())

    gradients = []
    for style in (None, {"features": features}):
        run = _training(load_miniature, examples, style_loss=style)
        losses = run.gradients[0].backward(0, 1.0)
        gradients.append((float(losses[0]), _grads(run)))
    assert gradients[1][0] > gradients[0][0]
    assert any(not torch.equal(a, b) for a, b in zip(gradients[0][1], gradients[1][1], strict=True))


def test_new_tokens_alone_learn_and_every_other_embedding_and_weight_stays(load_miniature, examples, tmp_path: Path):
    pipeline = load_miniature()
    before = {n: p.clone() for n, p in pipeline.text_encoder.named_parameters()}
    section = section_of(
        optimizer="adamw",
        learning_rate=0.02,
        textual_inversion={"train_lora": False, "learning_rate": 0.02, "initializer_concept": "red hair"},
        instance_prompt="a <s0><s1> character",
    )
    words = pipeline.tokenizer("red hair", add_special_tokens=False).input_ids
    start = pipeline.text_encoder.get_input_embeddings().weight[words].clone()
    _, weights = train(pipeline, _with_tokens(examples), section, tmp_path / "c.safetensors", tokens=TOKENS)
    files = write_files(pipeline, weights, tmp_path / "a")
    assert [file.name for file in files] == ["embeddings.safetensors"]
    rows = load_file(files[0])
    assert (rows["clip_l"].shape[0], rows["clip_g"].shape[0]) == (2, 2)
    assert 1e-3 < float((rows["clip_l"] - start).abs().max()) < 1
    after = dict(pipeline.text_encoder.named_parameters())
    for name, weight in before.items():
        assert torch.equal(
            weight, after.get(name, after.get(name.replace("token_embedding", "token_embedding.embedding")))
        )

    vanilla = load_miniature()  # read back by diffusers alone
    for key, tokenizer, encoder in (
        ("clip_l", vanilla.tokenizer, vanilla.text_encoder),
        ("clip_g", vanilla.tokenizer_2, vanilla.text_encoder_2),
    ):
        vanilla.load_textual_inversion(rows[key], token=["<s0>", "<s1>"], text_encoder=encoder, tokenizer=tokenizer)
    text = "a <s0><s1> character in the rain"
    hidden, _, pooled, _ = vanilla.encode_prompt(text, do_classifier_free_guidance=False)
    ours = encode_texts(pipeline, [text])
    assert torch.allclose(ours.hidden, hidden, atol=1e-5)
    assert torch.allclose(ours.pooled, pooled, atol=1e-5)
    loaded = load_miniature()
    load_tokens(loaded, files[0])
    assert torch.allclose(encode_texts(loaded, [text]).pooled, pooled, atol=1e-5)


def test_pooled_text_is_taken_at_the_end_even_where_sdxls_old_convention_would_take_a_new_token(load_miniature):
    """SDXL's second encoder says eos_token_id 2: transformers then takes the highest id, which a new token has."""
    texts = ["a person <s0><s1> in the rain", "a person <s0><s1> in the snow"]
    pooled = []
    for eos in (2, None):
        pipeline = load_miniature()
        if eos:
            pipeline.text_encoder_2.text_model.eos_token_id = pipeline.text_encoder_2.config.eos_token_id = eos
        add_tokens(pipeline, TOKENS, None, seed=3)
        pooled.append(encode_texts(pipeline, texts).pooled)
    assert torch.equal(pooled[0], pooled[1])
    assert not torch.allclose(pooled[0][0], pooled[0][1])  # taken at the token, both would have read the same


def test_pivotal_tuning_is_drawn_alike_by_adapter_fused_model_and_vanilla_diffusers(load_miniature, examples, tmp_path):
    pipeline = load_miniature()
    section = section_of(
        optimizer="adamw", learning_rate=0.02, textual_inversion={"learning_rate": 0.02}, max_train_steps=4
    )
    _, weights = train(pipeline, _with_tokens(examples), section, tmp_path / "c.safetensors", tokens=TOKENS)
    files = write_files(pipeline, weights, tmp_path / "a")
    assert len(files) == 2
    jobs = [Job("a <s0><s1> anime character with red hair", 3), Job("a pencil sketch of a person", 4)]
    trained = Painter(pipeline, SECTION).paint(jobs)
    adapted = load_miniature()
    load_adapters(adapted, [ScaledAdapter(tmp_path / "a")])
    fuse_adapters(load_miniature(), [ScaledAdapter(tmp_path / "a")], tmp_path / "fused")
    fused = load_pipeline(ModelSection(base=str(tmp_path / "fused")), "fp32", CPU)
    vanilla = StableDiffusionXLPipeline.from_pretrained(tmp_path / "fused", add_watermarker=False)
    for other in (adapted, fused, vanilla):
        for mine, their in zip(trained, Painter(other, SECTION).paint(jobs), strict=True):
            assert np.abs(np.asarray(mine, dtype=int) - np.asarray(their, dtype=int)).max() <= 2


def test_two_styles_adapters_blend_by_their_scales(load_miniature, examples, tmp_path: Path):
    for number in range(2):
        pipeline = load_miniature()
        section = section_of(optimizer="adamw", learning_rate=0.02, max_train_steps=3, seed=number)
        _, weights = train(pipeline, examples, section, tmp_path / f"{number}.safetensors")
        write_files(pipeline, weights, tmp_path / str(number))
    fuse_adapters(
        load_miniature(), [ScaledAdapter(tmp_path / "0", 0.7), ScaledAdapter(tmp_path / "1", -0.4)], tmp_path / "fused"
    )
    fused = load_pipeline(ModelSection(base=str(tmp_path / "fused")), "fp32", CPU).unet.state_dict()
    base = load_pipeline(MINIATURE, "fp32", CPU).unet.state_dict()
    stem = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    expected = base[f"{stem}.weight"].clone()
    for folder, scale in (("0", 0.7), ("1", -0.4)):
        saved = load_file(tmp_path / folder / ADAPTER)
        expected += scale * saved[f"unet.{stem}.lora_B.weight"] @ saved[f"unet.{stem}.lora_A.weight"]
    assert torch.allclose(fused[f"{stem}.weight"], expected, atol=1e-6)
    assert not torch.allclose(expected, base[f"{stem}.weight"], atol=1e-4)
