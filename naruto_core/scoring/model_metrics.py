"""Metrics with a model of their own: for each key of `scoring` that names a model, the function that computes them.

To add one: register the metric in `sample_metrics.py` with `extractor="own"` and `requires="scoring.<key>"`, add the
key to the recipe, and write here a function from the model's name to the metric's values, in `MODEL_METRICS`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from naruto_core.artifacts import sha256_file
from naruto_core.domain import Variant
from naruto_core.hub import locate
from naruto_core.mini import attribute_reader
from naruto_core.scoring.feature_set import Extra, Features, Vector
from naruto_core.scoring.features import ChooseDevice, Extractor, Network
from naruto_core.scoring.hub_models import VqaModel
from naruto_core.scoring.sample_metrics import cosines, load_head

if TYPE_CHECKING:
    import torch


class Inputs(Protocol):
    """What is measured: pictures of each variant, real ones included, and what their prompts or captions say."""

    def choose_device(self) -> "torch.device": ...

    @property
    def variants(self) -> Sequence[Variant]: ...

    @property
    def pairs(self) -> Extractor:
        """The extractor that the CLIP score is computed with."""
        ...

    def extractor(self, name: str) -> Extractor: ...

    def texts(self, variant: Variant) -> Sequence[str]:
        """The prompt (of real pictures: the caption) of each picture."""
        ...

    def contents(self, variant: Variant) -> Sequence[str]:
        """The same without words of style."""
        ...

    def pictures(self, variant: Variant, extractor: Extractor, rows: Sequence[int] | None = None) -> Features:
        """Features (n, d) of the pictures of a variant, or of some `rows` of them."""
        ...

    def embedded(self, texts: Sequence[str], extractor: Extractor) -> Features:
        """Features (n, d) of texts."""
        ...


Compute = Callable[[str, Inputs], dict[str, Extra]]


def _preference(name: str, inputs: Inputs) -> dict[str, Extra]:
    model = inputs.extractor(name)
    values = {
        variant: cosines(inputs.pictures(variant, model), inputs.embedded(inputs.texts(variant), model))
        for variant in inputs.variants
    }
    return {"preference": Extra(model.id, values)}


def _aesthetic(name: str, inputs: Inputs) -> dict[str, Extra]:
    head = load_head(Path(name))
    values = {variant: head(inputs.pictures(variant, inputs.pairs)) for variant in inputs.variants}
    return {"aesthetic": Extra(f"{inputs.pairs.id}+{head.id}", values)}


def _vqa(name: str, inputs: Inputs) -> dict[str, Extra]:
    model = VqaModel(name, inputs.choose_device)
    values: dict[Variant, Vector] = {}
    for variant in inputs.variants:
        texts = list(inputs.contents(variant))
        values[variant] = np.zeros(len(texts))
        for text in dict.fromkeys(texts):
            rows = [row for row, other in enumerate(texts) if other == text]
            values[variant][rows] = inputs.pictures(variant, model.asking(text), rows)[:, 0]
    return {"vqa": Extra(model.id, values)}


def reader_extractor(folder: Path, choose_device: ChooseDevice) -> Extractor:
    """The attribute reader in `folder` as an extractor: its features are the logits of all classes."""
    config = attribute_reader.read_config(folder)
    weights, settings = (sha256_file(folder / file) for file in (attribute_reader.WEIGHTS, attribute_reader.CONFIG))

    def load() -> Network:
        device = choose_device()
        classifier = attribute_reader.load_reader(folder, config).to(device)
        return Network(
            lambda picture: attribute_reader.prepare(picture, config.resolution),
            lambda pixels: attribute_reader.embed(classifier, pixels),
            None,
            None,
            device,
        )

    return Extractor(f"reader:{weights[:16]}-{settings[:6]}", load)


def _attributes(name: str, inputs: Inputs) -> dict[str, Extra]:
    folder = Path(locate(name, None)[0])
    config, reader = attribute_reader.read_config(folder), reader_extractor(folder, inputs.choose_device)
    by_name: dict[str, dict[Variant, Vector]] = {}
    for variant in inputs.variants:
        texts = inputs.texts(variant)  # the same for every seed of a prompt
        classes = {text: attribute_reader.asked_classes(text, config) for text in dict.fromkeys(texts)}
        asked = [classes[text] for text in texts]
        seen = attribute_reader.seen_classes(inputs.pictures(variant, reader), config)
        for metric, values in attribute_values(asked, seen).items():
            by_name.setdefault(metric, {})[variant] = values
    return {metric: Extra(reader.id, values) for metric, values in by_name.items()}


def attribute_values(asked: Sequence[Mapping[str, str]], seen: Mapping[str, Sequence[str]]) -> dict[str, Vector]:
    """By metric, a value (n,) a picture: 1 where an asked attribute is seen, 0 where not, NaN where none is asked.

    `asked` holds {attribute: class} for each picture, `seen` the class of each picture by attribute. `attributes` is
    the mean over the attributes that a prompt asks for, without the style: other metrics measure that one.
    """
    agree = {
        name: np.array(
            [float(classes[row] == wanted[name]) if name in wanted else np.nan for row, wanted in enumerate(asked)]
        )
        for name, classes in seen.items()
    }
    content = np.array([values for name, values in agree.items() if name != "style"])
    n_asked = (~np.isnan(content)).sum(axis=0)
    share = np.where(n_asked > 0, np.nansum(content, axis=0) / np.maximum(n_asked, 1), np.nan)
    return {"attributes": share} | {f"attributes-{name}": values for name, values in agree.items()}


MODEL_METRICS: dict[str, Compute] = {
    "preference_model": _preference,
    "aesthetic_head": _aesthetic,
    "attribute_reader": _attributes,
    "vqa_model": _vqa,
}
