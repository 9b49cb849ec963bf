"""The pretraining report: one self-contained page with the figures and the pictures behind them."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from naruto_core.artifacts import write_atomically

SHOWN = 48
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The miniature SDXL</title>
<style>body{{font:15px/1.5 system-ui;max-width:1100px;margin:2rem auto;padding:0 1rem}}
figure{{display:inline-block;width:150px;margin:6px;vertical-align:top;font-size:12px}}
img{{width:150px;image-rendering:pixelated}}pre{{background:#f4f4f4;padding:1rem}}</style>
<h1>The miniature SDXL</h1><p>Figures on held-out prompts, read by the attribute reader.</p>
<pre>{figures}</pre>{pictures}</html>"""


def to_image(picture: torch.Tensor) -> Image.Image:
    """(3, H, W) in -1..1 as an RGB picture."""
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def _figure(picture: torch.Tensor, text: str) -> str:
    buffer = io.BytesIO()
    to_image(picture).save(buffer, format="PNG")
    data, words = base64.b64encode(buffer.getvalue()).decode(), html.escape(text)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def write_report(workspace: Path, figures: Mapping[str, object], texts: Sequence[str], pictures: torch.Tensor) -> None:
    """Write `workspace`/report.html with the figures and the first pictures, prompts below them."""
    shown = "".join(_figure(p, t) for p, t in zip(pictures[:SHOWN], texts[:SHOWN], strict=True))
    page = _PAGE.format(figures=html.escape(json.dumps(dict(figures), indent=2)), pictures=shown)
    write_atomically(workspace / "report.html", page.encode())
