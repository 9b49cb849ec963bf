"""The miniature as package data: half-precision weights, a manifest of their origin, and the report page."""

import base64
import hashlib
import html
import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from PIL import Image

from naruto_core.artifacts import atomic_folder, sha256_file, write_atomically
from naruto_core.git_info import code_commit
from naruto_core.mini.attribute_reader import ReaderConfig, save_reader
from naruto_core.mini.pretraining import stages
from naruto_core.mini.pretraining.attribute_classifier import ATTRIBUTES
from naruto_core.mini.pretraining.drawing import SIZE, draw
from naruto_core.mini.pretraining.world import STYLES, sample_scene
from naruto_core.model_folder import make_portable

SHOWN = 48
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The miniature SDXL</title>
<style>body{{font:15px/1.5 system-ui;max-width:1180px;margin:2rem auto;padding:0 1rem}}
figure{{display:inline-block;width:256px;margin:6px;vertical-align:top;font-size:12px}}
img{{width:256px}}pre{{background:#f4f4f4;padding:1rem}}</style>
<h1>The miniature SDXL</h1><p>Accuracy on held-out prompts, by the attribute classifier.</p>
<pre>{figures}</pre>{pictures}</html>"""


def to_image(picture: torch.Tensor) -> Image.Image:
    """A picture (3, H, W) in -1..1 as an RGB image."""
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def _figure(picture: torch.Tensor, text: str) -> str:
    buffer = io.BytesIO()
    to_image(picture).save(buffer, format="PNG")
    data, words = base64.b64encode(buffer.getvalue()).decode(), html.escape(text)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def write_report(workspace: Path, figures: Mapping[str, object], texts: Sequence[str], pictures: torch.Tensor) -> None:
    """Write `workspace`/report.html with the figures, and the first pictures with their prompts."""
    shown = "".join(_figure(p, t) for p, t in zip(pictures[:SHOWN], texts[:SHOWN], strict=True))
    page = _PAGE.format(figures=html.escape(json.dumps(dict(figures), indent=2)), pictures=shown)
    write_atomically(workspace / "report.html", page.encode())


WEIGHTS = Path(__file__).parents[1] / "weights"


def megabytes(folder: Path) -> float:
    """Size of all files below `folder`, in MB (10^6 bytes)."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / 1e6


def write_models(workspace: Path, folder: Path) -> None:
    """Write the half-precision base and the judge below `folder`, as they are shipped."""
    stages.assemble(workspace).to(torch.float16).save_pretrained(folder / "base", safe_serialization=True)
    make_portable(folder / "base")
    _clean_configs(folder / "base")
    judge = folder / "judge"
    judge.mkdir()
    for file in (workspace / "judge").iterdir():
        (judge / file.name).write_bytes(file.read_bytes())


def shipped_megabytes(workspace: Path) -> float:
    """Size of base and judge together as they will be shipped, in MB."""
    with tempfile.TemporaryDirectory(dir=workspace) as scratch:
        write_models(workspace, Path(scratch))
        return round(megabytes(Path(scratch)), 2)


def ship(workspace: Path, plan: stages.PretrainPlan, folder: Path) -> None:
    """Write base, judge, attribute reader, report and manifest as `folder`, replacing an older folder."""
    with atomic_folder(folder) as scratch:
        write_models(workspace, scratch)
        save_reader(stages.load_attribute_classifier(workspace), ReaderConfig(SIZE, ATTRIBUTES), scratch / "reader")
        (scratch / "report.json").write_bytes((workspace / "report.json").read_bytes())
        manifest = {
            "made_by": "make mini-base",
            "flow": "flows/pretrain_mini.py",
            "commit": code_commit(),
            "plan": plan.model_dump(),
            "world": world_digest(),
            "torch": torch.__version__.partition("+")[0],
            "files": {p.relative_to(scratch).as_posix(): sha256_file(p) for p in _files(scratch)},
        }
        write_atomically(scratch / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def _clean_configs(base: Path) -> None:
    """Remove this machine's folders from the configs, and make text encoders load in float32.

    Weights are stored in half precision; transformers loads the config's dtype, diffusers float32
    by default, and a plain `from_pretrained` must not mix the two.
    """
    for path in base.rglob("config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        if "dtype" in config:
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def world_digest() -> str:
    """A digest of drawings in 16 hex digits; it changes when the world is drawn differently."""
    rng, digest = Random(0), hashlib.sha256()
    for style in STYLES:
        digest.update(draw(sample_scene(rng, style), rng).tobytes())
    return digest.hexdigest()[:16]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
