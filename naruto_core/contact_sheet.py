"""The contact sheet: one block per prompt, with the prompt above and one picture per variant."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from naruto_core import picture_file
from naruto_core.artifacts import atomic_file

_CELL, _GAP, _MARGIN, _CAPTION, _HEAD = 128, 4, 14, 18, 34
_ACROSS = 4  # blocks per row
_INK, _FAINT, _PAPER = (32, 32, 36), (120, 120, 126), (250, 249, 246)


@dataclass(frozen=True, slots=True)
class SheetBlock:
    """A prompt and its pictures, one per variant; None leaves a cell empty."""

    caption: str
    pictures: tuple[Path | None, ...]


def write_sheet(blocks: Sequence[SheetBlock], variants: Sequence[str], path: Path) -> None:
    """Draw `blocks` and save the sheet as `path`, atomically. Small pictures are enlarged without smoothing."""
    across = min(_ACROSS, max(1, len(blocks)))
    wide, high = len(variants) * (_CELL + _GAP) - _GAP, _CAPTION + _CELL + _MARGIN
    down = -(-len(blocks) // across)
    sheet = Image.new("RGB", (_MARGIN + across * (wide + _MARGIN), _HEAD + down * high), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading_font, caption_font = ImageFont.load_default(15), ImageFont.load_default(12)
    for column in range(across):
        for index, name in enumerate(variants):
            position = (_MARGIN + column * (wide + _MARGIN) + index * (_CELL + _GAP), 9)
            draw.text(position, name, _FAINT, heading_font)
    for number, block in enumerate(blocks):
        left = _MARGIN + number % across * (wide + _MARGIN)
        top = _HEAD + number // across * high
        draw.text((left, top), _shortened(block.caption, wide, caption_font), _INK, caption_font)
        for index, picture in enumerate(block.pictures):
            if picture is not None:
                sheet.paste(_cell(picture), (left + index * (_CELL + _GAP), top + _CAPTION))
    with atomic_file(path) as scratch:
        sheet.save(scratch, format=picture_file.FORMAT, optimize=True)


def _cell(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        resampling = Image.Resampling.NEAREST if picture.width < _CELL else Image.Resampling.LANCZOS
        return picture.convert("RGB").resize((_CELL, _CELL), resampling)


def _shortened(caption: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption}…") > width:
        caption = caption[:-1]
    return f"{caption}…"
