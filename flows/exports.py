"""Export the adapters or the fused model of a run as a file or folder that other programs load."""

import json
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from naruto_core import sdxl
from naruto_core.artifact_store import fetch_file
from naruto_core.artifacts import Layout, atomic_folder, is_intact_folder
from naruto_core.card.usage import LOWEST_VERSIONS
from naruto_core.domain import Adapter
from naruto_core.errors import ModelUnusable, RecordDamaged, StorageFailed
from naruto_core.fusion import convert_to_half
from naruto_core.kohya import no_kohya_reason
from naruto_core.model_folder import make_portable
from naruto_core.recipe import Recipe
from naruto_core.settings import read_settings
from naruto_core.store.database import Store, open_store
from tasks.adapter_files import find_trained, write_kohya_files, write_word_files
from tasks.publish import write_bundle

_LOADING_NEEDS = ("diffusers", "transformers", "accelerate")
# of naruto_core: how every program reads prompts, draws and checks weights; each file stands alone
_SHARED_CODE = ("sampling.py", "text_encoding.py", "weight_check.py")
_LARGEST_BATCH = 4  # as the HTTP service has it: a lone picture pays for the whole batch
_GENERATION_KEYS = {
    "resolution",
    "num_inference_steps",
    "guidance_scale",
    "negative_prompt",
    "scheduler",
    "clip_skip",
    "max_token_length",
    "prompt_weights",
}


def export_kohya(name: str, folder: Path) -> list[Path]:
    """What ComfyUI, A1111 and kohya's tools read, into `folder`; the files' paths.

    `<run>.safetensors`, or `<run>-<style>.safetensors` for each style; for new tokens `<run>_emb.safetensors` too.
    Raises RecordDamaged when the run has no adapter, or another than was recorded, and ModelUnusable when it has
    none that those tools can read.
    """
    with _open_home() as (store, layout):
        run = store.run(name)
        trained = find_trained(store, layout, run, _adapters(store, run.id))
    if reason := no_kohya_reason(trained.recipe):
        raise ModelUnusable(f"run {run.id} has no LoRA for kohya's tools: {reason}; see `naruto export hub`.")
    names = [*write_kohya_files(trained, folder).values(), *write_word_files(trained, folder).values()]
    return [folder / name for name in names]


def export_diffusers(name: str, folder: Path) -> Path:
    """The adapter with its model card and pictures as the folder `<folder>/<run>`, for plain diffusers; its path.

    Raises RecordDamaged when the run has no adapter, or a file is another than was recorded, and StorageFailed when
    the folder has files of others, as all exports of folders do.
    """
    return _export(name, folder, for_comfyui=False)


def export_hub(name: str, folder: Path) -> Path:
    """Exactly the folder that a push sends to a model hub, as `<folder>/<run>`; its path. Nothing is sent.

    Raises RecordDamaged when the run has no adapter, or a file is another than was recorded.
    """
    return _export(name, folder, for_comfyui=True)


def _export(name: str, folder: Path, *, for_comfyui: bool) -> Path:
    with _open_home() as (store, layout):
        run = store.run(name)
        path, adapters = folder / run.id, _adapters(store, run.id)
        with _export_folder(path) as scratch:
            write_bundle(store, layout, run, adapters, scratch, for_comfyui=for_comfyui)
    return path


def export_fused(name: str, folder: Path, *, half: bool = False) -> Path:
    """The fused model as the folder `<folder>/<run>`, for plain diffusers, in `half` precision or as it is; its path.

    `requirements.txt` in it says which versions load it.

    Raises RecordDamaged when the run has none, or another than was recorded.
    """
    run_id, source, _ = _recorded_fused(name)
    path = folder / run_id
    with _export_folder(path) as scratch:
        _copy_model(source, scratch)
        if half:
            convert_to_half(scratch)
            sdxl.check_complete(scratch)
        _write_requirements(scratch, _ranges())
    return path


def export_endpoint(name: str, folder: Path) -> Path:
    """The fused model with what a Hugging Face Inference Endpoint runs, as `<folder>/<run>`; its path.

    Raises RecordDamaged when the run has no fused model, or another than was recorded.
    """
    run_id, source, recipe = _recorded_fused(name)
    path = folder / run_id
    with _export_folder(path) as scratch:
        _write_model(scratch, source, recipe)
        _copy_code(scratch, "deployments.endpoint", "handler.py")
        _copy_code(scratch, "naruto_core", *_SHARED_CODE)
        _write_requirements(scratch, _ranges())
    return path


def export_triton(name: str, folder: Path) -> Path:
    """A model repository for NVIDIA Triton that holds the fused model as `naruto`, as `<folder>/<run>`; its path.

    Raises RecordDamaged when the run has no fused model, or another than was recorded.
    """
    run_id, source, recipe = _recorded_fused(name)
    values = {"RUN": run_id, "BATCH_SIZE": str(min(recipe.generation.batch_size, _LARGEST_BATCH))}
    path = folder / run_id
    with _export_folder(path) as scratch:
        version_1 = scratch / "naruto" / "1"
        _write_model(version_1 / "model", source, recipe)
        _copy_code(version_1, "deployments.triton", "model.py")
        _copy_code(version_1, "naruto_core", *_SHARED_CODE)
        for file, target in (("config.pbtxt", version_1.parent), ("README.md", scratch)):
            text = (files("deployments.triton") / file).read_text(encoding="utf-8")
            (target / file).write_text(Template(text).substitute(values), encoding="utf-8")
        _write_requirements(scratch, _installed_here())
    return path


@contextmanager
def _export_folder(path: Path) -> Generator[Path]:
    """As `atomic_folder`. Raises StorageFailed when an older folder `path` has files that the new one has not."""
    if path.is_file():
        raise StorageFailed(f"cannot write the folder {path}: a file has that name. Name another DIR, or move it.")
    with atomic_folder(path) as scratch:
        yield scratch
        if others := sorted(_file_names(path) - _file_names(scratch)):
            raise StorageFailed(
                f"cannot replace {path}: it has files that this export does not write ({len(others)}, first "
                f"{others[0]}). Name another DIR, or remove that folder if nobody needs it."
            )


def _file_names(folder: Path) -> set[str]:
    """The names of all files below `folder`, but for what Python compiled."""
    paths = (path for path in folder.rglob("*") if not path.is_dir() and path.parent.name != "__pycache__")
    return {path.relative_to(folder).as_posix() for path in paths}


def _recorded_fused(name: str) -> tuple[str, Path, Recipe]:
    """A run's id, the folder of its fused model, and the recipe that says how it draws."""
    with _open_home() as (store, layout):
        run = store.run(name)
        source = _fused(store, layout, run.id)
        return run.id, source, Recipe.model_validate_json(store.recipe_json(run.id))


def _write_model(folder: Path, source: Path, recipe: Recipe) -> None:
    """The fused model in `folder`, with how it is drawn by, for programs that know no recipe (`generation.json`)."""
    if recipe.generation.refiner:
        raise ModelUnusable(
            "this run draws with a refiner, which an endpoint and Triton do not load: run it without "
            "generation.refiner, or use `naruto export diffusers`, whose model card draws both stages."
        )
    _copy_model(source, folder)
    settings = recipe.generation.model_dump(mode="json", include=_GENERATION_KEYS) | {"new_tokens": recipe.new_tokens}
    (folder / "generation.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _copy_model(source: Path, folder: Path) -> None:
    """The fused model `source`, whole and in the form that transformers 4 reads too, in `folder`."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    make_portable(folder)  # older versions of this program fused models in the form of transformers 5
    sdxl.check_complete(folder)


def _copy_code(folder: Path, package: str, *names: str) -> None:
    """The files `names` of `package`, as they are, in `folder`."""
    for name in names:
        (folder / name).write_text((files(package) / name).read_text(encoding="utf-8"), encoding="utf-8")


def _write_requirements(folder: Path, lines: Iterable[str]) -> None:
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _ranges() -> Iterator[str]:
    """What loads a fused model: from the lowest versions that are tested up to the major version installed here.

    Programs bring versions of their own, and torch: Hugging Face's inference toolkit starts with those alone.
    """
    for package in _LOADING_NEEDS:
        major = int(version(package).partition(".")[0])
        yield f"{package}>={LOWEST_VERSIONS[package]},<{major + 1}"


def _installed_here() -> Iterator[str]:
    """Exactly the versions installed here; without torch's build ("+cpu"), which is not everywhere to be had."""
    for package in ("torch", *_LOADING_NEEDS, "safetensors"):
        yield f"{package}=={version(package).partition('+')[0]}"


def _fused(store: Store, layout: Layout, run_id: str) -> Path:
    model = store.find_fused(run_id)
    if model is None:
        raise RecordDamaged(f"run {run_id} has no fused model{_remedy(store, run_id, 'make it')}")
    fetch_file(layout, model.path, model.sha256)
    source = layout.root / model.path
    if not is_intact_folder(source, model.sha256):
        raise RecordDamaged(f"the fused model {model.path} is not the one that was recorded; see `naruto verify`.")
    return source


def _remedy(store: Store, run_id: str, action: str) -> str:
    """The end of a sentence on something that a run does not have."""
    imported = Recipe.model_validate_json(store.recipe_json(run_id)).imported
    if imported and imported.kind == "pictures":
        return ": it consists of imported pictures. Export another run."
    return f" yet; run the same command again to {action}."


@contextmanager
def _open_home() -> Generator[tuple[Store, Layout]]:
    settings = read_settings()
    with open_store(settings.database_url) as store:
        yield store, Layout(settings.root, settings.store)


def _adapters(store: Store, run_id: str) -> list[Adapter]:
    adapters = store.adapters(run_id)
    if not adapters:
        raise RecordDamaged(f"run {run_id} has no adapter{_remedy(store, run_id, 'train it')}")
    return adapters
