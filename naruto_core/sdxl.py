"""Loading of SDXL base models; no other module loads them.

A model name is a hub id (with a pinned revision), a folder, `package:<package>/<folder>` for files inside a Python
package, or one file (`single_file`). Safetensors only; no code from a model folder is executed.
"""

import gc
import hashlib
import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from naruto_core import devices, single_file
from naruto_core.artifacts import sha256_file
from naruto_core.errors import ModelUnusable, amount
from naruto_core.hub import check_hub_file, check_hub_snapshot, locate
from naruto_core.model_folder import find_variant, tensor_shapes
from naruto_core.noise_schedule import stated_by_recipe, stated_schedule, with_schedule
from naruto_core.recipe_sections import ModelSection
from naruto_core.recipe_training import Precision
from naruto_core.sampling import complete_schedule, vae_dtype
from naruto_core.weight_check import MODEL_PARTS, portable_name

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


_CLASS = "StableDiffusionXL"  # the beginning of its pipelines' names


def describe_parts(section: ModelSection) -> dict[str, Any]:
    """unet, vae, text_encoder and text_encoder_2 of the base model from their configurations, on the meta device.

    Raises ModelUnusable when a configuration is missing or invalid, and for a single file that lacks a weight.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.models.modeling_utils import no_init_weights
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    source, revision = locate_config(section)
    _check_kind(section.base, Path(source))
    vae, vae_revision = locate(section.vae, section.vae_revision) if section.vae else (source, revision)
    inside: dict[str, Any] = {} if section.vae else {"subfolder": "vae"}
    pinned: dict[str, Any] = {"revision": revision or "main"}  # ignored for a folder
    try:
        with torch.device("meta"), no_init_weights():  # half the time: there is nothing to fill with random numbers
            unet: Any = UNet2DConditionModel.load_config(source, subfolder="unet", revision=revision)
            auto: Any = AutoencoderKL.load_config(vae, revision=vae_revision, **inside)
            text_configs = [
                CLIPTextConfig.from_pretrained(source, subfolder=part, **pinned)
                for part in ("text_encoder", "text_encoder_2")
            ]
            described: dict[str, Any] = {
                "unet": UNet2DConditionModel.from_config(unet),
                "vae": AutoencoderKL.from_config(auto),
                "text_encoder": CLIPTextModel(text_configs[0]),
                "text_encoder_2": CLIPTextModelWithProjection(text_configs[1]),
            }
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot read the configuration of {section.base}: {reason}") from error
    if file := single_file.read_base(section.base, section.revision, download=False):
        single_file.check_parts(file, described, own_vae=section.vae is None)
    return described


def _check_kind(base: str, folder: Path) -> None:
    """Raise ModelUnusable when the model folder `folder` says that it is another model than SDXL's base."""
    try:
        index: dict[str, Any] = json.loads((folder / "model_index.json").read_bytes())
    except (OSError, ValueError):
        return  # a hub id, or a folder of configurations alone
    name = str(index.get("_class_name", _CLASS))
    if not name.startswith(_CLASS):
        raise ModelUnusable(f"the base model {base} is a {name}, and this program trains SDXL only.")
    if index.get("text_encoder") == [None, None]:
        raise ModelUnusable(f"the base model {base} is the refiner of SDXL, not its base model.")


def locate_config(section: ModelSection) -> tuple[str, str | None]:
    """The arguments of `from_pretrained` for the configurations and tokenizers of the base model.

    Raises ModelUnusable as `locate` does.
    """
    if not single_file.is_single_file(section.base):
        return locate(section.base, section.revision)
    source, revision = locate(section.config or single_file.SDXL_CONFIG, section.config_revision)
    if revision is None:
        return source, None
    from huggingface_hub import snapshot_download

    # a folder, because diffusers passes no revision to the configurations of a single file's text encoders
    try:
        return snapshot_download(source, revision=revision, allow_patterns=["*.json", "*/*.json", "*/*.txt"]), None
    except OSError as error:
        raise ModelUnusable(f"cannot download the configurations {source}: {' '.join(str(error).split())}") from error


def identity(section: ModelSection) -> str:
    """A digest of the base model: of its weight files, or hub id and revision; and of the recipe's noise schedule."""
    digest = hashlib.sha256()
    names = [(section.base, section.revision), (section.vae, section.vae_revision)]
    if single_file.is_single_file(section.base):
        names[0] = section.config or single_file.SDXL_CONFIG, section.config_revision
        local = Path(section.base).expanduser()
        weights = sha256_file(local) if local.is_file() else f"{section.base}@{section.revision}"
        digest.update(f"{weights}\n".encode())
    for name, revision in names:
        if name is None:
            continue
        source, pinned = locate(name, revision)
        digest.update(f"{source}@{pinned}\n".encode() if pinned else _folder_digest(Path(source)).encode())
    if stated := stated_by_recipe(section):
        digest.update(json.dumps(stated, sort_keys=True).encode())
    return digest.hexdigest()


def prediction_type(section: ModelSection) -> str | None:
    """The base model's prediction type by the recipe or its scheduler's file, e.g. epsilon or v_prediction.

    None when that file is not on this machine (nothing is downloaded); SDXL's when the file does not name it.
    """
    from huggingface_hub import try_to_load_from_cache

    name = "scheduler/scheduler_config.json"
    if section.prediction_type:
        return section.prediction_type
    try:
        if single_file.is_single_file(section.base):
            file = single_file.read_base(section.base, section.revision, download=False)
            return file.schedule.get("prediction_type", "epsilon") if file else None
        source, revision = locate(section.base, section.revision)
        path = try_to_load_from_cache(source, name, revision=revision) if revision else Path(source) / name
        if not isinstance(path, str | Path):
            return None
        config: dict[str, Any] = json.loads(Path(path).read_bytes())
    except (ModelUnusable, OSError, ValueError):
        return None
    return complete_schedule(config)["prediction_type"]


def _folder_digest(folder: Path) -> str:
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json", ".txt"))
    return "".join(f"{p.relative_to(folder).as_posix()}:{sha256_file(p)}\n" for p in files)


@contextmanager
def quiet_loading(*, show_progress: bool = False) -> Generator[None]:
    """Inside the block diffusers and transformers print nothing, no progress bars for local files.

    transformers reports tensors that were not loaded only as a warning; `load_pipeline` and `adapter_file` raise for
    them. `show_progress` keeps the bars, for downloads.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    with_bars = [] if show_progress else [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in libraries]
    for library in with_bars:
        library.disable_progress_bar()
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library in with_bars:
            library.enable_progress_bar()
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _hide_truncated_prompts() -> None:
    """Prevent diffusers from logging the truncated end of a prompt: prompts are private.

    `naruto_core.token_limit` reports truncated texts instead.
    """
    name = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
    logging.getLogger(name).addFilter(_has_no_prompt)


def _has_no_prompt(record: logging.LogRecord) -> bool:
    return "was truncated because" not in str(record.msg)


def load_pipeline(section: ModelSection, precision: Precision, device: torch.device) -> "StableDiffusionXLPipeline":
    """The base model on `device`, frozen, in evaluation mode; its VAE in fp32 where its config has `force_upcast`.

    Values that the scheduler's file lacks are SDXL's published ones. Two base models do not fit into a T4: callers must
    drop an earlier one first; on a GPU, one that only a reference cycle keeps is freed before the load.

    Raises ModelUnusable when it is missing, is not SDXL, has no safetensors files, or when a weight is in no
    file (the libraries would fill it with random numbers). Raises RecordDamaged when a downloaded file was
    changed.
    """
    from diffusers import StableDiffusionXLPipeline

    if device.type == "cuda":  # on a CPU it would take longer than the load itself
        gc.collect()
    _hide_truncated_prompts()
    dtype = devices.weights_dtype(precision, device)
    source, revision = locate_config(section)
    with _loading(section, section.revision):
        parts = {part: load_part(section, part, dtype) for part in MODEL_PARTS}
        tokenizers = _own_tokenizers(section, source)
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            source, revision=revision, add_watermarker=False, use_safetensors=True, **parts, **tokenizers
        )
    for model in parts.values():
        model.requires_grad_(False).eval()
    pipeline.scheduler = with_schedule(section, pipeline.scheduler)
    if revision:
        check_hub_snapshot(source, revision, "model_index.json")
    if section.vae and section.vae_revision:
        check_hub_snapshot(section.vae, section.vae_revision, "config.json")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_part(section: ModelSection, part: str, dtype: torch.dtype) -> Any:
    """The model `part` (one of MODEL_PARTS) of the base model, in `dtype`, on the CPU.

    Raises ModelUnusable when a weight is in no file, and the libraries' errors when there is no file at all.
    """
    import diffusers
    import transformers

    if single_file.is_single_file(section.base) and not (part == "vae" and section.vae):
        return _load_from_file(section, part, dtype)
    source, revision = locate_config(section)
    variant = section.variant if revision else find_variant(Path(source), part, section.variant)
    options: dict[str, Any] = {"revision": revision, "variant": variant, "subfolder": part}
    if part == "vae" and section.vae:
        source, revision = locate(section.vae, section.vae_revision)
        options = {"revision": revision}
    name = MODEL_PARTS[part]
    kind: Any = getattr(transformers, name) if part.startswith("text_encoder") else getattr(diffusers, name)
    options["revision"] = options["revision"] or "main"  # ignored for a folder
    if part == "vae":
        dtype = vae_dtype(
            kind.load_config(source, **{key: options[key] for key in options.keys() - {"variant"}}), dtype
        )
    model, report = kind.from_pretrained(source, dtype=dtype, use_safetensors=True, output_loading_info=True, **options)
    if missing := sorted(report["missing_keys"]):
        raise ModelUnusable(
            f"cannot load {part} of {source}: its files lack {amount(len(missing), 'weight')}, first {missing[0]}; "
            "the folder is incomplete, or was saved for another version of the libraries."
        )
    return model


def _load_from_file(section: ModelSection, part: str, dtype: torch.dtype) -> Any:
    file, config = single_file.read_base(section.base, section.revision), Path(locate_config(section)[0])
    assert file is not None
    check_hub_file(file.path)
    describe_parts(section)  # it checks the file
    if part == "vae":
        dtype = vae_dtype(json.loads((config / part / "config.json").read_bytes()), dtype)
    return single_file.load_part(file, part, config, dtype)


def load_tokenizers(section: ModelSection) -> dict[str, Any]:
    """`tokenizer` and `tokenizer_2` of the base model. Raises the libraries' errors for a folder without them."""
    from transformers import CLIPTokenizer

    source, revision = locate_config(section)
    pinned: dict[str, Any] = {"revision": revision or "main"}  # ignored for a folder
    return _own_tokenizers(section, source) or {
        part: CLIPTokenizer.from_pretrained(source, subfolder=part, **pinned) for part in ("tokenizer", "tokenizer_2")
    }


def _own_tokenizers(section: ModelSection, config: str) -> dict[str, Any]:
    """CLIP's tokenizers for a single file whose folder of configurations has none, as the one for SDXL; else {}."""
    if not single_file.is_single_file(section.base) or (Path(config) / "tokenizer").is_dir():
        return {}
    return dict(zip(("tokenizer", "tokenizer_2"), single_file.clip_tokenizers(), strict=True))


def base_notes(section: ModelSection, clip_skip: int | None) -> list[str]:
    """Sentences on what is read of the base model otherwise than one may expect; downloads nothing.

    Raises ModelUnusable for a base model that is not there.
    """
    notes: list[str] = []
    if single_file.is_single_file(section.base):
        if stated := stated_schedule(section):
            settings = ", ".join(f"{key} {value}" for key, value in stated.items())
            notes.append(f"base model {section.base}: noise schedule with {settings}")
        if clip_skip:
            notes.append(
                f"warning: clip_skip {clip_skip} skips {clip_skip} layers more than SDXL does; the clip skip 2 that "
                "model pages and A1111 name is SDXL's own: leave clip_skip null for it"
            )
        return notes
    source, revision = locate(section.base, section.revision)
    used = {} if revision else {part: find_variant(Path(source), part, section.variant) for part in MODEL_PARTS}
    if section.vae:
        used.pop("vae", None)
    if other := sorted(
        {f"{variant} files" if variant else "plain files" for variant in used.values() if variant != section.variant}
    ):
        asked = f"files of variant {section.variant}" if section.variant else "plain weight files"
        notes.append(f"base model {section.base} has no {asked}: its {' and '.join(other)} are read")
    return notes


def check_complete(folder: Path) -> None:
    """Check the headers of the weight files below the pipeline `folder` against its configurations: names and shapes.

    Raises ModelUnusable when a weight is in no file or has another shape. Reads no values: full size takes seconds.
    """
    described = describe_parts(ModelSection.model_validate({"base": str(folder)}))
    for part in MODEL_PARTS:
        shapes = tensor_shapes(folder, part)
        for name, weight in described[part].named_parameters():
            if shapes.get(portable_name(part, name)) != tuple(weight.shape):
                raise ModelUnusable(f"the model {folder} is incomplete: its files lack {name} of {part}.")


@contextmanager
def _loading(section: ModelSection, revision: str | None) -> Generator[None]:
    """Load quietly, unless files may have to be downloaded; the libraries' errors become ModelUnusable."""
    try:
        with quiet_loading(show_progress=revision is not None):
            yield
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelUnusable(f"cannot load {section.base} as an SDXL pipeline: {reason}") from error
