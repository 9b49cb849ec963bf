"""Trained weights = drawn weights = exported weights, for every kind of adapter, through everything that loads it.

The weight that a layer really computes with is read off its answer to the identity matrix, and held against the formula
of the paper, computed here from the weights that were trained.
"""

import itertools
import math
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn

from deployments.service.metrics import Metrics
from deployments.service.model_cache import ModelCache
from deployments.service.model_registry import ModelSpec
from flows.exports import export_diffusers, export_endpoint, export_fused, export_hub, export_kohya, export_triton
from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.artifacts import Layout, sha256_file, sha256_folder
from naruto_core.domain import Adapter, DatasetVersion, FusedModel, Run
from naruto_core.errors import ModelUnusable
from naruto_core.fusion import fuse_adapters, load_adapters, load_fused, scaled_adapters
from naruto_core.recipe import Recipe
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import LoraLayer
from naruto_core.store.database import open_store
from naruto_core.textual_inversion import FILE
from naruto_core.training.weights import Weights, write_files
from naruto_core.weight_check import portable_name
from tests.naruto_core.conftest import CPU
from tests.tiny_sdxl import write_tiny_sdxl

PARTS = ("unet", "text_encoder", "text_encoder_2")
LAYERS = {"attention": ["to_q", "to_k", "to_v", "to_out.0"]}
LAYERS["wide"] = [*LAYERS["attention"], "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
LAYERS["all"] = list(get_args(LoraLayer))
KINDS = {"LoRA": {}, "rsLoRA": {"training.use_rslora": True}, "DoRA": {"training.use_dora": True}}
TEXT = {"unet": {}, "unet+text": {"training.text_encoder_lr": 1.0}}
INK = {"name": "ink", "dataset": {"source": "world:ink"}, "instance_prompt": "an ink drawing"}
MORE = {
    "one style": {},
    "new tokens": {"training.textual_inversion": {"token_abstraction": "person"}},
    "two styles": {"training.adapters": "per-style", "styles": [INK], "fusion.style_scales": {"main": 0.8, "ink": 0.4}},
}
ALL = [one for one in itertools.product(LAYERS, KINDS, TEXT, MORE) if (one[0], one[1]) != ("all", "DoRA")]
# Every pair of choices stands together somewhere in what is drawn, every choice in what is handed out and served;
# `make test-loaders` tries all.
EVERYTHING = bool(os.environ.get("NARUTO_TEST_ALL_COMBINATIONS"))
GENERATED = ALL if EVERYTHING else [ALL[number] for number in (3, 7, 12, 14, 20, 24, 34, 37, 42, 47)]
HANDED_OUT = ALL if EVERYTHING else [ALL[number] for number in (10, 30, 38)]
SERVED = ALL if EVERYTHING else [ALL[number] for number in (10, 30, 38)]


@dataclass(frozen=True)
class Trained:
    """A recorded run, its recipe, and the weights that its layers should have, by part and module."""

    home: Path
    run: Run
    recipe: Recipe
    expected: Mapping[str, torch.Tensor]
    tokens: Mapping[str, torch.Tensor]

    @property
    def layout(self) -> Layout:
        return Layout(self.home)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "tiny")


def _recipe(base: Path, layers: str, kind: str, text: str, more: str) -> Recipe:
    changes = {
        "model.base": str(base),
        "training.rank": 3,
        "training.lora_alpha": 5,
        "training.mixed_precision": "fp32",
        "training.lora_layers": LAYERS[layers],
        "generation.mixed_precision": "fp32",
        "fusion.lora_scale": 0.7,
    }
    return choose_recipe("mini", None, changes | KINDS[kind] | TEXT[text] | MORE[more])


def _scales(recipe: Recipe) -> dict[str, float]:
    """In the order in which the database returns adapters: a second DoRA rescales what the first one left."""
    return {
        style: recipe.fusion.style_scales.get(style, recipe.fusion.lora_scale) for style in sorted(recipe.adapter_names)
    }


@lru_cache(maxsize=1)
def _loaded(model: str) -> tuple[StableDiffusionXLPipeline, Mapping[str, torch.Tensor]]:
    """The base of a model section, given as JSON, and the weights of its layers, by part and module."""
    pipeline = sdxl.load_pipeline(ModelSection.model_validate_json(model), "fp32", CPU)
    weights = {part: _effective(network) for part, network in _models(pipeline).items()}
    return pipeline, {f"{part}.{name}": weight for part, each in weights.items() for name, weight in each.items()}


def _base(recipe: Recipe) -> StableDiffusionXLPipeline:
    """The base as it is loaded: a copy, which is quicker."""
    return deepcopy(_loaded(recipe.model.model_dump_json())[0])


def _train(recipe: Recipe, seed: int, folder: Path) -> Weights:
    """Every weight that learns set at random, as no training leaves it alone; written as training writes."""
    pipeline = _base(recipe)
    weights = Weights(pipeline, recipe.training, recipe.new_tokens)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in weights.named.items():
            noise = 0.3 * torch.randn(weight.shape, generator=generator)
            weight.copy_(weight * (1 + noise) if "magnitude" in name else noise)
    weights.finish()
    write_files(pipeline, weights, folder)
    return weights


def _adapt(
    recipe: Recipe, base: torch.Tensor, before: torch.Tensor, weights: Mapping[str, torch.Tensor], scale: float
) -> torch.Tensor:
    """`before`, the weight (out, in, ...) so far, with one more adapter at `scale`: Hu et al. 2021, section 4.1.

    A DoRA (Liu et al. 2024, eq. 5) is normalised by what it makes of `base` alone, whatever was added to that.
    """
    section = recipe.training
    root = math.sqrt(section.rank) if section.use_rslora else section.rank
    update = scale * section.lora_alpha / root * weights["lora_B"].flatten(1) @ weights["lora_A"].flatten(1)
    update = update.view_as(base)
    if not section.use_dora:
        return before + update
    return weights["lora_magnitude_vector"][:, None] / (base + update).norm(dim=1, keepdim=True) * (before + update)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Mapping[tuple[str, ...], Trained]:
    """Trained runs by combination, made when first asked for."""
    return _Homes(tmp_path_factory.mktemp("homes"), base)


class _Homes(dict[tuple[str, ...], Trained]):
    def __init__(self, folder: Path, base: Path) -> None:
        super().__init__()
        self.folder, self.base = folder, base

    def __missing__(self, key: tuple[str, ...]) -> Trained:
        home = self.folder / str(len(self))
        self[key] = _record(home, _recipe(self.base, *key))
        return self[key]


def _record(home: Path, recipe: Recipe) -> Trained:
    layout = Layout(home)
    expected = _loaded(recipe.model.model_dump_json())[1]
    adapted: dict[str, torch.Tensor] = {}
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        store.add_dataset(DatasetVersion("ds-1", "world:naruto", "datasets/w", 0, 300, 200, 0, 0), [])
        run = store.open_run(
            profile="mini",
            recipe_json=recipe.model_dump_json(),
            fingerprint=recipe.fingerprint,
            dataset_id="ds-1",
            git_commit="",
            now=datetime(2026, 11, 23, tzinfo=UTC),
        )
        adapters: list[Adapter] = []
        tokens: dict[str, torch.Tensor] = {}
        for seed, (style, scale) in enumerate(_scales(recipe).items()):
            folder = layout.adapter(run.id, style).parent
            weights = _train(recipe, seed, folder)
            tokens |= {name: rows.detach().clone() for name, rows in weights.tokens.items()}
            for module in {name.split(".lora_")[0] for name in weights.named if ".lora_" in name}:
                part, _, rest = module.partition(".")
                key = f"{part}.{portable_name(part, rest)}"
                own = {
                    name.split(".")[-3]: weight.detach()
                    for name, weight in weights.named.items()
                    if name.startswith(f"{module}.lora_")
                }
                adapted[key] = _adapt(recipe, expected[key], adapted.get(key, expected[key]), own, scale)
            adapters += [
                Adapter(run.id, layout.relative(path), sha256_file(path), 3, 560, style)
                for path in sorted(folder.glob("*.safetensors"))
            ]
        store.add_adapters(adapters)
        fuse_adapters(_base(recipe), scaled_adapters(home, recipe.fusion, store.adapters(run.id)), layout.fused(run.id))
        fused = FusedModel(run.id, layout.relative(layout.fused(run.id)), sha256_folder(layout.fused(run.id)), 0.7)
        store.add_fused(fused)
    return Trained(home, run, recipe, {**expected, **adapted}, tokens)


def _models(pipeline: object) -> dict[str, nn.Module]:
    return {part: getattr(pipeline, part) for part in PARTS}


@torch.no_grad()
def _effective(model: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """The weight (out, in, ...) that every linear layer and convolution of `model` computes with, by portable name."""
    part = "text_encoder" if "CLIP" in type(model).__name__ else "unet"
    found: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if ".lora_" in name or name.endswith(".base_layer"):
            continue
        inside = getattr(layer, "base_layer", layer)
        if isinstance(inside, nn.Linear):
            size = inside.in_features
            answer = layer(torch.eye(size, dtype=dtype)) - layer(torch.zeros(1, size, dtype=dtype))
            found[portable_name(part, name)] = answer.T.float()
        if isinstance(inside, nn.Conv2d):
            found[portable_name(part, name)] = _kernel(layer, inside, dtype)
    return found


def _kernel(layer: nn.Module, inside: nn.Conv2d, dtype: torch.dtype) -> torch.Tensor:
    """The kernel (out, in, side, side) of a convolution, by its answers, at place (1, 1), to a single 1 anywhere."""
    side, begin = inside.kernel_size[0], inside.stride[0] - inside.padding[0]  # where the kernel lies for place 1
    ones = torch.eye(inside.in_channels * side * side, dtype=dtype).view(-1, inside.in_channels, side, side)
    pictures = nn.functional.pad(ones, (begin, 0, begin, 0))
    answers = (layer(pictures) - layer(torch.zeros_like(pictures[:1])))[:, :, 1, 1]
    return answers.T.reshape(inside.weight.shape).float()


def _hold(trained: Trained, pipeline: object, tolerance: float = 2e-6) -> None:
    """Every layer of `pipeline`, adapted or not, computes with the weight that was trained; so do the new tokens."""
    wrong: list[str] = []
    seen = 0
    for part, model in _models(pipeline).items():
        for name, weight in _effective(model).items():
            seen += 1
            want = trained.expected[f"{part}.{name}"]
            if float((weight - want).abs().max()) > tolerance * max(1.0, float(want.abs().max())):
                wrong.append(f"{part}.{name}")
    assert (wrong, seen) == ([], len(trained.expected))
    for number, part in enumerate(PARTS[1:]):
        tokenizer = (pipeline.tokenizer, pipeline.tokenizer_2)[number]
        for rows in (trained.tokens.get(f"{part}.tokens"),):
            if rows is not None:
                ids = tokenizer.convert_tokens_to_ids([f"<s{index}>" for index in range(len(rows))])
                table = getattr(pipeline, part).get_input_embeddings().weight
                assert torch.allclose(table[ids].float(), rows, atol=tolerance)


def _vanilla(base: Path) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline.from_pretrained(base, add_watermarker=False)


@pytest.mark.parametrize("combination", GENERATED, ids=" ".join)
def test_what_was_trained_is_what_is_drawn(homes: Mapping[tuple[str, ...], Trained], combination: tuple[str, ...]):
    trained = homes[combination]
    pipeline = sdxl.load_pipeline(trained.recipe.model, "fp32", CPU)
    with open_store(f"sqlite:///{trained.home / 'naruto.db'}") as store:
        blends = scaled_adapters(trained.home, trained.recipe.fusion, store.adapters(trained.run.id))
    load_adapters(pipeline, blends)
    _hold(trained, pipeline)
    _hold(trained, load_fused(trained.layout.fused(trained.run.id), "fp32", CPU))


@pytest.mark.parametrize("combination", SERVED, ids=" ".join)
def test_what_was_trained_is_what_is_served(homes: Mapping[tuple[str, ...], Trained], combination: tuple[str, ...]):
    trained = homes[combination]
    recipe = trained.recipe
    with open_store(f"sqlite:///{trained.home / 'naruto.db'}") as store:
        blends = tuple(scaled_adapters(trained.home, recipe.fusion, store.adapters(trained.run.id)))
    look = ModelSpec("r", recipe.model, recipe.generation, blends, tuple(recipe.new_tokens.items()))
    _hold(trained, ModelCache(CPU, 1, 1, Metrics()).painter(look).pipeline)


@pytest.mark.parametrize("combination", HANDED_OUT, ids=" ".join)
def test_what_was_trained_is_what_is_handed_out(
    homes: Mapping[tuple[str, ...], Trained],
    combination: tuple[str, ...],
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    trained = homes[combination]
    monkeypatch.setenv("NARUTO_HOME", str(trained.home))
    scales, run_id = _scales(trained.recipe), trained.run.id

    files = {style: Path(style) / "pytorch_lora_weights.safetensors" for style in scales}
    plain, hub = export_diffusers(run_id, tmp_path / "diffusers"), export_hub(run_id, tmp_path / "hub")
    assert all((plain / file).read_bytes() == (hub / file).read_bytes() for file in files.values())
    _hold(trained, _load_vanilla(base, trained, hub, files))

    if "DoRA" in combination:
        with pytest.raises(ModelUnusable, match="has no LoRA for kohya's tools: it is a DoRA"):
            export_kohya(run_id, tmp_path / "kohya")
    else:
        export_kohya(run_id, tmp_path / "kohya")
        files = {style: Path(f"{run_id}-{style}.safetensors" if style else f"{run_id}.safetensors") for style in scales}
        # half precision
        _hold(trained, _load_vanilla(base, trained, tmp_path / "kohya", files), tolerance=4e-3)

    fused = export_fused(run_id, tmp_path / "fused")
    _hold(trained, _vanilla(fused))
    _hold(trained, _vanilla(export_fused(run_id, tmp_path / "half", half=True)), tolerance=1e-3)
    whole = sha256_folder(fused)
    assert sha256_folder(export_endpoint(run_id, tmp_path / "endpoint")) == whole
    assert sha256_folder(export_triton(run_id, tmp_path / "triton") / "naruto" / "1" / "model") == whole


def _load_vanilla(base: Path, trained: Trained, folder: Path, files: Mapping[str, Path]) -> StableDiffusionXLPipeline:
    """What a stranger does with diffusers alone: the files below `folder`, each style at its scale."""
    pipeline, scales = _vanilla(base), _scales(trained.recipe)
    for style, file in files.items():
        pipeline.load_lora_weights(folder / file.parent, weight_name=file.name, adapter_name=f"style-{style}")
    pipeline.set_adapters([f"style-{style}" for style in files], list(scales.values()))
    if trained.tokens:
        rows = load_file(trained.layout.adapter(trained.run.id).with_name(FILE))
        names = [f"<s{index}>" for index in range(len(rows["clip_l"]))]
        for key, number in (("clip_l", ""), ("clip_g", "_2")):
            encoder, tokenizer = (getattr(pipeline, f"{part}{number}") for part in ("text_encoder", "tokenizer"))
            pipeline.load_textual_inversion(rows[key], token=names, text_encoder=encoder, tokenizer=tokenizer)
    return pipeline
