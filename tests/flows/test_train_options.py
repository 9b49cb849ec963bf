"""The trainer's larger options through the whole flow: previews on the way, several styles, new tokens, stages."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flows.profiles import choose_recipe
from naruto_core.adapter_file import write_adapter
from naruto_core.artifacts import Layout
from naruto_core.recipe_training import ATTENTION
from naruto_core.sdxl import locate
from naruto_core.store.database import open_store
from tests.flows.conftest import Naruto, flags, overflow_when_decoded
from tests.loaded_models import counting_models
from tests.tasks.recorded_run import random_adapter

QUICK = {
    "dataset.source": "world:naruto?count=14&seed=5",
    "dataset.hold_out": 6,
    "training.max_train_steps": 4,
    "training.train_batch_size": 4,
    "training.rank": 4,
    "training.lora_layers": json.dumps(ATTENTION),
    "training.resolution": 64,
    "generation.resolution": 64,
    "training.prior": "null",
    "training.validation.validation_steps": 2,
    "training.validation.num_validation_images": 2,
    "generation.prompts": 1,
    "generation.seeds": 2,
    "generation.num_inference_steps": 2,
    "generation.batch_size": 2,
    "generation.variants": ["adapted", "fused"],
}


JUDGE = "package:naruto_core.mini/weights/judge"


def _head(path: Path) -> Path:
    """A linear head that says 0.5 of every picture."""
    width = json.loads((Path(locate(JUDGE, None)[0]) / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"]
    save_file({"weight": torch.zeros(1, width), "bias": torch.tensor([0.5])}, path)
    return path


def _sizes(paths: Iterable[Path]) -> Counter[int]:
    """How many of the pictures have each width."""
    sizes = Counter[int]()
    for path in paths:
        with Image.open(path) as picture:
            sizes[picture.width] += 1
    return sizes


def _only_run(home: Path):
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        (summary,) = store.runs()
        return summary.run, store.adapters(summary.run.id), store.steps(summary.run.id)


def test_an_adapter_for_each_of_two_styles_from_an_earlier_one_and_previews_of_each(naruto: Naruto, tmp_path: Path):
    start = tmp_path / "start.safetensors"
    write_adapter(
        random_adapter(choose_recipe("mini", None, {"training.rank": 4, "training.lora_layers": ATTENTION}), seed=1),
        start,
    )
    styles = "[{name: paper, dataset: {source: 'world:watercolor?count=9&seed=2'}, instance_prompt: a paper person}]"
    previews = {"training.previews": "{preview_steps: 2, prompts: 1, resolution: 32}", "training.adapters": "per-style"}
    blend = {
        "fusion.style_scales": "{paper: 0.5}",
        "styles": styles,
        "generation.variants": ["base", "adapted", "fused"],
    }
    blend["training.init_adapter"] = str(start)
    blend |= {"training.max_token_length": 150, "generation.max_token_length": 150}
    blend["training.mixed_precision"] = "fp32"  # not as samples are drawn: previews are drawn as it is trained
    blend["training.prior"] = "{class_prompts: [a person], num_class_images: 2, class_batch_size: 1, resolution: 32}"
    with counting_models() as alive:
        done = naruto(tmp_path, "run", *flags(QUICK | previews | blend))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("training starts from start.safetensors: 48 modules of rank 4") == 2
    # class pictures, and the base's pictures for all previews; twice for training; fusion; each variant
    assert alive == [0] * 8
    run, adapters, steps = _only_run(tmp_path)
    layout = Layout(tmp_path)
    assert [(a.style, a.path) for a in adapters] == [
        (style, layout.relative(layout.adapter(run.id, style))) for style in ("main", "paper")
    ]
    first, second = (load_file(tmp_path / adapter.path) for adapter in adapters)
    assert first.keys() == second.keys()
    key = next(key for key in first if "lora_B" in key)
    pair = torch.stack([first[key].flatten(), load_file(start)[key].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.9  # four steps away
    assert not torch.equal(*pair)
    assert any(not (first[name] == second[name]).all() for name in first)
    assert [step.step for step in steps] == list(range(8))  # one adapter after the other
    ranks = [step.gauges["copying_rank"] for step in steps if "copying_rank" in step.gauges]
    assert len(ranks) == 4
    assert all(0 < rank <= 1 for rank in ranks)
    for style in ("main", "paper"):
        for done_steps in (2, 4):
            folder = layout.previews(run.id, style) / f"step-{done_steps:06d}"
            assert (folder / "pytorch_lora_weights.safetensors").exists()
            with Image.open(folder / "sheet.png") as sheet:
                assert sheet.width > 250  # the step beside the base
            assert _sizes([folder / "000.png", folder.parent / "base" / "000.png"]) == {32: 2}
    # of the base: two class pictures and one for all previews; and two samples
    assert _sizes(tmp_path.glob("cache/pictures/*/*.png")) == {32: 3, 64: 2}
    shards = [load_file(path)["hidden"] for path in tmp_path.rglob("examples-*/shard-*.safetensors")]
    assert {hidden.shape[1] for hidden in shards} == {2 * 48}  # captions and class prompts, in two chunks
    with open_store(f"sqlite:///{tmp_path / 'naruto.db'}") as store:
        findings = {finding.name: finding.sentence for finding in store.findings(run.id)}
    assert "fit into the 92 tokens that the text encoders read" in findings["truncated text"]
    previewed = [step.step for step in steps if "clip_score" in step.gauges]
    assert previewed == [1, 3, 5, 7]
    shown = naruto(tmp_path, "show", run.id)
    assert "best step" in shown.stdout
    assert naruto(tmp_path, "verify").returncode == 0
    again = naruto(tmp_path, "run", *flags(QUICK | previews | blend))
    assert "train " not in again.stderr.replace("(8 train", "")


def test_a_base_whose_pixels_overflow_is_refused_in_a_sentence_and_no_black_picture_is_kept(
    naruto: Naruto, tmp_path: Path
):
    base = tmp_path / "overflowing"
    shutil.copytree(locate("package:naruto_core.mini/weights/base", None)[0], base)
    overflow_when_decoded(base)
    prior = "{class_prompts: [a person], num_class_images: 2, class_batch_size: 1}"
    home = tmp_path / "home"
    done = naruto(home, "run", *flags(QUICK | {"model.base": str(base), "training.prior": prior}))
    assert done.returncode == 1
    assert f"{base} cannot draw 'a person' with seed 42: the VAE's pixels are not finite numbers" in done.stderr
    assert not [*home.glob("cache/pictures/**/*.png")]


def test_new_tokens_stages_buckets_views_and_the_prior_without_pictures_go_together(naruto: Naruto, tmp_path: Path):
    twin = tmp_path / "twin"
    shutil.copytree(locate(JUDGE, None)[0], twin)
    with (twin / "open_clip_config.json").open("a") as config:  # other preprocessing, as far as an id can tell
        config.write("\n")
    changes = {
        "training.textual_inversion": "{token_abstraction: naruto, num_new_tokens_per_abstraction: 2, pivot_step: 3}",
        "training.stages": "[{resolution: 32, steps: 2}, {resolution: 64, steps: 2}]",
        "training.bucket_reso_steps": 16,
        "training.augmentation": "{views: 3, random_flip: true, color_jitter: 0.1, shuffle_caption: true}",
        "training.prior": "{kind: base_prediction, class_prompts: [a person], class_batch_size: 2}",
        "training.fit_memory": True,
        "training.ema_decay": 0.9,
        "scoring.reference": "training",
        "scoring.preference_model": JUDGE,
        "scoring.aesthetic_head": str(_head(tmp_path / "head.safetensors")),
        "scoring.more_set_extractors": f"['{twin}']",
    }
    done = naruto(tmp_path, "run", *flags(QUICK | changes))
    assert done.returncode == 0, done.stderr
    assert "memory     encode: " in done.stderr
    run, adapters, steps = _only_run(tmp_path)
    assert [Path(a.path).name for a in adapters] == ["embeddings.safetensors", "pytorch_lora_weights.safetensors"]
    assert load_file(tmp_path / adapters[0].path)["clip_l"].shape == (2, 64)
    assert len(steps) == 4
    fused = Layout(tmp_path).fused(run.id)
    assert "<s1>" in (fused / "tokenizer" / "tokenizer.json").read_text()
    with Image.open(next((Layout(tmp_path).run(run.id) / "samples").glob("*.png"))) as picture:
        assert "<s0><s1> fighting" in picture.text["naruto"]
    with open_store(f"sqlite:///{tmp_path / 'naruto.db'}") as store:
        scores = {(s.metric, s.variant): s for s in store.scores(run.id) if s.sample_id is None}
        findings = {found.name: found for found in store.findings(run.id)}
    measured = [scores[f"kd-{name}", "adapted"].value for name in ("judge", "twin")]
    assert measured[0] == pytest.approx(measured[1], rel=1e-3)
    assert scores["kd-judge", "adapted"].reference.endswith(":8")  # 14 pictures, six held out
    assert scores["preference", "real"].n == 6  # the held-out ones stand for a perfect model
    assert scores["preference", "adapted"].value == pytest.approx(scores["clip", "adapted"].value)
    assert scores["aesthetic", "adapted"].value == pytest.approx(0.5)
    assert scores["aesthetic", "adapted"].extractor.startswith(scores["clip", "adapted"].extractor + "+head:")
    assert "captions" in findings["caption noise"].sentence
    assert findings["fused model"].figures["pictures"] == 2  # the samples of both, with the new tokens
    assert findings["overfitting"].sentence.startswith("copying cannot be judged: 6 held-out pictures are too few")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"training.textual_inversion": "{pivot_step: 4}"},
            "textual_inversion.pivot_step is 4: it must be less than max_train_steps",
        ),
        ({"training.prior": "{kind: class_images}"}, "training.prior.class_prompts is missing"),
        ({"training.lora_layers": "[to_x]"}, "training.lora_layers.0"),
        ({"training.stages": "[{resolution: 64, steps: 3}]"}, "stages have 3 steps in all, but max_train_steps is 4"),
        ({"training.stages": "[{resolution: 60, steps: 4}]"}, "training.stages.0.resolution"),
        ({"styles": "[{name: main, dataset: {source: x}, instance_prompt: y}]"}, "main, main are not all different"),
        ({"training.debiased_estimation": True}, "debiased_estimation and snr_gamma cannot be combined"),
        ({"fusion.style_scales": "{paper: 1}"}, "fusion.style_scales names paper"),
        ({"training.augmentation": "{views: 2}"}, "all views would be equal"),
        ({"generation.clip_skip": 1}, "training.clip_skip and generation.clip_skip must be the same"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_loads(
    naruto: Naruto, tmp_path: Path, changes: dict[str, object], named: str
):
    done = naruto(tmp_path, "run", *flags(QUICK | changes))
    assert done.returncode == 1
    assert named in done.stderr
    assert not (tmp_path / "naruto.db").exists()
