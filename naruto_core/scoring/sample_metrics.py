"""Sample metrics: one number for each picture, e.g. its agreement with the prompt. Tables show the mean.

Each metric is a function of the run's features and a variant. It returns values (n,), row for row of the variant's
pictures, or None where it cannot be measured, as a metric of prompts cannot for real pictures.

To add a metric: write its function here and register it below the function. Nothing else needs a change, unless it
needs a model of its own: then the recipe names the model, and a function of `model_metrics.py` computes the values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from naruto_core.artifacts import sha256_file
from naruto_core.domain import Variant
from naruto_core.errors import ModelUnusable
from naruto_core.scoring.feature_set import MOST, OTHER_STYLES, Features, RunFeatures, Vector, chunks, unit_length
from naruto_core.scoring.memorization import nearest
from naruto_core.scoring.registry import Metric, register, registered

if TYPE_CHECKING:
    from PIL.Image import Image

Values = dict[Variant, dict[str, Vector]]  # of sample metrics by name: one number (n,) a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMetric(Metric):
    """A metric of single pictures.

    values: the function of a run's features and a variant.
    compares_with: the real pictures that a picture is compared with; empty: none.
    real_texts: real pictures are measured with their captions, drawn ones with the suite's prompts. So the mean of
        real pictures is not what a perfect model would get for the suite, and it is no anchor.
    share: values lie between 0 and 1, and so do the mean and its interval.
    sparse: values are NaN for pictures that it says nothing of, e.g. because their prompt does not ask for it. These
        pictures are not counted.
    by_content: it compares pictures with words that name no style, and a network may prefer one style even then: see
        `style_preference`.
    by_tag: further means, each over the prompts with one tag and under a name of its own: {tag: name}.
    requires: the recipe's key that names the metric's own model; empty: it is always measured.
    """

    values: Callable[[RunFeatures, Variant], Vector | None]
    compares_with: Literal["", "reference", "training"] = ""
    share: bool = False
    real_texts: bool = False
    sparse: bool = False
    by_content: bool = False
    by_tag: Mapping[str, str] = field(default_factory=dict[str, str])
    requires: str = ""

    @property
    def optional(self) -> bool:
        """Whether it is measured only where the recipe names a model for it."""
        return bool(self.requires)

    def extractor_id(self, features: RunFeatures) -> str:
        """The network that measures it; "" for an optional metric that was not measured."""
        if self.extractor == "own":
            return features.extras[self.name].extractor if self.name in features.extras else ""
        return features.feature_set(self.extractor).extractor

    def reference_size(self, features: RunFeatures) -> int:
        """The number of real pictures that it compares with."""
        return {"": 0, "reference": len(features.sets.reference), "training": len(features.training)}[
            self.compares_with
        ]


def counted(values: Vector) -> NDArray[np.bool_]:
    """Which values (n,) of a metric count: those that are not NaN."""
    return ~np.isnan(values)


def sample_values(features: RunFeatures) -> Values:
    """Every sample metric of every variant, and of real pictures where it can be measured."""
    return {
        variant: {
            metric.name: values
            for metric in registered(SampleMetric)
            if (values := metric.values(features, variant)) is not None
        }
        for variant in (*features.samples, Variant.REAL)
    }


# Agreement with the prompt


def cosines(pictures: Features, texts: Features) -> Vector:
    """Row-wise cosine (n,), -1 to 1, of picture and text embeddings (n, d)."""
    values = [
        (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        for a, b in zip(chunks(pictures), chunks(texts), strict=True)
    ]
    return np.concatenate(values) if values else np.zeros(0)


def prompt_agreement(features: RunFeatures, variant: Variant) -> Vector:
    """CLIP score: cosine, -1 to 1, of each picture and its prompt; of real pictures and their captions."""
    texts = features.captions if variant is Variant.REAL else features.texts
    return cosines(features.pairs.pictures(variant), texts)


def content_agreement(features: RunFeatures, variant: Variant) -> Vector | None:
    """The same with the content part of the prompt; real pictures have none."""
    return None if variant is Variant.REAL else cosines(features.pairs.drawn[variant], features.contents)


register(SampleMetric(
    name="clip", version="cosine 1", values=prompt_agreement, better=1, extractor="pair",
    headline=5, title="with style words", in_lists=True,
    real_texts=True,
    by_tag={OTHER_STYLES: "clip on base styles"},  # prompts for the base model's own styles: what the adapter cost
    paper="Hessel et al. 2021, arXiv 2104.08718",
    sees="Whether a picture agrees with its whole prompt (cosine of open_clip's embeddings).",
    blind="Number, order and relations of things; anything that the network was not trained on.",
))  # fmt: skip
register(SampleMetric(
    name="clip-content", version="cosine 1", values=content_agreement, better=1, extractor="pair",
    headline=4, title="agreement", by_content=True,
    paper="Hessel et al. 2021, arXiv 2104.08718",
    sees="Whether a picture shows what the prompt asks for, without the prompt's words of style.",
    blind="The style; and everything that clip is blind to.",
))  # fmt: skip


# Nearness to real pictures


def style_closeness(pictures: Features, reference: Features) -> Vector:
    """Cosine (n,), -1 to 1, of each picture to the centre of the reference (mean of features of length one)."""
    centre = np.sum([unit_length(chunk).sum(axis=0) for chunk in chunks(reference)], axis=0)
    direction = centre / np.maximum(np.linalg.norm(centre), 1e-12)
    return np.concatenate([unit_length(chunk) @ direction for chunk in chunks(pictures)])


def nearness(pictures: Features, training: Features) -> Vector:
    """Cosine (n,), -1 to 1, of each picture to the nearest training picture."""
    return nearest(pictures, training)[0]


def nearness_of_held_out(held_out: Features | None, training: Features) -> Vector:
    """`nearness` of pictures that were not trained on, the first `MOST` of them.

    Where nothing was held out (None): of training pictures to the nearest other one.
    """
    if held_out is None:
        return nearest(training[:MOST], training, same=True)[0]
    return nearness(held_out[:MOST], training)


def _style(features: RunFeatures, variant: Variant) -> Vector:
    return style_closeness(features.sets.pictures(variant), features.sets.reference)


def _copying(features: RunFeatures, variant: Variant) -> Vector:
    if variant is Variant.REAL:
        return nearness_of_held_out(features.held_out, features.training)
    return nearness(features.sets.drawn[variant], features.training)


register(SampleMetric(
    name="style", version="cosine to the reference's centre 1", values=_style, better=1, compares_with="reference",
    sees="How near a picture lies to the centre of the reference.",
    blind="What a picture shows; and a copy of a reference picture has a high value too.",
))  # fmt: skip
register(SampleMetric(
    name="copying", version="nearest cosine 1", values=_copying, better=0, compares_with="training",
    paper="Somepalli et al. 2023, arXiv 2212.03860",
    sees="How near a picture comes to its nearest training picture.",
    blind="Copies of a part; within one style all pictures are near: compare with the value of held-out pictures.",
))  # fmt: skip


# Distance from what the base draws


def prior_drift(features: RunFeatures, variant: Variant) -> Vector | None:
    """1 - cosine (n,) of each picture to the base's picture of the same prompt and seed, 0 (alike) to 2.

    NaN for prompts that ask for the trained style, see `RunFeatures.other_styles`.
    """
    feature_set = features.feature_set("similarity")
    if variant in (Variant.REAL, Variant.BASE) or Variant.BASE not in feature_set.drawn:
        return None
    other = np.array([prompt in features.other_styles for prompt in feature_set.prompts])
    if not other.any():
        return None
    distances = 1 - cosines(feature_set.drawn[variant], feature_set.drawn[Variant.BASE])
    return np.where(other, distances, np.nan)


register(SampleMetric(
    name="prior-drift", version="1 - cosine 1", values=prior_drift, better=-1, extractor="similarity", sparse=True,
    paper="Ruiz et al. 2023, arXiv 2208.12242",
    sees="How far the adapter moves pictures of other styles away from the base's of the same prompt and seed.",
    blind="Whether the change is for better or worse; what the network of the features does not see.",
))  # fmt: skip


# Pictures without content

FLAT = 2.0  # standard deviation of grey values (0 to 255) below which a picture is one colour
CLIPPED = 0.99  # share of pixels that are black or white, from which on a picture shows nothing else


def is_blank(picture: "Image") -> bool:
    """Whether a picture is of one colour, or nearly all black and white (NaN pixels are saved as black)."""
    grey = np.asarray(picture.convert("L"), dtype=np.float64)
    return bool(grey.std() < FLAT or ((grey <= 1) | (grey >= 254)).mean() >= CLIPPED)


def _blank(features: RunFeatures, variant: Variant) -> Vector | None:
    return None if variant is Variant.REAL else features.blank[variant].astype(np.float64)


register(SampleMetric(
    name="blank", version="flat or cut off 1", values=_blank, better=-1, share=True,
    sees="Pictures without content: one colour, or nearly all pixels black or white.",
    blind="Any picture that has some content, however bad.",
))  # fmt: skip


# Metrics with a model of their own, which the recipe names


@dataclass(frozen=True, slots=True)
class LinearHead:
    """weight . x + bias of a picture's features x of length one, as LAION's aesthetic predictor.

    `id` begins with "head:" and names the file by its digest; `weight` is (d,).
    """

    id: str
    weight: Vector
    bias: float

    def __call__(self, features: Features) -> Vector:
        """A value (n,) for each row (n, d); ModelUnusable when the head was made for other features."""
        if features.shape[1] != len(self.weight):
            raise ModelUnusable(
                f"the aesthetic head reads {len(self.weight)} features and the pair extractor has {features.shape[1]}: "
                "name the extractor it was trained on."
            )
        return np.concatenate([unit_length(chunk) @ self.weight + self.bias for chunk in chunks(features)])


def load_head(path: Path) -> LinearHead:
    """The head in a safetensors file with `weight` (1, d) and `bias` (1).

    Raises ModelUnusable for a file that is not one.
    """
    try:
        tensors = load_file(path)
        weight, bias = tensors["weight"].astype(np.float64), tensors["bias"].astype(np.float64)
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelUnusable(f"{path}: not a safetensors file with weight and bias of a linear head.") from error
    if weight.ndim != 2 or weight.shape[0] != 1 or bias.shape != (1,):
        raise ModelUnusable(f"{path}: a linear head has weight (1, d) and bias (1), not {weight.shape}, {bias.shape}.")
    return LinearHead(f"head:{sha256_file(path)[:16]}", weight[0], float(bias[0]))


def _extra(name: str) -> Callable[[RunFeatures, Variant], Vector | None]:
    """The values that were computed with the metric's own model, where the recipe names one."""

    def values(features: RunFeatures, variant: Variant) -> Vector | None:
        return features.extras[name].values.get(variant) if name in features.extras else None

    return values


register(SampleMetric(
    name="preference", version="cosine 1", values=_extra("preference"), better=1,
    extractor="own", requires="scoring.preference_model", real_texts=True,
    paper="Kirstain et al. 2023, arXiv 2305.01569",
    sees="Which picture a model that was trained on people's choices (PickScore) would choose.",
    blind="Your style, if those people saw other pictures. Compare pictures of the same prompt only.",
))  # fmt: skip
register(SampleMetric(
    name="aesthetic", version="linear head 1", values=_extra("aesthetic"), better=1,
    extractor="own", requires="scoring.aesthetic_head", paper="Schuhmann et al. 2022, arXiv 2210.08402",
    sees="How beautiful people would rate a picture, by a linear head on CLIP.",
    blind="The prompt, and flaws that CLIP does not see.",
))  # fmt: skip


# What the prompt asks for, read from the picture

ATTRIBUTES = {
    "hair": "the colour of the hair",
    "eyes": "the colour of the eyes",
    "garment": "the colour of the clothing",
    "expression": "the expression of the face",
    "view": "the side from which a person is drawn",
    "place": "the place or background",
    "style": "the style of the drawing",
}

register(SampleMetric(
    name="attributes", version="share of asked attributes 1", values=_extra("attributes"), better=1, sparse=True,
    extractor="own", requires="scoring.attribute_reader", real_texts=True, share=True,
    headline=3, title="attributes seen", in_lists=True,
    paper="Huang et al. 2023, arXiv 2307.06350",
    sees="The share of what the prompt asks for (hair, clothing, place, eyes, view, expression; not the style) that "
    "the picture shows.",
    blind="Anything that the reader has no class for, who of two people has what, and whether the picture is good.",
))  # fmt: skip
for _name, _meaning in ATTRIBUTES.items():
    register(SampleMetric(
        name=f"attributes-{_name}", version="asked and seen 1", values=_extra(f"attributes-{_name}"), better=1,
        extractor="own", real_texts=True, requires="scoring.attribute_reader", sparse=True, share=True,
        sees=f"Whether a picture shows {_meaning} that the prompt asks for.",
        blind="Prompts that do not ask for it, or ask for two people: they are not counted.",
    ))  # fmt: skip

register(SampleMetric(
    name="vqa", version="product over phrases of P(yes) 1", values=_extra("vqa"), better=1,
    extractor="own", real_texts=True, share=True, requires="scoring.vqa_model",
    paper="Huang et al. 2023, arXiv 2307.06350 (BLIP-VQA)",
    sees="Whether a model that answers questions on pictures sees each part of the prompt's content.",
    blind="Style, quality, numbers; a small model often says yes, so compare models by it and never read one value.",
))  # fmt: skip
