"""An SDXL base model in one safetensors file, with Stability's tensor names, as A1111 and ComfyUI keep models.

The file has the weights of all parts. What it lacks is in a folder of configurations, `sdxl_config` beside this module
for SDXL base 1.0 and everything fine-tuned from it. diffusers maps the names.
"""

import gzip
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from naruto_core.errors import ModelUnusable
from naruto_core.weight_check import MODEL_PARTS, portable_name

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

SDXL_CONFIG = "package:naruto_core/sdxl_config"
SUFFIX = ".safetensors"
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")
_HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/([\w./ -]+)", re.ASCII)

# where Stability's files have the parts
_PREFIX = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_FIRST_CONVOLUTION = "model.diffusion_model.input_blocks.0.0.weight"
# what other files are, by the beginning of a tensor name; the first that is found
_OTHERS = (
    ("a LoRA, not a base model", r".*(\.lora_|\.lora\.|^lora_|\.hada_|\.lokr_|\.oft_)"),
    ("a ControlNet, not a base model", r"control_model\.|controlnet_"),
    ("a Flux model, and this program trains SDXL only", r"(model\.diffusion_model\.)?double_blocks\."),
    ("a Stable Diffusion 3 model, and this program trains SDXL only", r"(model\.diffusion_model\.)?joint_blocks\."),
    ("the refiner of SDXL, not its base model", r"conditioner\.embedders\.0\.model\."),
    ("a Stable Diffusion 2 model, and this program trains SDXL only", r"cond_stage_model\.model\."),
    ("a Stable Diffusion 1 model, and this program trains SDXL only", r"cond_stage_model\.transformer\."),
    ("the embedding of a word (textual inversion), not a base model", r"clip_l$|clip_g$|emb_params$"),
    ("one part of a model folder: name the folder", r"(encoder\.)?down_blocks\.|text_model\."),
    ("a VAE, not a base model", r"encoder\.|decoder\."),
)
_EDM = ("edm_mean", "edm_vpred.")
_PREDICTION = {"v": "v_prediction", "v_prediction": "v_prediction", "eps": "epsilon", "epsilon": "epsilon"}

# with a zero terminal SNR the last timestep, pure noise, has to be drawn from (Lin et al. 2023, sec. 3.3)
ZERO_TERMINAL_SNR: dict[str, Any] = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


@dataclass(frozen=True, slots=True)
class SingleFile:
    """The header of a base model's file: the shape of each tensor by name, and the metadata."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @property
    def schedule(self) -> dict[str, Any]:
        """What the file says about its noise schedule, as settings of diffusers' schedulers.

        The empty tensors `v_pred` and `ztsnr`, as NoobAI's files have them and ComfyUI reads them; or the metadata
        `modelspec.prediction_type`. {} when it says nothing: SDXL's schedule.
        """
        if "v_pred" in self.shapes:
            return {"prediction_type": "v_prediction"} | (ZERO_TERMINAL_SNR if "ztsnr" in self.shapes else {})
        stated = _PREDICTION.get(self.metadata.get("modelspec.prediction_type", "").lower())
        return {"prediction_type": stated} if stated else {}

    def part(self, part: str) -> dict[str, torch.Tensor]:
        """The tensors of one of MODEL_PARTS, by Stability's names."""
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in self.shapes if name.startswith(_PREFIX[part])}


def is_single_file(base: str) -> bool:
    """Whether `base` of a recipe names one file, here or on the hub, and not a folder or a repository."""
    return base.lower().endswith((SUFFIX, *_PICKLES)) or Path(base).expanduser().is_file()


def hub_address(base: str, revision: str | None) -> tuple[str, str] | None:
    """Repository and file name of a base model that is one file of the hub at `revision`; None for any other."""
    match = _HUB_FILE.fullmatch(base)
    if not match or not revision or not base.lower().endswith(SUFFIX) or Path(base).expanduser().exists():
        return None
    return match[1], match[2]


def find_file(base: str, revision: str | None, *, download: bool = True) -> Path | None:
    """The file that `base` names: a path, or `owner/name/file.safetensors` at `revision` of the hub.

    None for a file of the hub that is not on this machine, unless `download`. Raises ModelUnusable for a file that is
    not there, a pickle, and a hub's file without a revision.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    path = Path(base).expanduser()
    if not base.lower().endswith(SUFFIX):
        raise ModelUnusable(
            f"the base model {base} is no safetensors file; other files can run code when they are read: take the "
            "model's .safetensors file, or convert it (see docs/guides/base-models.md)."
        )
    if path.is_file():
        return path
    if not _HUB_FILE.fullmatch(base) or path.parent.is_dir():
        raise ModelUnusable(f"there is no model file {base}.")
    if not (address := hub_address(base, revision)):
        raise ModelUnusable(
            f"there is no model file {base}; if it is a file of the hub, set model.revision (a commit hash) in the "
            "recipe, so that it cannot change."
        )
    if not download:
        cached = try_to_load_from_cache(*address, revision=revision)
        return Path(cached) if isinstance(cached, str) else None
    return Path(hf_hub_download(*address, revision=revision))


def read_single_file(path: Path) -> SingleFile:
    """The header of the base model in `path`.

    Raises ModelUnusable, naming the file, when it is damaged or another kind of model than SDXL's base.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            metadata: dict[str, str] = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        with path.open("rb") as raw:
            pickled = raw.read(2) in (b"PK", b"\x80\x02")
        reason = "is a pickle under another name" if pickled else "is damaged or not complete"
        raise ModelUnusable(f"the base model {path} {reason}: download it again ({_short(error)}).") from error
    if any(name.startswith(_EDM) for name in shapes):
        raise ModelUnusable(
            f"the base model {path} is an EDM model (as Playground 2.5), and this program has no such noise schedule."
        )
    if not any(name.startswith(_PREFIX["text_encoder_2"]) for name in shapes):
        for kind, beginning in _OTHERS:
            if any(re.match(beginning, name) for name in shapes):
                raise ModelUnusable(f"the base model {path} is {kind}.")
    return SingleFile(path, shapes, metadata)


def read_base(base: str, revision: str | None, *, download: bool = True) -> SingleFile | None:
    """The header of the base model's file; None when it is no single file, or not on this machine (see `find_file`)."""
    if not is_single_file(base):
        return None
    path = find_file(base, revision, download=download)
    return read_single_file(path) if path else None


def check_parts(file: SingleFile, described: Mapping[str, nn.Module], *, own_vae: bool = True) -> None:
    """Compare names and shapes of the file's tensors with the `described` parts (on the meta device), without values.

    `own_vae`: the file's VAE is used. Raises ModelUnusable that names the file and what it lacks.
    """
    for part in MODEL_PARTS:
        if part == "vae" and not own_vae:
            continue
        tensors = {
            name: torch.empty(shape, device="meta")
            for name, shape in file.shapes.items()
            if name.startswith(_PREFIX[part])
        }
        if not tensors:
            remedy = "set model.vae" if part == "vae" else "take a complete checkpoint"
            raise ModelUnusable(f"the base model {file.path} has no {part}: {remedy}.")
        config: Any = described[part].config
        inputs = file.shapes.get(_FIRST_CONVOLUTION, ())
        if part == "unet" and len(inputs) == 4 and inputs[1] != config.in_channels:
            raise ModelUnusable(
                f"the base model {file.path} has {inputs[1]} input channels instead of {config.in_channels}: it is a "
                "model for inpainting or editing, not a base model."
            )
        try:
            converted = _mapping(part)(described[part], tensors)
        except (KeyError, IndexError, RuntimeError) as error:
            raise ModelUnusable(f"the {part} of the base model {file.path} is not SDXL's: {_short(error)}.") from error
        shapes = {portable_name(part, name): tuple(tensor.shape) for name, tensor in converted.items()}
        for name, weight in described[part].named_parameters():
            if (shape := shapes.get(portable_name(part, name))) != tuple(weight.shape):
                problem = f"has shape {shape} instead of {tuple(weight.shape)}" if shape else "is missing"
                raise ModelUnusable(
                    f"the {part} of the base model {file.path} is not SDXL's: {name} {problem}; for another size, "
                    "model.config names a folder with its configurations."
                )


def _mapping(part: str) -> Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """diffusers' mapping of Stability's names to its own: of the model and the file's tensors of `part`."""
    from diffusers.loaders import single_file_utils

    return {
        "unet": lambda model, tensors: single_file_utils.convert_ldm_unet_checkpoint(tensors, model.config),
        "vae": lambda model, tensors: single_file_utils.convert_ldm_vae_checkpoint(tensors, model.config),
        "text_encoder": lambda _model, tensors: single_file_utils.convert_ldm_clip_checkpoint(tensors),
        "text_encoder_2": lambda model, tensors: single_file_utils.convert_open_clip_checkpoint(
            model, tensors, prefix=_PREFIX["text_encoder_2"]
        ),
    }[part]


def load_part(file: SingleFile, part: str, config: Path, dtype: torch.dtype) -> Any:
    """The model `part` (one of MODEL_PARTS) of `file` by the configurations in the folder `config`, on the CPU.

    Call `check_parts` first: diffusers gives no readable error for a weight that the file lacks.
    """
    import diffusers
    import transformers
    from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm

    tensors, name = file.part(part), MODEL_PARTS[part]
    options: dict[str, Any] = {
        "config": str(config), "subfolder": part, "torch_dtype": dtype, "local_files_only": True
    }  # fmt: skip
    if part.startswith("text_encoder"):
        return create_diffusers_clip_model_from_ldm(getattr(transformers, name), tensors, **options)
    return getattr(diffusers, name).from_single_file(tensors, **options)


def clip_tokenizers() -> "tuple[CLIPTokenizer, CLIPTokenizer]":
    """SDXL's two tokenizers, made from the vocabulary of CLIP that open_clip ships; they differ in their padding."""
    import open_clip
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    path = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")
    merges = [(first, second) for first, second in (line.split() for line in lines[1 : 49152 - 256 - 2 + 1])]
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(first + second for first, second in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary: dict[str, int] = {word: number for number, word in enumerate(words)}

    def make(pad: str) -> CLIPTokenizer:
        options: dict[str, Any] = {"vocab": vocabulary, "merges": merges, "model_max_length": 77, "pad_token": pad}
        return CLIPTokenizer(**options)

    return make("<|endoftext|>"), make("!")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
