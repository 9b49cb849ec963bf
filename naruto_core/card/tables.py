"""The card's tables: pictures side by side, choices of the recipe, scores with their n and interval."""

from collections.abc import Iterator
from typing import Any

from naruto_core.card.facts import CardFacts, ShownPrompt
from naruto_core.card.markdown import escape, table
from naruto_core.domain import DatasetVersion, Score, Variant
from naruto_core.recipe import Recipe

_KEY_CHOICES = (
    "rank",
    "lora_alpha",
    "max_train_steps",
    "train_batch_size",
    "gradient_accumulation_steps",
    "resolution",
    "optimizer",
    "learning_rate",
    "text_encoder_lr",
    "snr_gamma",
    "mixed_precision",
    "seed",
)
_NONE = {"lora_alpha": "the rank", "text_encoder_lr": "text encoders frozen"}  # what leaving it out means
_HINT = {
    "fid": " (lower is nearer)",
    "clip": " (higher agrees more)",
    "clip on base styles": " (higher: less forgotten)",
}


def picture_table(shown: tuple[ShownPrompt, ...]) -> str:
    """A row a prompt, a column a variant."""
    variants = list(shown[0].pictures)
    rows = [
        [escape(one.text), str(one.seed), *(f"![{variant}]({one.pictures[variant]})" for variant in variants)]
        for one in shown
    ]
    return table(["prompt", "seed", *map(str, variants)], rows)


def recipe_table(recipe: Recipe) -> str:
    """The choices that every training has, then all others that are not at their defaults, under the recipe's names."""
    section = recipe.training
    values = section.model_dump(mode="json")
    changed = section.model_dump(mode="json", exclude_defaults=True)
    chosen = {name: values[name] for name in _KEY_CHOICES} | changed
    chosen.pop("instance_prompt")  # the trigger phrase, said above
    rows = [[f"`training.{name}`", escape(str(value))] for name, value in _flat(chosen)]
    scales = {"lora_scale": recipe.fusion.lora_scale}
    scales |= {f"style_scales.{style}": scale for style, scale in recipe.fusion.style_scales.items()}
    return table(["choice", "value"], [*rows, *([f"`fusion.{name}`", str(scale)] for name, scale in scales.items())])


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` as ("a.b", 1)."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            yield f"{prefix}{name}", _NONE.get(name, "none") if shown is None else shown


def score_table(facts: CardFacts) -> str:
    """A row for what was measured alike (same ruler, same n), a column a variant: value [95 % interval]."""
    variants = [variant for variant in Variant if any(score.variant is variant for score in facts.scores)]
    alike: dict[tuple[str, ...], dict[Variant, Score]] = {}
    for score in facts.scores:
        ruler = (score.metric, score.extractor, score.version, score.reference, score.method, str(score.n))
        alike.setdefault(ruler, {})[score.variant] = score
    rows: list[list[str]] = []
    for (metric, extractor, version, reference, method, n), scores in alike.items():
        cells = [_cell(scores[variant]) if variant in scores else "" for variant in variants]
        against = _reference(reference, facts.dataset)
        measured = escape(f"{extractor}, {version}; {method}")
        rows.append([f"{escape(metric)}{_HINT.get(metric, '')}{against}", *cells, n, measured])
    return table(["score", *map(str, variants), "n", "measured by; interval by"], rows)


def _cell(score: Score) -> str:
    bounds = "no interval" if score.interval is None else ", ".join(map(_number, score.interval))
    return f"{_number(score.value)} [{bounds}]"


def _number(value: float) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 3
    return f"{value:.{digits}f}"


def _reference(reference: str, dataset: DatasetVersion) -> str:
    """Whom a score compares with; `reference` is a dataset's id and how many of its pictures."""
    version, _, count = reference.rpartition(":")
    if not reference:
        return ""
    if version != dataset.id:
        return f", against {escape(reference)}"
    return f", against {count} {'held-out' if dataset.n_reference else 'training'} pictures"
