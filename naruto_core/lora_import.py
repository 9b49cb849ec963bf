"""LoRA files of other trainers: recognised by their key names, loaded by diffusers, and checked tensor by tensor.

A file is loaded into the base model without weights, so that only the base's configuration is needed. Every tensor of
the file must then be in the module that its name says, with its value; what is not is an error. The scale of each
module is computed from the file: diffusers and PEFT take one module's alpha for others where some modules have none or
another one (github.com/huggingface/diffusers/pull/14409 is about one such case).
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from warnings import catch_warnings, simplefilter

import torch
from safetensors import SafetensorError, safe_open

from naruto_core.adapter_file import (
    AdapterFile,
    adapter_weights,
    check_loads,
    load_state,
    loading_errors,
    parts_without_weights,
    read_adapter,
    split_key,
    write_tensors,
)
from naruto_core.artifacts import atomic_file, sha256_file
from naruto_core.errors import ModelUnusable
from naruto_core.kohya import kohya_module
from naruto_core.recipe_sections import ModelSection

LoraFormat = Literal["kohya", "diffusers", "peft"]
# key parts of what is not a LoRA for SDXL, and what it is
_OTHER_KINDS = {
    "hada_w": "a LyCORIS LoHa (Hadamard product)",
    "lokr_w": "a LyCORIS LoKr (Kronecker product)",
    "oft_": "an OFT (orthogonal finetuning)",
    "lora_mid": "a LyCORIS LoCon with Tucker decomposition (lora_mid)",
    ".a1.weight": "a LyCORIS GLoRA",
    "dora_scale": "a DoRA in kohya's form (dora_scale), which diffusers cannot read",
    ".on_input": "a LyCORIS (IA)^3",
    "bundle_emb": "a LoRA with a bundled embedding (bundle_emb)",
    ".w_norm": "a LyCORIS file with trained norms",
    "emb_params": "an embedding (textual inversion)",
    "clip_g": "an embedding (textual inversion)",
    "model.diffusion_model.": "a whole model; give it as --base",
    "lora_te3": "a LoRA with a text encoder 3 (T5), for SD 3 or Flux",
    "t5xxl": "a LoRA with a text encoder 3 (T5), for SD 3 or Flux",
    "double_blocks": "a LoRA for Flux",
    "single_transformer_blocks": "a LoRA for Flux",
    "joint_blocks": "a LoRA for SD 3",
    "lora_te_": "a LoRA for Stable Diffusion 1.x or 2.x (one text encoder)",
    "transformer.transformer_blocks": "a LoRA for a transformer model (SD 3, Flux or later)",
    "lora_transformer_": "a LoRA for a transformer model (SD 3, Flux or later)",
    "diffusion_model.": "a LoRA in ComfyUI's form, which diffusers cannot read for SDXL",
    ".diff": "a LyCORIS file with full weight differences (diff)",
}
_TEXT_WIDTHS = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "SDXL"}
_DIMENSIONS = (2, 4)  # of the weights of linear layers and of convolutions
_DOWN, _UP = (".lora_down", "lora.down", ".lora_A"), (".lora_up", "lora.up", ".lora_B")
_KOHYA_PREFIX = ("lora_unet_", "lora_te1_", "lora_te2_")
_SUFFIX = ".safetensors"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
# metadata that is kept as facts of a file: no paths, no captions
_FACTS = (
    *(f"ss_{key}" for key in ("output_name", "base_model_version", "network_module", "network_dim", "network_alpha")),
    *(f"ss_{key}" for key in ("steps", "max_train_steps", "num_epochs", "num_train_images", "optimizer")),
    *(f"ss_{key}" for key in ("learning_rate", "unet_lr", "text_encoder_lr", "lr_scheduler", "resolution", "seed")),
    *(f"modelspec.{key}" for key in ("title", "architecture", "date", "author", "trigger_phrase", "license")),
)
_LONGEST_FACT = 200  # characters
_PEFT_CONFIG = ("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules")
_NAME = "imported"


@dataclass(frozen=True, slots=True)
class ForeignLora:
    """A LoRA file that fits a base model.

    `adapter` has its tensors by this program's keys, fp32, with the scale alpha / rank multiplied into lora_B. `facts`
    are what its metadata says of its training. `as_it_is`: it can be used as an adapter file without a conversion.
    """

    path: Path
    sha256: str
    format: LoraFormat
    adapter: AdapterFile
    facts: dict[str, str]
    as_it_is: bool

    @property
    def ranks(self) -> tuple[int, int]:
        """The smallest and the largest rank."""
        ranks = [tensor.shape[0] for key, tensor in self.adapter.tensors.items() if ".lora_A." in key]
        return min(ranks), max(ranks)

    @property
    def modules(self) -> int:
        """The number of adapted modules."""
        return sum(".lora_A." in key for key in self.adapter.tensors)

    @property
    def use_dora(self) -> bool:
        """Whether it has magnitudes (Liu et al. 2024)."""
        return any(".lora_magnitude_vector." in key for key in self.adapter.tensors)

    def write(self, path: Path, model: ModelSection) -> None:
        """Write it as the adapter file `path` of a run, atomically: its own bytes where they can be used as they are.

        Raises ModelUnusable when diffusers does not load every tensor of the written file.
        """
        if self.as_it_is:
            with atomic_file(path) as scratch:
                scratch.write_bytes(self.path.read_bytes())
        else:
            write_tensors(_of_one_rank(self.adapter.tensors), path)
        check_loads(model, path, read_adapter(path))


def read_lora(path: Path, model: ModelSection) -> ForeignLora:
    """The LoRA file `path`, for the base `model`: kohya's, diffusers' or PEFT's form, safetensors.

    Raises ModelUnusable with what the file is instead, where it is no such LoRA; with the module, where it does not fit
    the base model; and with the tensor, where a value is not finite or was not loaded.
    """
    source, metadata = _read_tensors(path)
    form = _recognise(path, source)
    parts = parts_without_weights(model)
    _check_pairs(path, source)
    _check_text_width(path, source, parts, model)
    try:
        with loading_errors(path), catch_warnings():
            simplefilter("ignore", RuntimeWarning)  # of PEFT, on alphas that it does not apply: see `_scale`
            load_state(parts, *_diffusers_state(path, form, source, parts), _NAME)
    except ModelUnusable as error:
        if "size mismatch" not in str(error):
            raise
        raise ModelUnusable(
            f"the LoRA {path} does not fit the base model {model.base}: its modules have other sizes; give the base "
            "that it was trained on with --base."
        ) from error
    loaded = {key: (tensor, scale) for key, tensor, scale in adapter_weights(parts, _NAME)}
    _check_complete(path, form, source, {key: tensor for key, (tensor, _) in loaded.items()}, model)
    has_settings = "lora_adapter_metadata" in metadata
    scales = {key: scale for key, (_, scale) in loaded.items()}
    has_own_scale = has_settings or form == "peft"
    if form != "kohya":
        _check_alphas(path, source, () if has_own_scale else loaded)
    if not has_own_scale or form == "kohya":
        scales |= {key: _scale(path, source, key, tensor) for key, (tensor, _) in loaded.items() if ".lora_B." in key}
    tensors = {key: (tensor.float() * scales[key]).contiguous().clone() for key, (tensor, _) in loaded.items()}
    plain = source.keys() == loaded.keys() and not has_settings and len(set(_ranks(tensors).values())) == 1
    adapter = AdapterFile(path, tensors, dict.fromkeys(parts, 1.0))
    return ForeignLora(path, sha256_file(path), form, adapter, _facts(metadata), plain)


def _scale(path: Path, source: Mapping[str, torch.Tensor], key: str, up: torch.Tensor) -> float:
    """alpha / rank of the module of `key`, by the file itself: 1 where it has no alpha, as all programs read it.

    `up` is its lora_B, (out, rank) or (out, rank, 1, 1). Raises ModelUnusable for an alpha of 0.
    """
    part, module, _ = split_key(key)
    names = {kohya_module(part, module), f"lora_{part}_{module.replace('.', '_')}", f"{part}.{module}"}
    for name in names:
        if (alpha := source.get(f"{name}.alpha")) is not None:
            if not float(alpha):
                raise ModelUnusable(
                    f"the LoRA {path}: {name} has alpha 0, which switches it off in some programs and not in others: "
                    "remove the alpha, or the module."
                )
            return float(alpha) / up.shape[1]
    return 1.0


def _check_alphas(path: Path, names: Iterable[str], keys: Iterable[str]) -> None:
    """Raise ModelUnusable for an alpha among `names` of no module in `keys`: diffusers reads none beside its names."""
    known = {f"{part}.{module}.alpha" for part, module, _ in map(split_key, keys)}
    if unknown := sorted(name for name in names if name.endswith("alpha") and name not in known):
        raise ModelUnusable(
            f"the LoRA {path} has {unknown[0]}, which some programs apply and others do not: multiply alpha / rank "
            "into the weights (lora_B), and save the file without its alphas."
        )


def _ranks(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """The rank of every module by `<part>.<module>`."""
    return {key.partition(".lora_A.")[0]: tensor.shape[0] for key, tensor in tensors.items() if ".lora_A." in key}


def _of_one_rank(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`tensors` with rows and columns of zeros, so that all modules of a part have its largest rank.

    The updates stay the same. In a file without alphas, diffusers before the change named above takes the alpha of
    all modules from the rank of one.
    """
    largest: dict[str, int] = {}
    for module, rank in _ranks(tensors).items():
        part = module.partition(".")[0]
        largest[part] = max(rank, largest.get(part, 0))
    padded: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        part, _, role = split_key(key)
        axis = {"lora_A": 0, "lora_B": 1}.get(role)
        if axis is None:
            padded[key] = tensor
            continue
        missing = list(tensor.shape)
        missing[axis] = largest[part] - tensor.shape[axis]
        padded[key] = torch.cat([tensor, tensor.new_zeros(missing)], dim=axis)
    return padded


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of `path`."""
    if not path.is_file():
        raise ModelUnusable(f"there is no LoRA file {path}.")
    if path.suffix.lower() in _PICKLES:
        raise ModelUnusable(
            f"{path} is a pickle, which can run code when it is opened: save its tensors with "
            "safetensors.torch.save_file, and import that file."
        )
    if path.suffix != _SUFFIX:  # diffusers reads files of other names as pickles
        raise ModelUnusable(
            f"the name of {path} does not end with {_SUFFIX}: if it is such a file, rename it to {path.stem}{_SUFFIX}."
        )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelUnusable(f"cannot read {path} as a safetensors file: {reason}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor.float()).all():
            raise ModelUnusable(f"the LoRA {path} has values that are not finite in {name}: the file is damaged.")
    return tensors, metadata


def _recognise(path: Path, names: Iterable[str]) -> LoraFormat:
    """The form of a file with tensors called `names`; ModelUnusable, with what it is, for any other file."""
    keys = list(names)
    for part, kind in _OTHER_KINDS.items():
        if example := next((key for key in keys if part in key), ""):
            raise ModelUnusable(f"{path} is {kind}: it has {example}. A LoRA for SDXL is needed.")
    if keys and all(key.startswith(_KOHYA_PREFIX) for key in keys):
        return "kohya"
    if keys and all(key.startswith("base_model.model.") for key in keys):
        return "peft"
    if keys and all(key.startswith(("unet.", "text_encoder.", "text_encoder_2.")) for key in keys):
        return "diffusers"
    known = ("unet.", "text_encoder", "base_model.model.", *_KOHYA_PREFIX)
    example = next((key for key in keys if not key.startswith(known)), keys[0] if keys else "")
    found = f"it has a tensor {example}" if example else "it has no tensors"
    raise ModelUnusable(f"{path} is no LoRA for SDXL in kohya's, diffusers' or PEFT's form: {found}.")


def _check_pairs(path: Path, source: Mapping[str, torch.Tensor]) -> None:
    """Raise ModelUnusable, with the first module, when one has only one of its two matrices, or has no matrix."""
    downs, ups = (set[str](), set[str]())
    for name, tensor in source.items():
        for stems, roles in ((downs, _DOWN), (ups, _UP)):
            if role := next((role for role in roles if role in name), ""):
                stems.add(name.replace(role, ""))
                if tensor.ndim not in _DIMENSIONS:
                    raise ModelUnusable(
                        f"the LoRA {path}: {name} has the shape {tuple(tensor.shape)}, which is no matrix and no "
                        "convolution; save the file again with the trainer that wrote it."
                    )
    if alone := sorted(downs ^ ups):
        raise ModelUnusable(
            f"the LoRA {path} is incomplete: {alone[0].strip('.')} has only one of two matrices; copy the file again."
        )


def _check_text_width(
    path: Path, source: Mapping[str, torch.Tensor], parts: Mapping[str, Any], model: ModelSection
) -> None:
    """Raise ModelUnusable when cross-attention reads text of another width than in the base: another kind of model."""
    own = int(parts["unet"].config.cross_attention_dim)
    for name, tensor in source.items():
        if re.search(r"attn2[._](processor\.)?to_[kv]", name) and re.search(r"lora[._](down|A)", name):
            width = tensor.shape[1]
            if width != own:
                kind = _TEXT_WIDTHS.get(width, "another base model")
                raise ModelUnusable(
                    f"the LoRA {path} is for {kind}: it reads text of width {width}, and {model.base} has {own}."
                )
            return


def _diffusers_state(
    path: Path, form: LoraFormat, source: Mapping[str, torch.Tensor], parts: Mapping[str, Any]
) -> tuple[Any, Any, Any]:
    """State, alphas and metadata for `load_state`, by diffusers' own reader."""
    from diffusers import StableDiffusionXLPipeline

    options: dict[str, Any] = {"unet_config": parts["unet"].config, "return_lora_metadata": True}
    if form != "peft":
        loaded: Any = StableDiffusionXLPipeline.lora_state_dict(str(path.parent), weight_name=path.name, **options)
        return loaded
    state = {f"unet.{_peft_module(name)}": tensor for name, tensor in source.items()}
    loaded = StableDiffusionXLPipeline.lora_state_dict(state, **options)
    return loaded[0], None, {f"unet.{key}": value for key, value in _peft_config(path).items()}


def _peft_module(name: str) -> str:
    """PEFT's file names a model `base_model.model`; some versions name the adapter after the role."""
    return re.sub(r"\.(lora_[AB])\.default\.", r".\1.", name.removeprefix("base_model.model."))


def _peft_config(path: Path) -> dict[str, Any]:
    """What PEFT wrote beside its file: rank and alpha, which the file itself lacks."""
    config = path.with_name("adapter_config.json")
    try:
        values: Any = json.loads(config.read_bytes())
        return {key: values[key] for key in _PEFT_CONFIG if values.get(key) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelUnusable(
            f"{path} is in PEFT's form, which keeps alpha in another file: put PEFT's {config.name} beside it."
        ) from error


def _check_complete(
    path: Path,
    form: LoraFormat,
    source: Mapping[str, torch.Tensor],
    loaded: Mapping[str, torch.Tensor],
    model: ModelSection,
) -> None:
    """Raise ModelUnusable unless every weight of `source` is in `loaded`, with its value, and nothing else is.

    kohya's names are compared module by module; the others, which diffusers keeps but for their endings, by value.
    """
    weights = {name: tensor for name, tensor in source.items() if not name.endswith("alpha")}
    if form == "kohya":
        names = _by_kohya_names(loaded)
        lost = [name for name in weights if name not in names or not _equal(weights[name], names[name])]
    else:
        counts = Counter(_digest(tensor) for tensor in loaded.values())
        lost = []
        for name, tensor in weights.items():
            digest = _digest(tensor)
            counts[digest] -= 1
            if counts[digest] < 0:
                lost.append(name)
    if lost:
        raise ModelUnusable(
            f"the LoRA {path} does not fit the base model {model.base}: {len(lost)} of its {len(weights)} tensors have "
            f"no module there, first {lost[0]}; give the base that it was trained on with --base."
        )
    if len(loaded) != len(weights):
        raise ModelUnusable(f"the LoRA {path} was loaded with {len(loaded)} tensors, and it has {len(weights)}.")


def _by_kohya_names(loaded: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`loaded` by kohya's names: with Stability's blocks, and with diffusers' blocks, as some trainers write them."""
    names: dict[str, torch.Tensor] = {}
    for key, tensor in loaded.items():
        part, module, role = split_key(key)
        ending = "lora_down.weight" if role == "lora_A" else "lora_up.weight"
        names[f"{kohya_module(part, module)}.{ending}"] = tensor
        if part == "unet":
            names[f"lora_unet_{module.replace('.', '_')}.{ending}"] = tensor
    return names


def _equal(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Equal values; kohya writes some 1 x 1 convolutions as matrices, and the other way round."""
    return first.numel() == second.numel() and torch.equal(first.float().flatten(), second.float().flatten())


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.detach().float().contiguous().numpy().tobytes()).hexdigest()


def _facts(metadata: Mapping[str, str]) -> dict[str, str]:
    """What `metadata` says of the training, shortened; fields that may hold paths or captions are left out."""
    chosen = {key: " ".join(metadata[key].split())[:_LONGEST_FACT] for key in _FACTS if metadata.get(key)}
    return {key: value for key, value in chosen.items() if value not in ("", "None")}
