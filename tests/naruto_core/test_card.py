"""The model card: its front matter and text, whatever users write in recipe and prompts."""

import ast
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from flows.profiles import choose_recipe
from naruto_core.card.facts import CardFacts, ShownPrompt, WeightFiles, escape
from naruto_core.card.model_card import model_card
from naruto_core.domain import DatasetVersion, Run, RunState, Score, Variant

RUN = Run("2026-11-23-t4-3f9c", "t4", "f" * 64, "ds-1", RunState.DONE, datetime(2026, 11, 23, tzinfo=UTC))
LORA = "pytorch_lora_weights.safetensors"
HOSTILE = (
    "a `b` | c <script>alert(1)</script> **d** _e_ [f](http://g.h) ![i](j) ~~k~~ $l$ &lt; &#60; \\ 'm' \"n\"\n"
    "---\n# o\n```\n- p\n</td>{{ q }}"
)


def _facts(profile: str = "t4", overrides: dict[str, object] | None = None, **changes: object) -> CardFacts:
    pictures = {Variant.BASE: "samples/a1.png", Variant.ADAPTED: "samples/b2.png"}
    facts = CardFacts(
        run=RUN,
        recipe=choose_recipe(profile, None, overrides),
        dataset=DatasetVersion("ds-1", "source", "table", 0, 1221, 0, 3, 5),
        base_digest="",
        files=WeightFiles({"": LORA}, kohya={"": f"{RUN.id}.safetensors"}),
        scores=(),
        shown=(ShownPrompt("Naruto in the rain", 11, pictures),),
        suite_name="konoha-v1",
        n_prompts=44,
    )
    return replace(facts, **changes)


def _read(facts: CardFacts, folder: Path) -> ModelCard:
    """The card, written to a file and read with the hub's own library."""
    path = folder / "README.md"
    path.write_text(str(model_card(facts)), encoding="utf-8")
    return ModelCard.load(path)


def _tokens(text: str) -> list[Token]:
    """All tokens of a Markdown text with tables, inline ones in their order."""
    parsed = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)
    return [token for block in parsed for token in (block, *(block.children or []))]


def _code(card: ModelCard) -> str:
    (code,) = [token.content for token in _tokens(card.text) if token.type == "fence" and token.info == "python"]
    return code


def _cells(card: ModelCard, heading: str) -> list[list[str]]:
    """The rows of the table below a heading, as text."""
    table = re.search(rf"^## {heading}\n\n(\|.*?)\n\n", card.text, re.MULTILINE | re.DOTALL)
    assert table
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()[2:]]


def test_the_front_matter_has_base_dataset_licence_and_trigger_in_the_hubs_fields(tmp_path: Path):
    data = _read(_facts(), tmp_path).data
    assert data.base_model == "stabilityai/stable-diffusion-xl-base-1.0"
    assert data.base_model_relation == "adapter"
    assert data.datasets == ["lambdalabs/naruto-blip-captions"]
    assert data.license == "openrail++"
    assert data.library_name == "diffusers"
    assert data.pipeline_tag == "text-to-image"
    assert {"text-to-image", "stable-diffusion-xl", "lora", "diffusers"} <= set(data.tags)
    assert data.instance_prompt == "a naruto anime character"
    (shown,) = data.widget
    assert (shown["text"], shown["output"]) == ("Naruto in the rain", {"url": "samples/b2.png"})


def test_the_body_has_the_revisions_of_base_and_vae_and_states_that_the_pictures_have_no_licence(tmp_path: Path):
    text = _read(_facts(), tmp_path).text
    for pinned in ("462165984030d82259a11f4367a4eed129e94a7b", "207b116dae70ace3637169f1ddd2434b91b3a8cd", "1ed13e8"):
        assert f"revision {pinned}" in text
    assert "version `ds-1`, 1221 pictures to train on, none held out of training, 3 broken records left out" in text
    assert "their dataset names no licence for them" in text
    assert "| `training.optimizer` | prodigy |" in text
    assert f"`{RUN.fingerprint}`" in text


def test_the_code_loads_the_right_file_of_the_pushed_repository_at_this_runs_tag(tmp_path: Path):
    code = _code(_read(_facts(), tmp_path))
    ast.parse(code)
    assert "adapter = 'your-name/naruto-sdxl-lora'" in code
    assert f"weight_name='pytorch_lora_weights.safetensors', revision='{RUN.id}'" in code
    assert "variant='fp16'" in code
    assert "torch_dtype=torch.float16" in code


def test_the_scale_of_an_adapter_is_in_the_steps_for_both_programs(tmp_path: Path):
    card = _read(_facts(overrides={"fusion.lora_scale": 0.7}), tmp_path)
    assert "adapter_name='style')\npipeline.set_adapters(['style'], [0.7])" in _code(card)
    assert "`strength_model` and `strength_clip` at 0.7" in card.text
    assert f"Put `{RUN.id}.safetensors` into `ComfyUI/models/loras/`" in card.text


def test_hostile_text_stays_text(tmp_path: Path):
    def facts(words: str) -> CardFacts:
        changes = {"training.instance_prompt": words, "generation.negative_prompt": words}
        changes |= {"training.prior.class_prompts": [words], "dataset.source": words, "publish.hub_model_id": words}
        changes |= {"model.vae_revision": words}
        shown = replace(_facts().shown[0], text=words)
        return _facts(overrides=changes, shown=(shown,), suite_name=words)

    hostile, plain = _read(facts(HOSTILE), tmp_path), _read(facts("some words"), tmp_path)
    assert hostile.data.instance_prompt == HOSTILE
    assert hostile.data.widget[0]["text"] == HOSTILE
    assert set(hostile.data.to_dict()) == set(plain.data.to_dict())
    # the same tree: no text has become markup
    structure = [(token.type, token.tag) for token in _tokens(hostile.text)]
    assert structure == [(token.type, token.tag) for token in _tokens(plain.text)]
    assert not any(kind.startswith("html") for kind, _ in structure)
    assert (
        sum(" ".join(HOSTILE.split()) in token.content for token in _tokens(hostile.text) if token.type == "text") >= 4
    )
    literals = [node.value for node in ast.walk(ast.parse(_code(hostile))) if isinstance(node, ast.Constant)]
    assert literals.count(HOSTILE) == 4  # prompt, negative prompt, repository, revision


@pytest.mark.parametrize("text", ["a\\", "|", "\\|", "`", "<b>", "&amp;", "**", "__", "[a]: b", "$$", "~~", "a  \n b"])
def test_escaped_text_is_shown_literally(text: str):
    for frame in (f"| a |\n| --- |\n| {escape(text)} |", f"It is {escape(text)}"):
        inline = [token for token in _tokens(frame) if token.type == "text"][-1]
        assert inline.content.removeprefix("It is ") == " ".join(text.split())


def test_the_card_shows_only_the_last_name_of_a_local_folder(tmp_path: Path):
    base, pictures = tmp_path / "secret-place" / "my-sdxl", tmp_path / "secret-place" / "my-pictures"
    base.mkdir(parents=True)
    pictures.mkdir()
    changes = {"model.base": str(base), "model.revision": None, "model.vae": str(base), "model.vae_revision": None}
    changes |= {"dataset.source": f"{pictures}/", "dataset.revision": None}
    card = _read(_facts(overrides=changes, base_digest="0123abcd"), tmp_path)
    assert "secret-place" not in str(card)
    assert (
        "a local SDXL model called my-sdxl; sha256 over its files when this card was written: `0123abcd`" in card.text
    )
    assert "A local picture set called my-pictures" in card.text
    assert (card.data.base_model, card.data.datasets, card.data.license) == (None, None, "unknown")
    assert "The licence of the base model is not stated here" in card.text
    assert "The licence of the training pictures is not stated" in card.text
    assert "base = 'path/to/my-sdxl'" in _code(card)


@pytest.mark.parametrize("place", [".", "..", "~", "~somebody", "./", "/"])
def test_a_folder_without_a_name_is_called_a_local_picture_set(tmp_path: Path, place: str):
    text = _read(_facts(overrides={"dataset.source": place, "dataset.revision": None}), tmp_path).text
    assert "A local picture set: version" in text


def _score(metric: str, variant: Variant, value: float, n: int = 176, reference: str = "") -> Score:
    return Score(RUN.id, metric, variant, value, value - 0.1, value + 0.1, n, "judge:1", "1.9", reference, "jackknife")


def test_scores_are_in_one_row_only_with_the_same_measurement_and_n_which_the_row_shows(tmp_path: Path):
    scores = (
        _score("fid", Variant.BASE, 1770.4, reference="ds-1:200"),
        _score("fid", Variant.ADAPTED, 505.3, reference="ds-1:200"),
        _score("clip", Variant.BASE, 0.5617),
        _score("clip", Variant.ADAPTED, 0.7, n=160),
    )
    held_out = replace(_facts().dataset, n_reference=200)
    rows = _cells(_read(_facts(scores=scores, dataset=held_out), tmp_path), "Scores")
    measured = "judge:1, 1.9; jackknife"
    assert rows == [
        [
            "fid (lower is better), against 200 held-out pictures",
            "1770 [1770, 1770]",
            "505 [505, 505]",
            "176",
            measured,
        ],
        ["clip (higher is better)", "0.562 [0.462, 0.662]", "", "176", measured],
        ["clip (higher is better)", "", "0.700 [0.600, 0.800]", "160", measured],
    ]


@pytest.mark.parametrize(("metric", "reference", "part"), [
    ("copying", "held-out", "training"), ("style", "held-out", "held-out"), ("style", "training", "training"),
])  # fmt: skip
def test_the_pictures_that_a_score_compares_with_are_those_that_it_compared_with(tmp_path, metric, reference, part):
    held_out = replace(_facts().dataset, n_reference=200)
    scores = (_score(metric, Variant.BASE, 0.5, reference="ds-1:300"),)
    facts = _facts(overrides={"scoring.reference": reference}, scores=scores, dataset=held_out)
    assert f"against 300 {part} pictures" in _read(facts, tmp_path).text


def test_a_reference_of_training_pictures_is_called_so(tmp_path: Path):
    text = _read(_facts(scores=(_score("fid", Variant.BASE, 9.0, reference="ds-1:1221"),)), tmp_path).text
    assert "against 1221 training pictures" in text
    assert "Nothing was held out" in text
    assert "Nothing was measured." in _read(_facts(), tmp_path).text


def test_without_pictures_or_a_file_for_comfyui_the_card_does_not_mention_them(tmp_path: Path):
    card = _read(_facts("mini", shown=(), files=WeightFiles({"": LORA})), tmp_path)
    assert "widget" not in card.data
    assert "samples/" not in card.text
    assert "ComfyUI" not in card.text
    assert "prompt='a naruto anime character'" in _code(card)
    assert _cells(card, "Files") == [[f"`{LORA}`", "the adapter, for diffusers"]]
    assert card.data.license == "apache-2.0"


WORDS = {
    "training.instance_prompt": "a TOK character",
    "training.textual_inversion": {"token_abstraction": "TOK"},
    "styles": [
        {
            "name": "ink",
            "dataset": {"source": "world:naruto?count=9", "revision": None},
            "instance_prompt": "an INKY drawing",
            "token_abstraction": "INKY",
        }
    ],
}


def test_a_word_for_new_tokens_is_its_tokens_in_diffusers_and_its_file_in_comfyui(tmp_path: Path):
    words = {"TOK": f"{RUN.id}-main_emb.safetensors", "INKY": f"{RUN.id}-ink_emb.safetensors"}
    files = WeightFiles({"": LORA}, "embeddings.safetensors", {"": f"{RUN.id}.safetensors"}, words)
    card = _read(_facts(overrides=WORDS, files=files, shown=()), tmp_path)
    text = " ".join(token.content for token in _tokens(card.text) if token.type == "text")
    assert card.data.instance_prompt == "a <s0><s1> character"
    assert "textual_inversion" in card.data.tags
    assert "a <s0><s1> character" in text
    assert "an <s2><s3> drawing" in text
    assert f"trigger phrase: a embedding:{RUN.id}-main_emb character, or an embedding:{RUN.id}-ink_emb drawing" in text
    assert "`ComfyUI/models/embeddings/`" in card.text
    code = _code(card)
    ast.parse(code)
    assert "range(4)" in code
    assert "prompt='a <s0><s1> character'" in code
    assert f"adapter = snapshot_download('your-name/naruto-sdxl-lora', revision='{RUN.id}')" in code
    assert "load_lora_weights(adapter, weight_name='pytorch_lora_weights.safetensors')" in code


def test_clip_skip_is_in_the_steps_for_both_programs(tmp_path: Path):
    card = _read(_facts(overrides={"training.clip_skip": 1, "generation.clip_skip": 1}), tmp_path)
    assert "    clip_skip=1," in _code(card)
    assert "*CLIP Set Last Layer* at -3" in card.text
    assert "clip_skip" not in _code(_read(_facts(), tmp_path))


def test_code_for_diffusers_has_prompts_without_the_weights_that_it_does_not_read_and_says_so(tmp_path: Path):
    weights = {"generation.prompt_weights": True, "generation.negative_prompt": "(blurry:1.3), \\(signature\\)"}
    card = _read(_facts(overrides=weights), tmp_path)
    code = _code(card)
    ast.parse(code)
    assert "negative_prompt='blurry, (signature)'" in code
    assert "diffusers does not, so they are left out here" in code
    assert "(red hair:1.2): ComfyUI reads them as this run does" in card.text
    plain = _code(_read(_facts(overrides=weights | {"generation.prompt_weights": False}), tmp_path))
    assert ("(blurry:1.3)" in plain, "left out" in plain) == (True, False)


def test_a_run_that_reads_long_texts_says_so_and_its_code_encodes_them_in_chunks(tmp_path: Path):
    lengths = {"training.max_token_length": 225, "generation.max_token_length": 225}
    card = _read(_facts(overrides=lengths), tmp_path)
    code = _code(card)
    ast.parse(code)
    assert "chunks = [[] for _ in range(3)]" in code
    assert "encode('Naruto in the rain', clip_skip=0)" in code
    assert "    prompt_embeds=hidden," in code
    assert "this run reads 225 tokens of each, as 3 chunks; ComfyUI, A1111 and Forge read a long prompt" in card.text
    assert "prompt_embeds" not in _code(_read(_facts(), tmp_path))
