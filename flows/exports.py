"""Hand a run's adapter or fused model out as a file or folder that other programs load."""

import shutil
from pathlib import Path

from naruto_core.artifacts import Layout, atomic_folder, sha256_file, sha256_folder
from naruto_core.domain import Adapter
from naruto_core.errors import RecordDamaged
from naruto_core.kohya import kohya_metadata, write_kohya
from naruto_core.recipe import Recipe
from naruto_core.settings import read_settings
from naruto_core.store.opening import Store, open_store


def export_kohya(name: str, folder: Path) -> Path:
    """The adapter as `<folder>/<run>.safetensors` for ComfyUI, A1111 and kohya's tools; its path.

    Raises RecordDamaged when the run has no adapter, or another than was recorded.
    """
    settings = read_settings()
    with open_store(settings.database_url) as store:
        run = store.run(name)
        source = _whole(Layout(settings.root), _adapter(store, run.id))
        dataset = store.find_dataset(run.dataset_id)
        assert dataset is not None  # a foreign key
        recipe = Recipe.model_validate_json(store.recipe_json(run.id))
    path = folder / f"{run.id}.safetensors"
    write_kohya(source, path, kohya_metadata(run, recipe, dataset))
    return path


def export_diffusers(name: str, folder: Path, fused: bool) -> Path:
    """The adapter file, or the fused model's folder, as `<folder>/<run>` for plain diffusers; its path.

    Raises RecordDamaged when the run has none, or another than was recorded.
    """
    settings = read_settings()
    layout = Layout(settings.root)
    with open_store(settings.database_url) as store:
        run = store.run(name)
        if not fused:
            source = _whole(layout, _adapter(store, run.id)).parent
        elif (model := store.find_fused(run.id)) is None:
            raise RecordDamaged(f"run {run.id} has no fused model; run the same command again to make it.")
        else:
            source = layout.root / model.path
            if not source.is_dir() or sha256_folder(source) != model.sha256:
                raise RecordDamaged(
                    f"the fused model {model.path} is not the one that was recorded; see `naruto verify`."
                )
    path = folder / run.id
    with atomic_folder(path) as scratch:
        shutil.copytree(source, scratch, dirs_exist_ok=True)
    return path


def _adapter(store: Store, run_id: str) -> Adapter:
    adapter = store.find_adapter(run_id)
    if adapter is None:
        raise RecordDamaged(f"run {run_id} has no adapter yet; run the same command again to train it.")
    return adapter


def _whole(layout: Layout, adapter: Adapter) -> Path:
    path = layout.root / adapter.path
    if not path.is_file() or sha256_file(path) != adapter.sha256:
        raise RecordDamaged(f"the adapter {adapter.path} is not the one that was recorded; see `naruto verify`.")
    return path
