"""Convert: what a run trained, found whole, in the forms that ComfyUI, A1111 and kohya's tools read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naruto_core import sdxl, textual_inversion
from naruto_core.artifact_store import fetch_file
from naruto_core.artifacts import Layout, sha256_file
from naruto_core.dataset.shared_versions import fetch_rows
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Adapter, DatasetVersion, Run, Split
from naruto_core.errors import RecordDamaged
from naruto_core.kohya import kohya_metadata, tag_frequency, write_kohya
from naruto_core.recipe import MAIN_STYLE, Recipe
from naruto_core.store.database import Store


@dataclass(frozen=True, slots=True)
class Trained:
    """A run and its adapter files, each the recorded one.

    `loras` are by style, the one for all styles by ""; `embeddings` are those of new tokens. `dataset` is the
    first style's.
    """

    layout: Layout
    run: Run
    recipe: Recipe
    dataset: DatasetVersion
    loras: dict[str, Path]
    embeddings: Path | None


def find_trained(store: Store, layout: Layout, run: Run, adapters: Sequence[Adapter]) -> Trained:
    """What `run` trained; RecordDamaged when a file is gone, or another than was recorded."""
    dataset = store.find_dataset(run.dataset_id)
    assert dataset is not None  # a foreign key
    files = [(adapter.style, whole_file(layout, "adapter", adapter.path, adapter.sha256)) for adapter in adapters]
    return Trained(
        layout=layout,
        run=run,
        recipe=Recipe.model_validate_json(store.recipe_json(run.id)),
        dataset=dataset,
        loras={style: path for style, path in files if path.name != textual_inversion.FILE},
        embeddings=next((path for _, path in files if path.name == textual_inversion.FILE), None),
    )


def whole_file(layout: Layout, kind: str, recorded: str, sha256: str) -> Path:
    """The file behind a recorded path; RecordDamaged when it is gone, or another than was recorded."""
    fetch_file(layout, recorded, sha256)
    path = layout.absolute(recorded)
    if not path.is_file() or sha256_file(path) != sha256:
        raise RecordDamaged(f"the {kind} {recorded} is not the one that was recorded; see `naruto verify`.")
    return path


def write_kohya_files(trained: Trained, folder: Path) -> dict[str, str]:
    """Write every LoRA as a file of `folder` in kohya's form; the files' names by style.

    Raises ModelUnusable for what that form cannot hold.
    """
    model = trained.recipe.model
    predicted, tags = sdxl.prediction_type(model), _tags(trained)
    names: dict[str, str] = {}
    for style, lora in trained.loras.items():
        names[style] = f"{_stem(trained.run, style)}.safetensors"
        tag_counts = tags if style in ("", MAIN_STYLE) else None  # a run names the dataset of its own style only
        metadata = kohya_metadata(trained.run, trained.recipe, trained.dataset, style, predicted, tag_counts)
        write_kohya(lora, folder / names[style], metadata, model)
    return names


def _tags(trained: Trained) -> dict[str, int] | None:
    """The tags of what the first style was trained with; None when they are unknown or gone."""
    if trained.recipe.imported:  # unknown
        return None
    try:
        fetch_rows(trained.layout, trained.dataset)
        pictures = read_pictures(trained.layout, trained.dataset)
    except RecordDamaged:
        return None
    phrase = trained.recipe.instance_prompt
    return tag_frequency(f"{phrase}, {p.caption}" for p in pictures if p.split is Split.TRAIN)


def write_word_files(trained: Trained, folder: Path) -> dict[str, str]:
    """Write the embeddings of every word for new tokens as a file of `folder`; the files' names by word."""
    if not trained.embeddings:
        return {}
    words, recipe = trained.recipe.new_tokens, trained.recipe
    named = [MAIN_STYLE, *(style.name for style in recipe.styles if style.token_abstraction)]
    styles = named if len(words) > 1 else [""]
    names = {word: f"{_stem(trained.run, style)}_emb.safetensors" for word, style in zip(words, styles, strict=True)}
    for word, name in names.items():
        textual_inversion.write_word_embeddings(trained.embeddings, words[word], folder / name)
    return names


def _stem(run: Run, style: str) -> str:
    return f"{run.id}-{style}" if style else run.id
