"""Hand a run's adapter or fused model out as a file or folder that other programs load."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from naruto_core.artifacts import Layout, atomic_folder, sha256_folder
from naruto_core.domain import Adapter
from naruto_core.errors import RecordDamaged
from naruto_core.kohya import kohya_metadata, write_kohya
from naruto_core.recipe import Recipe
from naruto_core.settings import read_settings
from naruto_core.store.opening import Store, open_store
from tasks.assemble import assemble, whole_adapter


def export_kohya(name: str, folder: Path) -> Path:
    """The adapter as `<folder>/<run>.safetensors` for ComfyUI, A1111 and kohya's tools; its path.

    Raises RecordDamaged when the run has no adapter, or another than was recorded.
    """
    with _record() as (store, layout):
        run = store.run(name)
        source = whole_adapter(layout, _adapters(store, run.id)[-1])
        dataset = store.find_dataset(run.dataset_id)
        assert dataset is not None  # a foreign key
        recipe = Recipe.model_validate_json(store.recipe_json(run.id))
    path = folder / f"{run.id}.safetensors"
    write_kohya(source, path, kohya_metadata(run, recipe, dataset))
    return path


def export_diffusers(name: str, folder: Path) -> Path:
    """The adapter with its model card and pictures as the folder `<folder>/<run>`, for plain diffusers; its path.

    Raises RecordDamaged when the run has no adapter, or a file is another than was recorded.
    """
    return _export(name, folder, for_comfyui=False)


def export_hub(name: str, folder: Path) -> Path:
    """Exactly the folder that a push sends to a model hub, as `<folder>/<run>`; its path. Nothing is sent.

    Raises RecordDamaged when the run has no adapter, or a file is another than was recorded.
    """
    return _export(name, folder, for_comfyui=True)


def _export(name: str, folder: Path, *, for_comfyui: bool) -> Path:
    with _record() as (store, layout):
        run = store.run(name)
        path = folder / run.id
        assemble(store, layout, run, _adapters(store, run.id), path, for_comfyui=for_comfyui)
    return path


def export_fused(name: str, folder: Path) -> Path:
    """The fused model as the folder `<folder>/<run>`, for plain diffusers; its path.

    Raises RecordDamaged when the run has none, or another than was recorded.
    """
    with _record() as (store, layout):
        run = store.run(name)
        model = store.find_fused(run.id)
    if model is None:
        raise RecordDamaged(f"run {run.id} has no fused model; run the same command again to make it.")
    source = layout.root / model.path
    if not source.is_dir() or sha256_folder(source) != model.sha256:
        raise RecordDamaged(f"the fused model {model.path} is not the one that was recorded; see `naruto verify`.")
    path = folder / run.id
    with atomic_folder(path) as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)
    return path


@contextmanager
def _record() -> Iterator[tuple[Store, Layout]]:
    settings = read_settings()
    with open_store(settings.database_url) as store:
        yield store, Layout(settings.root)


def _adapters(store: Store, run_id: str) -> list[Adapter]:
    adapters = store.adapters(run_id)
    if not adapters:
        raise RecordDamaged(f"run {run_id} has no adapter yet; run the same command again to train it.")
    return adapters
