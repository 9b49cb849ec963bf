"""Recipes are typed, strict, and what the report says."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows.profiles import choose_import, choose_recipe, choose_suite, imported_recipe, imported_section
from naruto_core.errors import RecipeInvalid
from naruto_core.prompts import with_trigger
from naruto_core.recipe import Recipe, read_recipe

RECIPES = Path(__file__).parents[2] / "flows" / "recipes"


def test_every_shipped_recipe_is_valid_and_named_after_its_file():
    paths = sorted(RECIPES.glob("*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        assert read_recipe(path).profile == path.stem


def test_mini_and_t4_differ_in_values_only():
    mini, t4 = (yaml.safe_load((RECIPES / name).read_text()) for name in ("mini.yaml", "t4.yaml"))
    assert mini.keys() == t4.keys()
    assert set(mini["training"]) == set(t4["training"])
    assert set(mini["generation"]) == set(t4["generation"])


def test_t4_fast_is_t4_with_the_effective_batch_unsplit():
    slow, fast = choose_recipe("t4").training, choose_recipe("t4-fast").training
    split = {"train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "fit_memory", "prior"}
    assert slow.model_dump(exclude=split) == fast.model_dump(exclude=split)
    assert slow.effective_batch_size == fast.effective_batch_size == 4
    assert slow.prior.class_batch_size / slow.train_batch_size == fast.prior.class_batch_size / fast.train_batch_size
    assert slow.prior.model_dump(exclude={"class_batch_size"}) == fast.prior.model_dump(exclude={"class_batch_size"})
    unchanged = ("model", "dataset", "fusion", "scoring", "publish")
    assert all(getattr(choose_recipe("t4"), part) == getattr(choose_recipe("t4-fast"), part) for part in unchanged)
    sampler = {"scheduler", "num_inference_steps"}
    drawn, drawn_fast = choose_recipe("t4").generation, choose_recipe("t4-fast").generation
    assert drawn.model_dump(exclude=sampler) == drawn_fast.model_dump(exclude=sampler)
    assert (drawn.scheduler, drawn.num_inference_steps) == ("ddim", 30)  # the report's


def test_t4_512_is_t4_fast_at_512_pixels():
    fast, large = choose_recipe("t4-fast"), choose_recipe("t4-512")
    assert large.training.resolution == 512
    assert large.training.fit_memory  # four pictures at once do not fit into a T4 without recomputation
    of_training, of_others = large.model_dump(), fast.model_dump()
    for recipe, side in ((of_training, 512), (of_others, 256)):
        training = recipe["training"]
        assert (training.pop("resolution"), training["prior"].pop("resolution")) == (side, side)
    assert of_training | {"profile": "t4-fast"} == of_others


def test_t4_holds_the_configuration_table_of_the_report():
    recipe = choose_recipe("t4")
    table = recipe.training
    assert recipe.model.base == "stabilityai/stable-diffusion-xl-base-1.0"
    assert recipe.model.vae == "madebyollin/sdxl-vae-fp16-fix"
    assert recipe.dataset.source == "lambdalabs/naruto-blip-captions"
    assert (table.instance_prompt, table.resolution) == ("a naruto anime character", 256)
    assert (table.train_batch_size, table.gradient_accumulation_steps, table.max_train_steps) == (1, 4, 500)
    assert (table.optimizer, table.learning_rate, table.text_encoder_lr) == ("prodigy", 1.0, 1.0)
    assert (table.snr_gamma, table.lr_scheduler, table.rank) == (5.0, "constant", 4)
    assert (table.gradient_checkpointing, table.mixed_precision) == (True, "fp16")
    assert recipe.publish.push_to_hub
    assert (recipe.generation.guidance_scale, recipe.generation.num_inference_steps) == (7.5, 30)
    assert recipe.generation.resolution == 1024
    assert recipe.dataset.hold_out == 0
    assert (table.prior.kind, table.prior.resolution) == ("class_images", table.resolution)
    assert table.previews.resolution == 512


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("training.rnk", 8, "unknown key training.rnk"),
        ("trainng.rank", 8, "unknown key trainng"),
        ("training.rank", 0, "training.rank"),
        ("training.resolution", 65, "training.resolution"),
        ("training.mixed_precision", "int3", "training.mixed_precision"),
        ("training.text_encoder_lr", 0.5, "text_encoder_lr must equal learning_rate"),
        ("publish.push_to_hub", True, "hub_model_id"),
        ("dataset.hold_out", 0, "training.validation needs held-out pictures"),
        ("training.prior.class_prompts", [], "training.prior.class_prompts"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_by_the_name_of_its_field(key: str, value: object, named: str):
    with pytest.raises(RecipeInvalid) as refused:
        choose_recipe("mini", overrides={key: value})
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_misspelt_profile_gets_a_suggestion():
    with pytest.raises(RecipeInvalid, match="did you mean mini"):
        choose_recipe("minni")


def test_a_profile_cannot_reach_outside_its_folder():
    with pytest.raises(RecipeInvalid, match="there is no recipe"):
        choose_recipe("../prompts/konoha-v1")


def test_the_fingerprint_depends_on_choices_and_not_on_their_spelling(tmp_path: Path):
    text = (RECIPES / "mini.yaml").read_text()
    tree = yaml.safe_load(text)
    shuffled = tmp_path / "mini.yaml"
    shuffled.write_text(yaml.safe_dump(dict(reversed(tree.items()))))
    assert read_recipe(shuffled).fingerprint == choose_recipe("mini").fingerprint
    assert choose_recipe("mini", overrides={"training.seed": 1}).fingerprint != choose_recipe("mini").fingerprint


@pytest.mark.parametrize(
    ("key", "names", "same"),
    [
        ("training.lora_layers", ["to_q", "to_k", "to_out.0", "to_v"], ["to_v", "to_q", "to_k", "to_out.0", "to_q"]),
        ("generation.variants", ["base", "fused"], ["fused", "base", "base"]),
    ],
)
def test_a_list_whose_order_means_nothing_is_the_same_recipe_in_any_order(key: str, names: list[str], same: list[str]):
    first, second = (choose_recipe("t4", None, {key: value}) for value in (names, same))
    assert first == second
    assert first.fingerprint == second.fingerprint


def test_class_pictures_with_the_trainings_seed_are_those_of_earlier_versions_and_others_have_a_fingerprint_of_theirs():
    def fingerprint(seed: int, of_pictures: int) -> str:
        return choose_recipe("t4", None, {"training.seed": seed, "training.prior.seed": of_pictures}).fingerprint

    assert choose_recipe("t4").fingerprint == fingerprint(42, 42)
    assert choose_recipe("t4").fingerprint.startswith("a57c1ac7779c")  # as before the key existed
    assert choose_recipe("t4", None, {"training.seed": 7}).fingerprint == fingerprint(7, 42)
    assert len({fingerprint(7, 42), fingerprint(7, 7), fingerprint(42, 42), fingerprint(42, 7)}) == 4


def test_broken_yaml_is_an_error_of_a_single_line(tmp_path: Path):
    path = tmp_path / "broken.yaml"
    path.write_text("training: [1, 2\n")
    with pytest.raises(RecipeInvalid) as refused:
        read_recipe(path)
    assert "\n" not in str(refused.value)


def test_the_suite_has_the_reports_prompts():
    suite = choose_suite(choose_recipe("t4").generation)
    texts = {p.text for p in suite.prompts}
    assert {
        "Naruto fighting in the forest",
        "A Naruto anime-style portrait",
        "Sasuke Uchiha with red Sharingan",
        "a naruto anime character with red hair and green eyes",
        "Naruto fighting in the rain",
    } <= texts
    assert len(suite.prompts) == 44
    tags = {tag for p in suite.prompts for tag in p.tags}
    assert tags == {
        "report", "portrait", "action", "place", "attribute", "two-characters", "out-of-domain", "style"
    }  # fmt: skip


def test_a_shortened_suite_has_another_fingerprint():
    section = choose_recipe("mini").generation
    short = section.model_copy(update={"prompts": 3, "seeds": 2})
    suite = choose_suite(short)
    assert (len(suite.prompts), len(suite.seeds)) == (3, 2)
    assert suite.fingerprint != choose_suite(section).fingerprint


def test_an_imported_recipe_has_no_training_and_code_that_asks_for_it_says_so():
    chosen = choose_import("mini", "me/ink@0123abc", None, {"generation.clip_skip": 2, "dataset.hold_out": 0})
    assert (chosen.model.base, chosen.model.revision) == ("me/ink", "0123abc")
    assert chosen.generation.clip_skip == 2
    known = {"name": "ink.safetensors", "sha256": "0" * 64, "instance_prompt": "ink", "rank": [4, 8], "modules": 9}
    recipe = imported_recipe(chosen, imported_section(kind="lora", format="kohya", **known), "My Ink_v2.safetensors")
    assert recipe.profile == "my-ink-v2-safetensors"
    assert not recipe.publish.push_to_hub
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert (again, again.fingerprint) == (recipe, recipe.fingerprint)
    assert "training" not in recipe.model_dump(mode="json")
    assert "imported" not in choose_recipe("mini").model_dump(mode="json")
    assert (recipe.instance_prompt, recipe.weights_precision, recipe.new_tokens) == ("ink", "bf16", {})
    with pytest.raises(RecipeInvalid, match=r"my-ink-v2-safetensors was imported: its training is unknown"):
        _ = recipe.training.rank
    for sections, sentence in (
        ({}, "the section training is missing"),
        ({"training": chosen.training.model_dump(), "imported": recipe.imported}, "imported is written by `naruto"),
    ):
        tree = recipe.model_dump(mode="json")
        with pytest.raises(ValidationError, match=sentence):
            Recipe.model_validate({key: value for key, value in tree.items() if key != "imported"} | sections)
    with pytest.raises(RecipeInvalid, match="this cannot be imported: name: String should have at least 1 character"):
        imported_section(kind="pictures", name="", sha256="0" * 64, instance_prompt="x")
    pictures = imported_section(kind="pictures", name="Midjourney v6", sha256="0" * 64, instance_prompt="x")
    drawn = imported_recipe(chosen, pictures, "Midjourney v6", draw_base=False)
    assert drawn.model.base == "Midjourney v6"
    assert "scheduler" not in drawn.model_dump(mode="json")["generation"]
    assert Recipe.model_validate_json(drawn.model_dump_json()).imported == pictures


def test_a_trigger_replaces_the_instance_prompt_in_a_suite_of_its_own():
    suite = choose_suite(choose_recipe("mini").generation)
    triggered = with_trigger(suite, "a Naruto anime character", r"ink\1 style")
    texts = {prompt.slug: prompt.text for prompt in triggered.prompts}
    assert texts["report-red-hair"] == r"ink\1 style with red hair and green eyes"
    assert texts["report-portrait"] == "A Naruto anime-style portrait"  # it does not have the instance prompt
    assert [p.content for p in triggered.prompts] == [p.content for p in suite.prompts]
    assert (triggered.name, triggered.seeds) == (rf"{suite.name} with ink\1 style", suite.seeds)
    assert triggered.fingerprint != suite.fingerprint


def test_dora_with_convolutions_is_refused_with_the_layers_to_leave_out():
    changes = {"training.use_dora": True, "training.lora_layers": ["to_q", "conv1", "conv_shortcut"]}
    with pytest.raises(RecipeInvalid, match="use_dora is for matrices: leave conv1, conv_shortcut out of lora_layers"):
        choose_recipe("mini", None, changes)
