"""A run as the database has it: trained (weights far from zero, at random), and drawn by naruto's own Painter."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline

from flows.profiles import choose_recipe
from naruto_core import sdxl
from naruto_core.adapter_file import write_adapter
from naruto_core.artifacts import Layout, sha256_file
from naruto_core.domain import Adapter, DatasetVersion, Prompt, PromptSuite, Run, Sample, Variant
from naruto_core.fusion import ScaledAdapter, load_adapters
from naruto_core.generation import Job, Painter, sample_id, save_picture
from naruto_core.prompts import insert_tokens
from naruto_core.recipe import Recipe
from naruto_core.recipe_training import ATTENTION
from naruto_core.store.database import open_store
from naruto_core.store.writes import Store
from naruto_core.textual_inversion import FILE, add_tokens, write_tokens
from naruto_core.training.lora import add_adapters, trainable
from tasks.publish import write_bundle

CPU = torch.device("cpu")
PROMPTS = tuple(Prompt(f"p{n}", text, text, ("place",)) for n, text in enumerate(("a person in the rain", "a forest")))
SMALL: dict[str, object] = {"training.rank": 4, "training.lora_alpha": 2, "training.lora_layers": ATTENTION}
SMALL |= {"training.resolution": 64, "generation.resolution": 64}
SMALL |= {"generation.num_inference_steps": 4, "generation.scheduler": "ddim"}
SMALL |= {"training.mixed_precision": "fp32", "generation.mixed_precision": "fp32", "generation.batch_size": 1}

FIRST_SEED = 3  # of the first style's adapter; the next style has the next


@dataclass(frozen=True)
class Recorded:
    """A store and its files, with one run that was trained and drawn."""

    store: Store
    layout: Layout
    run: Run
    recipe: Recipe
    adapters: Sequence[Adapter]
    base: Path

    def write_bundle(self, folder: Path, *, for_comfyui: bool = True) -> Path:
        write_bundle(self.store, self.layout, self.run, self.adapters, folder, for_comfyui=for_comfyui)
        return folder


def _copy_base(folder: Path) -> None:
    """The miniature, whose second text encoder says eos_token_id 2, as SDXL's does."""
    shutil.copytree(str(resources.files("naruto_core.mini") / "weights/base"), folder)
    path = folder / "text_encoder_2" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 2}))


def random_adapter(recipe: Recipe, seed: int) -> StableDiffusionXLPipeline:
    """The base with an adapter of `recipe` on the UNet, and on both encoders where the recipe has them learn."""
    pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
    add_adapters(pipeline, recipe.training)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in trainable(pipeline).items():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.15)
            elif "magnitude" in name:  # PEFT makes it of the weights: as it begins, nobody would miss it
                weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
    return pipeline


def styles_of(recipe: Recipe) -> list[str]:
    """The style of each LoRA that `recipe` trains, "" for the one of all."""
    section, inversion = recipe.training, recipe.training.textual_inversion
    styles = ["main", *(s.name for s in recipe.styles)] if section.adapters == "per-style" else [""]
    return styles if not inversion or inversion.train_lora else []


def _write_embeddings(recipe: Recipe, path: Path) -> Path:
    pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
    write_tokens(add_tokens(pipeline, recipe.new_tokens, None, seed=3), path)
    return path


def _train(layout: Layout, run: Run, recipe: Recipe) -> Iterator[Adapter]:
    for seed, style in enumerate(styles_of(recipe), FIRST_SEED):
        path = layout.adapter(run.id, style)
        write_adapter(random_adapter(recipe, seed), path)
        yield Adapter(run.id, layout.relative(path), sha256_file(path), 4, 560, style)
    if recipe.training.textual_inversion:
        path = _write_embeddings(recipe, layout.adapter(run.id).with_name(FILE))
        yield Adapter(run.id, layout.relative(path), sha256_file(path), 4, 560)


def _draw(layout: Layout, run: Run, recipe: Recipe, adapters: Sequence[Adapter]) -> Iterator[Sample]:
    folders = {layout.absolute(a.path).parent: a.style for a in adapters}
    scales = recipe.fusion.style_scales
    blends = [ScaledAdapter(folder, scales.get(style, recipe.fusion.lora_scale)) for folder, style in folders.items()]
    for variant in (Variant.BASE, Variant.ADAPTED):
        pipeline = sdxl.load_pipeline(recipe.model, "fp32", CPU)
        if variant is Variant.ADAPTED:
            load_adapters(pipeline, blends)
        painter = Painter(pipeline, recipe.generation)
        for prompt in PROMPTS:
            text = insert_tokens(prompt.text, recipe.new_tokens) if variant is Variant.ADAPTED else prompt.text
            (picture,) = painter.paint([Job(text, 11)])
            name = sample_id(run.id, variant, prompt.slug, 11)
            path = layout.sample(run.id, name)
            save_picture(picture, path, {"prompt": text} | recipe.generation.model_dump(mode="json"))
            yield Sample(name, run.id, variant, prompt.slug, 11, layout.relative(path), sha256_file(path))


@contextmanager
def recorded_run(home: Path, changes: Mapping[str, object], *, drawn: bool = True) -> Iterator[Recorded]:
    """A run of the recipe `mini` with `changes`, trained, and `drawn` or not, below `home`."""
    base, layout = home / "models" / "my-sdxl", Layout(home)
    _copy_base(base)
    recipe = choose_recipe("mini", None, SMALL | {"model.base": str(base), "generation.suite": "my-suite"} | changes)
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
        store.add_adapters(list(_train(layout, run, recipe)))
        adapters = store.adapters(run.id)
        if drawn:
            store.add_prompts(run.id, PromptSuite("rain-v1", "f" * 64, PROMPTS, (11, 22)))
            store.add_samples(list(_draw(layout, run, recipe, adapters)))
        yield Recorded(store, layout, run, recipe, adapters, base)
