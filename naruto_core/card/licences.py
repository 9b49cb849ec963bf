"""What is known of the terms under which base models and pictures were given; everything else is not stated."""

from naruto_core.card.markdown import escape
from naruto_core.provenance import is_hub_id
from naruto_core.recipe import DatasetSection, ModelSection

_SDXL, _MINIATURE = "stabilityai/stable-diffusion-xl-base-1.0", "package:naruto_core.mini/weights/base"
_FAN_WIKI = ("lambdalabs/naruto-blip-captions", "lambda/naruto-blip-captions")


def base_licence(model: ModelSection) -> tuple[str, str]:
    """The hub's identifier of the base model's licence, `unknown` where it is not known here; and a sentence on it."""
    if model.base == _SDXL and is_hub_id(model.base, model.revision):
        terms = f"https://huggingface.co/{_SDXL}/blob/main/LICENSE.md"
        return "openrail++", (
            f"The base model is given under the [CreativeML Open RAIL++-M licence]({terms}); its restrictions of use "
            "go with everything that is made from it, this adapter included."
        )
    if model.base == _MINIATURE:
        return "apache-2.0", "The base model is part of the software that trained this adapter: Apache-2.0."
    return "unknown", "The licence of the base model is not stated here; its terms hold for this adapter too."


def pictures_licence(dataset: DatasetSection) -> str:
    """A sentence on the terms of the training pictures."""
    if dataset.source.startswith("world:"):
        return (
            "The training pictures were drawn by the software that trained this adapter; no artist's work is in them."
        )
    if not is_hub_id(dataset.source, dataset.revision):
        return (
            "The licence of the training pictures is not stated: whoever publishes this adapter must know that it "
            "may be trained on them, and say so here."
        )
    if dataset.source in _FAN_WIKI:
        return (
            "The training pictures were collected from a fan wiki, and their dataset names no licence for them: the "
            "rights lie with others. Ask before you publish or sell what this adapter draws."
        )
    return f"The licence of the training pictures is not stated here; see the dataset card of {escape(dataset.source)}."
