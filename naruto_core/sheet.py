"""The contact sheet: one row a prompt, one column a variant, the prompt above its row."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from naruto_core.artifacts import atomic_file

_CELL, _GAP, _CAPTION, _HEAD = 192, 8, 22, 30
_INK, _PAPER = (32, 32, 36), (250, 249, 246)


@dataclass(frozen=True, slots=True)
class SheetRow:
    """A caption and the pictures under it, column by column; None leaves a cell empty."""

    caption: str
    pictures: tuple[Path | None, ...]


def write_sheet(rows: Sequence[SheetRow], columns: Sequence[str], path: Path) -> None:
    """Draw `rows` under `columns` headings and save the PNG, atomically. Small pictures are enlarged unsmoothed."""
    width = _GAP + len(columns) * (_CELL + _GAP)
    height = _HEAD + len(rows) * (_CELL + _CAPTION + _GAP) + _GAP
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, text = ImageFont.load_default(17), ImageFont.load_default(13)
    for column, name in enumerate(columns):
        draw.text((_GAP + column * (_CELL + _GAP), 7), name, _INK, heading)
    for index, row in enumerate(rows):
        top = _HEAD + index * (_CELL + _CAPTION + _GAP)
        draw.text((_GAP, top + 2), _shortened(row.caption, width - 2 * _GAP, text), _INK, text)
        for column, picture in enumerate(row.pictures):
            if picture is not None:
                sheet.paste(_cell(picture), (_GAP + column * (_CELL + _GAP), top + _CAPTION))
    with atomic_file(path) as scratch:
        sheet.save(scratch, format="PNG")


def _cell(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        small = picture.width < _CELL
        resampling = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
        return picture.convert("RGB").resize((_CELL, _CELL), resampling)


def _shortened(caption: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption}…") > width:
        caption = caption[:-1]
    return f"{caption}…"
