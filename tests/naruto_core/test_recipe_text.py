"""`--set` values are read by the type of their field; recipe files are YAML without its traps."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError, create_model

from flows.profiles import choose_recipe, choose_suite
from naruto_core.errors import RecipeInvalid
from naruto_core.recipe import overrides_from_text, read_recipe
from naruto_core.recipe_text import explain

MINI = (Path(__file__).parents[2] / "flows" / "recipes" / "mini.yaml").read_text()


def read(pair: str) -> Any:
    """The recipe's value after `--set pair`."""
    value: Any = choose_recipe("mini", overrides=overrides_from_text([pair]))
    for part in pair.partition("=")[0].split("."):
        value = value[part] if isinstance(value, dict) else getattr(value, part)
    return value


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        *[  # text is what was typed
            (f"training.instance_prompt={text}", text)
            for text in (
                "ninja #1 style", "#naruto style", "[V] ninja", "*star", "&anchor", "!tag x", "a: b", "{a}", "- a",
                "? x", "no", "true", "null", "007", "012", "1:30", "1e3", "2024-01-01", "don't", '"quoted',
                "  padded  ", "忍者", "a=b", "%x", "@x", "`x`", "|", "a\nb",
            )
        ],
        ("dataset.source=/a/b #2/c", "/a/b #2/c"),
        ("dataset.source=C:\\pics", "C:\\pics"),
        ("dataset.revision=0123456", "0123456"),
        ("dataset.revision=12e4567", "12e4567"),
        ("generation.negative_prompt=", ""),
        ("generation.negative_prompt=#", "#"),
        ("generation.negative_prompt=null", "null"),
        ("generation.scheduler=euler", "euler"),
        ("dataset.hold_out=012", 12),  # numbers are decimal
        ("training.rank=08", 8),
        ("training.rank=8.0", 8),
        ("training.seed=+7", 7),
        ("training.noise_offset=1e-4", 1e-4),
        ("training.noise_offset=.05", 0.05),
        ("fusion.lora_scale=-1", -1.0),
        ("training.prior=null", None),  # nothing, where a field may have no value
        ("training.prior=None", None),
        ("training.prior=", None),
        ("training.snr_gamma=null", None),
        ("training.snr_gamma=none", None),
        ("dataset.revision=", None),
        ("dataset.revision=null", None),
        ("generation.prompts=NULL", None),
        ("publish.private=false", False),
        ("publish.private=True", True),
        ("training.use_rslora=1", True),
        ("generation.variants=[base, adapted]", ("base", "adapted")),  # YAML where it is a list or a mapping
        ('scoring.more_set_extractors=["timm:a#b"]', ("timm:a#b",)),
        ("training.adam_betas=[0.8, 0.99]", (0.8, 0.99)),
        ("fusion.style_scales={main: 0.5}", {"main": 0.5}),
        ("fusion.style_scales.main=0.5", 0.5),
        ("training.augmentation.views=8", None),
    ],
)  # fmt: skip
def test_a_set_value_is_read_by_the_type_of_its_field(pair: str, value: object):
    if pair == "training.augmentation.views=8":  # a section that the file does not have is made
        recipe = choose_recipe("mini", overrides=overrides_from_text([pair, "training.augmentation.random_flip=true"]))
        assert recipe.training.augmentation
        assert recipe.training.augmentation.views == 8
        return
    assert (read(pair), type(read(pair))) == (value, type(value))


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ("training.rank=0x10", "training.rank"),
        ("dataset.hold_out=1:30", "dataset.hold_out"),
        ("training.rank=", "training.rank"),
        ("training.rank=null", "training.rank"),
        ("training.instance_prompt=", "training.instance_prompt"),
        ("dataset.source=", "dataset.source"),
        ("publish.private=maybe", "publish.private"),
        ("training.learning_rate=0,5", "training.learning_rate"),
        ("training.max_grad_norm=inf", "training.max_grad_norm"),
        ("training.learning_rate=nan", "training.learning_rate"),
        ("training.learning_rate=1e999", "training.learning_rate"),
        (f"training.rank={'9' * 30}", "training.rank"),
        (f"training.max_train_steps={'9' * 9000}", "training.max_train_steps"),
        (f"dataset.hold_out={'9' * 30}", "hold_out is larger than"),
        ("generation.variants=base", "generation.variants"),
        ("generation.variants=[base", "generation.variants needs a list or a mapping in YAML"),
        ("training.prior={kind: a, kind: b}", "the key kind is repeated"),
        ("training.prior=!!python/name:os.system x", "training.prior"),
        (f"training.prior={'[' * 1500}", "training.prior"),
        ("training.rnk=8", "did you mean training.rank?"),
        ("rank=8", "did you mean training.rank?"),
        ("trainng.rank=8", "did you mean training?"),
        ("training.rank.x=8", "training.rank"),
        ("styles.0.name=x", "styles"),
        ("training.rank", "write KEY=VALUE"),
        ("=8", "write KEY=VALUE"),
        (".=8", "unknown key"),
    ],
)
def test_a_set_value_that_cannot_be_parsed_is_a_short_error(pair: str, named: str):
    with pytest.raises(RecipeInvalid) as refused:
        read(pair)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400 + min(len(pair), 6000)


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("  rank: 32", "  rank: 32\n  rank: 4"), "the key rank is repeated (in line"),
        (("profile: mini", "profile: mini\n" + LAUGHS), "values when its aliases are expanded"),
        (("profile: mini", "profile: &a [*a]"), "contains the alias itself"),
        (("rank: 32", "rank: !!python/object/apply:os.getcwd []"), "could not determine a constructor"),
        (("rank: 32", "rank: !!int sixteen"), "a value cannot be read"),
        (("rank: 32", "rank: 2024-13-45"), "a value cannot be read"),
        (("rank: 32", f"rank: {'9' * 9000}"), "a value cannot be read"),
        (("rank: 32", f"rank: {'[' * 1500}"), "nested too deeply"),
        (("hold_out: 200", "hold_out: 1:30"), "dataset.hold_out"),
        (("rank: 32", "rank: .inf"), "training.rank"),
        (("profile: mini", "profile: mini\n---\nprofile: t4"), "expected a single document"),
        (("a naruto anime character", "2024-01-01"), "training.instance_prompt"),
    ],
)
def test_a_recipe_file_with_a_yaml_trap_is_an_error(tmp_path: Path, change: tuple[str, str], named: str):
    path = tmp_path / "mine.yaml"
    assert change[0] in MINI
    path.write_text(MINI.replace(*change, 1))
    with pytest.raises(RecipeInvalid, match=r"mine\.yaml") as refused:
        read_recipe(path)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_whole_numbers_in_a_recipe_file_are_decimal_and_a_merge_of_mappings_stays_possible(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    text = MINI.replace("hold_out: 200", "hold_out: 0200")
    path.write_text(
        text.replace("fusion:", "fusion: &f").replace("publish:\n", "publish:\n  <<: {push_to_hub: true}\n")
    )
    recipe = read_recipe(path)
    assert (recipe.dataset.hold_out, recipe.publish.push_to_hub) == (200, False)


def test_a_suite_with_a_key_twice_or_a_seed_that_no_generator_takes_is_refused(tmp_path: Path):
    path = tmp_path / "s.yaml"
    entry = "prompts: [{slug: a, text: t, content: c, tags: [x]}]\n"
    section = choose_recipe("mini").generation.model_copy(update={"suite": str(path)})
    for text, named in (
        (f"name: s\nseeds: [{'9' * 30}]\n{entry}", "seeds.0"),
        (f"name: s\nseeds: [-1]\n{entry}", "seeds.0"),
        (f"name: s\nname: t\nseeds: [1]\n{entry}", "the key name is repeated"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeInvalid, match=named):
            choose_suite(section)


@pytest.mark.parametrize("arguments", [("run", "--set", "training.instance_prompt=caf\udce9"), ("ingest", "./\udcff")])
def test_an_argument_that_is_not_utf8_is_an_error(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from flows.cli import main

    monkeypatch.setattr(sys, "argv", ["naruto", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "is not UTF-8 text" in capsys.readouterr().err


def test_whatever_pattern_a_field_has_its_error_says_in_words_what_the_field_takes():
    from deployments.service.schemas import ImageRequest
    from naruto_core.prompts import _SuiteFile
    from naruto_core.recipe import Recipe
    from naruto_core.settings import Settings
    from naruto_core.sweep import SweepFile

    def patterns(tree: object) -> set[str]:
        if isinstance(tree, list):
            return set().union(*map(patterns, tree))
        if not isinstance(tree, dict):
            return set()
        own = {tree["pattern"]} if isinstance(tree.get("pattern"), str) else set()
        return own.union(*map(patterns, tree.values()))

    models = (ImageRequest, _SuiteFile, Recipe, Settings, SweepFile)
    found = set().union(*(patterns(model.model_json_schema()) for model in models))
    assert len(found) >= 6
    for pattern in found:
        model = create_model("Model", name=(str, Field(pattern=pattern)))
        with pytest.raises(ValidationError) as refused:
            model.model_validate({"name": "\n?"})
        assert "match" not in explain(refused.value, model)
