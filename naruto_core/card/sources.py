"""What an adapter was made of, as its card tells it: base model, pictures, and the terms of both."""

from naruto_core.card.facts import CardFacts
from naruto_core.card.licences import base_licence, pictures_licence
from naruto_core.card.markdown import escape
from naruto_core.provenance import is_hub_id, public_name
from naruto_core.recipe import DatasetSection, ModelSection, Recipe


def base_name(model: ModelSection) -> str:
    """The base model in a sentence."""
    if is_hub_id(model.base, model.revision):
        return f"[{escape(model.base)}](https://huggingface.co/{model.base})"
    if model.base.startswith("package:"):
        package, _, folder = model.base.removeprefix("package:").partition("/")
        return f"the SDXL model in the folder {escape(folder)} of the Python package {escape(package)}"
    name = public_name(model.base, model.revision)
    return f"a local SDXL model called {escape(name)}" if name else "a local SDXL model"


def base_model(facts: CardFacts) -> str:
    """Which base exactly, and whose VAE."""
    model = facts.recipe.model
    told = [f"Trained on top of {base_name(model)}"]
    if is_hub_id(model.base, model.revision):
        told[0] += f", revision {escape(model.revision or '')}"
    elif facts.base_digest:
        told[0] += f"; sha256 over its files when this card was written: `{facts.base_digest}`"
    if model.vae and is_hub_id(model.vae, model.vae_revision):
        told.append(
            f"VAE: [{escape(model.vae)}](https://huggingface.co/{model.vae}), "
            f"revision {escape(model.vae_revision or '')}"
        )
    elif model.vae:
        told.append("VAE: another one than its own, a local one")
    return "## Base model\n\n" + "\n\n".join(f"{sentence}." for sentence in told)


def picture_sections(recipe: Recipe) -> list[DatasetSection]:
    """Where the pictures of each style come from, the first style's first."""
    return [recipe.dataset, *(style.dataset for style in recipe.styles)]


def training_data(facts: CardFacts) -> str:
    """Which pictures exactly; of other styles than the first, the record holds no numbers."""
    dataset = facts.dataset
    held_out = f"{dataset.n_reference} held out of training" if dataset.n_reference else "none held out of training"
    more = "".join(f"\n\n{_source(s.dataset)}: for the style {s.name}." for s in facts.recipe.styles)
    return (
        f"## Training data\n\n{_source(facts.recipe.dataset)}: version `{dataset.id}`, {dataset.n_train} pictures to "
        f"learn from, {held_out}, {dataset.n_quarantined} records left out as broken, "
        f"{dataset.n_duplicates} duplicates found.{more}"
    )


def _source(section: DatasetSection) -> str:
    name = public_name(section.source, section.revision)
    if is_hub_id(section.source, section.revision):
        return f"[{escape(name)}](https://huggingface.co/datasets/{name}), revision {escape(section.revision or '')}"
    if section.source.startswith("world:"):
        return f"Drawings made by the software itself, {escape(name)}"
    return f"A local picture set called {escape(name)}" if name else "A local picture set"


def licences(facts: CardFacts) -> str:
    """The terms of base and pictures."""
    told = [base_licence(facts.recipe.model)[1], *map(pictures_licence, picture_sections(facts.recipe))]
    return "## Licences\n\n" + "\n".join(f"- {sentence}" for sentence in dict.fromkeys(told))
