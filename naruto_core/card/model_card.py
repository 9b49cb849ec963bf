"""The model card of a run: what a user needs to use the adapter and to judge its quality."""

from collections.abc import Iterator
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from naruto_core.card.facts import CardFacts, ShownPrompt, base_licence, escape, pictures_licence, table
from naruto_core.card.usage import comfyui_steps, diffusers_code, needed_versions
from naruto_core.domain import Score, Variant, distinct_variants
from naruto_core.git_info import is_hub_id, public_name
from naruto_core.prompts import trigger_phrases
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.recipe_sections import DatasetSection, ImportedSection, ModelSection
from naruto_core.scoring.metrics import compares_with_training, direction
from naruto_core.single_file import hub_address


def base_name(model: ModelSection) -> str:
    """The name of the base model, for use in a sentence."""
    if is_hub_id(model.base, model.revision):
        return f"[{escape(model.base)}](https://huggingface.co/{model.base})"
    if model.base.startswith("package:"):
        package, _, folder = model.base.removeprefix("package:").partition("/")
        return f"the SDXL model in the folder {escape(folder)} of the Python package {escape(package)}"
    if address := hub_address(model.base, model.revision):
        repository, file = address
        return f"the file {escape(file)} of [{escape(repository)}](https://huggingface.co/{repository})"
    name = public_name(model.base, model.revision)
    return f"a local SDXL model called {escape(name)}" if name else "a local SDXL model"


def base_model(facts: CardFacts) -> str:
    """The section on the base model: name, revision or digest, VAE."""
    model = facts.recipe.model
    sentences = [f"{'Tried with' if facts.recipe.imported else 'Trained on top of'} {base_name(model)}"]
    if is_hub_id(model.base, model.revision) or hub_address(model.base, model.revision):
        sentences[0] += f", revision {escape(model.revision or '')}"
    elif facts.base_digest:
        sentences[0] += f"; sha256 over its files when this card was written: `{facts.base_digest}`"
    if model.vae and is_hub_id(model.vae, model.vae_revision):
        sentences.append(
            f"VAE: [{escape(model.vae)}](https://huggingface.co/{model.vae}), "
            f"revision {escape(model.vae_revision or '')}"
        )
    elif model.vae:
        sentences.append("VAE: a local one, not that of the base model")
    return "## Base model\n\n" + "\n\n".join(f"{sentence}." for sentence in sentences)


def picture_sections(recipe: Recipe) -> list[DatasetSection]:
    """The dataset section of each style, the first style's first."""
    return [recipe.dataset, *(style.dataset for style in recipe.styles)]


def training_data(facts: CardFacts) -> str:
    """The section on the training pictures. Numbers are those of the first style: other styles' are not recorded."""
    dataset = facts.dataset
    if facts.recipe.imported:
        return (
            "## Pictures\n\nWhat it was trained on is unknown. Its scores compare with: "
            f"{_source(facts.recipe.dataset)}, version `{dataset.id}`, {dataset.n_pictures} pictures."
        )
    held_out = f"{dataset.n_reference} held out of training" if dataset.n_reference else "none held out of training"
    further_styles = "".join(f"\n\n{_source(s.dataset)}: for the style {s.name}." for s in facts.recipe.styles)
    return (
        f"## Training data\n\n{_source(facts.recipe.dataset)}: version `{dataset.id}`, {dataset.n_train} pictures to "
        f"train on, {held_out}, {dataset.n_quarantined} broken records left out, "
        f"{dataset.n_duplicates} duplicates.{further_styles}"
    )


def _source(section: DatasetSection) -> str:
    name = public_name(section.source, section.revision)
    if is_hub_id(section.source, section.revision):
        return f"[{escape(name)}](https://huggingface.co/datasets/{name}), revision {escape(section.revision or '')}"
    if section.source.startswith("world:"):
        return f"Drawings made by the software itself, {escape(name)}"
    return f"A local picture set called {escape(name)}" if name else "A local picture set"


def licences(facts: CardFacts) -> str:
    """The section on the licences of the base model and the pictures."""
    if facts.recipe.imported:
        unknown = "The terms of this adapter are its author's: ask for them before you publish it or its pictures."
        sentences = [unknown, base_licence(facts.recipe.model)[1]]
    else:
        sentences = [base_licence(facts.recipe.model)[1], *map(pictures_licence, picture_sections(facts.recipe))]
    return "## Licences\n\n" + "\n".join(f"- {sentence}" for sentence in dict.fromkeys(sentences))


_KEY_CHOICES = (
    "rank",
    "lora_alpha",
    "max_train_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "processes",
    "resolution",
    "optimizer",
    "learning_rate",
    "text_encoder_lr",
    "snr_gamma",
    "mixed_precision",
    "seed",
)
_NONE = {"lora_alpha": "the rank", "text_encoder_lr": "text encoders frozen"}  # the meaning of null


def picture_table(shown: tuple[ShownPrompt, ...]) -> str:
    """A table with a row for each prompt and a column for each variant."""
    variants = list(shown[0].pictures)
    rows = [
        [escape(prompt.text), str(prompt.seed), *(f"![{variant}]({prompt.pictures[variant]})" for variant in variants)]
        for prompt in shown
    ]
    return table(["prompt", "seed", *map(str, variants)], rows)


def recipe_table(recipe: Recipe) -> str:
    """The most important training choices, then all others that differ from their defaults, by the recipe's keys."""
    if recipe.imported:
        return _imported_table(recipe, recipe.imported)
    section = recipe.training
    values = section.model_dump(mode="json")
    changed = section.model_dump(mode="json", exclude_defaults=True)
    chosen = {name: values[name] for name in _KEY_CHOICES} | changed
    chosen.pop("instance_prompt")  # the trigger phrase, which stands above
    rows = [[f"`training.{name}`", escape(str(value))] for name, value in _flat(chosen)]
    scales = {"lora_scale": recipe.fusion.lora_scale}
    scales |= {f"style_scales.{style}": scale for style, scale in recipe.fusion.style_scales.items()}
    return table(["choice", "value"], [*rows, *([f"`fusion.{name}`", str(scale)] for name, scale in scales.items())])


def _imported_table(recipe: Recipe, imported: ImportedSection) -> str:
    """What is known of an imported file: facts of the file, and what its metadata says."""
    low, high = imported.rank or (0, 0)
    rows = [
        ["file", escape(imported.name)],
        ["sha256", f"`{imported.sha256}`"],
        ["form", str(imported.format)],
        ["rank", str(low) if low == high else f"{low} to {high}"],
        ["modules", str(imported.modules)],
        *([f"the file says `{escape(key)}`", escape(value)] for key, value in imported.facts.items()),
        ["`fusion.lora_scale`", str(recipe.fusion.lora_scale)],
    ]
    return table(["fact", "value"], rows)


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1); lists as text, null by its meaning."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{name}", _NONE.get(name, "none") if shown is None else shown


def score_table(facts: CardFacts) -> str:
    """A row for each measurement (metric, extractor, version, reference, method, n), a column for each variant.

    A cell is: value [95 % interval].
    """
    variants = distinct_variants({score.variant for score in facts.scores})
    by_measurement: dict[tuple[str, ...], dict[Variant, Score]] = {}
    for score in facts.scores:
        measurement = (score.metric, score.extractor, score.version, score.reference, score.method, str(score.n))
        by_measurement.setdefault(measurement, {})[score.variant] = score
    rows: list[list[str]] = []
    for (metric, extractor, version, reference, method, n), scores in by_measurement.items():
        cells = [_cell(scores[variant]) if variant in scores else "" for variant in variants]
        against = _reference(metric, reference, facts)
        measured = escape(f"{extractor}, {version}; {method}")
        better = f" ({direction(metric)})" if direction(metric) else ""
        rows.append([f"{escape(metric)}{better}{against}", *cells, n, measured])
    return table(["score", *map(str, variants), "n", "measured by; interval by"], rows)


def _cell(score: Score) -> str:
    bounds = "no interval" if score.interval is None else ", ".join(map(_number, score.interval))
    return f"{_number(score.value)} [{bounds}]"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


def _reference(metric: str, reference: str, facts: CardFacts) -> str:
    """The pictures that a score compares with; `reference` is a dataset's id and the number of its pictures."""
    version, _, count = reference.rpartition(":")
    if not reference:
        return ""
    if version != facts.dataset.id:
        return f", against {escape(reference)}"
    part = facts.recipe.scoring.reference if facts.dataset.n_reference else "training"
    return f", against {count} {'training' if compares_with_training(metric) else part} pictures"


_TAGS = ["text-to-image", "stable-diffusion-xl", "diffusers", "diffusers-training"]
_LORA_TAGS, _WORD_TAGS = ["lora", "template:sd-lora"], ["textual_inversion"]


def model_card(facts: CardFacts) -> ModelCard:
    """The README.md of a run's adapter."""
    sections = [
        _head(facts),
        _pictures(facts),
        _diffusers(facts),
        _comfyui(facts),
        _files(facts),
        base_model(facts),
        training_data(facts),
        _recipe(facts),
        _scores(facts),
        licences(facts),
        _limits(facts),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{_front_matter(facts).to_yaml()}\n---\n\n{body}\n")


def _front_matter(facts: CardFacts) -> ModelCardData:
    model, imported = facts.recipe.model, facts.recipe.imported
    datasets = [] if imported else picture_sections(facts.recipe)
    on_hub = is_hub_id(model.base, model.revision)
    optional: dict[str, Any] = {"base_model_relation": "adapter"} if on_hub else {}
    if facts.shown:
        optional["widget"] = _widget(facts)
    return ModelCardData(
        base_model=model.base if on_hub else None,
        datasets=[section.source for section in datasets if is_hub_id(section.source, section.revision)] or None,
        library_name="diffusers",
        license="unknown" if imported else base_licence(model)[0],
        pipeline_tag="text-to-image",
        tags=[*_TAGS, *(_LORA_TAGS if facts.files.loras else []), *(_WORD_TAGS if facts.files.embeddings else [])],
        instance_prompt=imported.trigger if imported else trigger_phrases(facts.recipe)[MAIN_STYLE],
        **optional,
    )


def _widget(facts: CardFacts) -> list[dict[str, Any]]:
    negative = facts.recipe.generation.negative_prompt
    return [
        {
            "text": prompt.text,
            "parameters": {"negative_prompt": negative},
            "output": {"url": prompt.pictures[Variant.ADAPTED]},
        }
        for prompt in facts.shown
        if Variant.ADAPTED in prompt.pictures
    ]


def _head(facts: CardFacts) -> str:
    styles = ", and on those of " + " and ".join(style.name for style in facts.recipe.styles)
    phrases = trigger_phrases(facts.recipe)
    if facts.recipe.imported:
        return _imported_head(facts, facts.recipe.imported)
    if len(phrases) == 1:
        trigger = f"Trigger phrase: **{escape(phrases['main'])}**"
    else:
        trigger = "Trigger phrases:\n\n" + "\n".join(f"- {style}: **{escape(p)}**" for style, p in phrases.items())
    return (
        f"# {facts.run.id}\n\n"
        f"{_description(facts)} for {base_name(facts.recipe.model)}, trained by naruto-sdxl on {facts.dataset.n_train} "
        f"pictures{styles if facts.recipe.styles else ''}.\n\n{trigger}{_new_tokens(facts)}"
    )


def _imported_head(facts: CardFacts, imported: ImportedSection) -> str:
    known = f"Trigger phrase: **{escape(imported.trigger)}**" if imported.trigger else "Its trigger phrase is unknown."
    return (
        f"# {facts.run.id}\n\n{_description(facts)} for {base_name(facts.recipe.model)}, imported from "
        f"{escape(imported.name)}: who trained it, how, and on which pictures is unknown. naruto-sdxl drew with it "
        f"and measured the pictures.\n\n{known}"
    )


def _description(facts: CardFacts) -> str:
    if imported := facts.recipe.imported:
        low, high = imported.rank or (0, 0)
        kind = "DoRA" if imported.use_dora else "LoRA"
        return f"A {kind} adapter of " + (f"rank {low}" if low == high else f"ranks {low} to {high}")
    section, count = facts.recipe.training, len(facts.files.loras)
    kind = "DoRA" if section.use_dora else "LoRA"
    tokens = "new tokens" if facts.files.embeddings else ""
    if not count:
        return f"Embeddings of {tokens}"
    if count == 1:
        adapters = f"A {kind} adapter of rank {section.rank}"
    else:
        adapters = f"{count} {kind} adapters, one for each style, of rank {section.rank}"
    return f"{adapters} with {tokens}" if tokens else adapters


def _new_tokens(facts: CardFacts) -> str:
    """The tokens to write in prompts for programs that do not know the recipe's words for them."""
    tokens = " and ".join(f"{escape(tokens)} for {escape(word)}" for word, tokens in facts.recipe.new_tokens.items())
    return f"\n\nNew tokens: in prompts for diffusers write {tokens}." if tokens else ""


def _pictures(facts: CardFacts) -> str:
    if not facts.shown:
        return ""
    generation = facts.recipe.generation
    return (
        f"{picture_table(facts.shown)}\n\n"
        f"Same prompt and same seed in every row: {len(facts.shown)} of the {facts.n_prompts} prompts of the suite "
        f"{escape(facts.suite_name)}, evenly spaced, the first seed of each; none was selected by its quality. "
        f"{generation.num_inference_steps} {generation.scheduler} steps, guidance {generation.guidance_scale}, "
        f"{generation.resolution} pixels.{_words_for_the_base(facts)}"
    )


def _words_for_the_base(facts: CardFacts) -> str:
    words = " and ".join(f"{escape(word)} for {escape(tokens)}" for word, tokens in facts.recipe.new_tokens.items())
    return f" The prompts of the base, which has no new tokens, have {words}." if words else ""


def _diffusers(facts: CardFacts) -> str:
    trigger = trigger_phrases(facts.recipe)[MAIN_STYLE]
    prompt, seed = (facts.shown[0].text, facts.shown[0].seed) if facts.shown else (trigger, 0)
    code = diffusers_code(facts.recipe, facts.run.id, facts.files, prompt, seed, facts.schedule)
    return (
        f"## Use it in diffusers\n\nWith {needed_versions()}. A device or precision other than the run's "
        f"rounds differently, and small details of pictures may differ.\n\n```python\n{code}\n```"
    )


def _comfyui(facts: CardFacts) -> str:
    steps = comfyui_steps(facts)
    return f"## Use it in ComfyUI\n\n{steps}" if steps else ""


def _files(facts: CardFacts) -> str:
    files, readers = facts.files, "for ComfyUI, A1111 and kohya's tools"
    rows = [
        *[[f"`{name}`", f"the adapter{_of(style)}, for diffusers"] for style, name in files.loras.items()],
        *([[f"`{files.embeddings}`", "the embeddings of the new tokens, for diffusers"]] if files.embeddings else []),
        *[[f"`{name}`", f"the adapter{_of(style)}, {readers}"] for style, name in files.kohya.items()],
        *[[f"`{name}`", f"new tokens for {escape(word)}, for ComfyUI, A1111"] for word, name in files.words.items()],
        *([["`samples/`", "the pictures above"]] if facts.shown else []),
    ]
    return f"## Files\n\n{table(['file', 'what it is'], rows)}"


def _of(style: str) -> str:
    return f" of {style}" if style else ""


def _recipe(facts: CardFacts) -> str:
    title = "Imported file" if facts.recipe.imported else "Recipe"
    return (
        f"## {title}\n\n{recipe_table(facts.recipe)}\n\n"
        f"Profile {escape(facts.run.profile)}; sha256 of all choices: `{facts.run.fingerprint}`."
    )


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return "## Scores\n\nNothing was measured."
    notes = "Value [95 % interval] of n pictures. Only values in the same row are comparable."
    if any(score.metric == "fid" or score.metric.startswith("fd-") for score in facts.scores):
        notes += " A Fréchet distance of so few pictures is biased upward; do not compare it with published values."
    if not facts.dataset.n_reference and not facts.recipe.imported:
        notes += " Nothing was held out: scores that compare with pictures compare with the training pictures."
    return f"## Scores\n\n{score_table(facts)}\n\n{notes}"


def _limits(facts: CardFacts) -> str:
    if facts.recipe.imported:
        return (
            "## Limits\n\n- It does not correct what the base model cannot draw, or draws with prejudice.\n"
            "- It may repeat pictures that it was trained on, and these are unknown.\n"
            f"- It was tested at {facts.recipe.generation.resolution} pixels; other sizes were not tested."
        )
    trained, generated = facts.recipe.training.resolution, facts.recipe.generation.resolution
    limits = [
        "It was trained on small picture sets, and draws their styles, with the gaps and habits of these sets."
        if facts.recipe.styles
        else "It was trained on one small picture set, and draws its style, with the gaps and habits of this set.",
        "It does not correct what the base model cannot draw, or draws with prejudice.",
        "It may repeat training pictures: compare with them before you publish pictures.",
        f"It was trained at {trained} pixels and tested at {generated} pixels; other sizes were not tested.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)
