"""Captioned sets of real drawings, made of the pictures of a free game: `python -m tests.benchmarks.drawn_sets`.

The pictures of The Battle for Wesnoth (GPL) are in Debian's package `wesnoth-1.16-data`, below
/usr/share/games/wesnoth. Two sets are made of them: painted portraits, and the small figures that walk over the map.
Nothing of the miniature was trained on either. A caption says what a file is called.
"""

import json
import re
import sys
from pathlib import Path

from PIL import Image

# Frames of an animation are called like the figure, with a part behind it: only the standing figure is taken.
_FRAME = re.compile(
    r"-(attack|defend|die|death|bob|idle|se?|ne?|sw|nw|melee|ranged|run|move|stand|anim|bow|hit|shadow|upstroke)|\d$|fly"
)
_KINDS = {"portraits": "a painted portrait of", "figures": "a small game figure of"}


def _words(path: Path) -> str:
    """What a file shows, by its name and its folder: "elves/archer.png" gives "archer, elves"."""
    names = [path.stem] if path.parent.name == "portraits" else [path.stem, path.parent.name]
    return ", ".join(name.replace("-", " ").replace("+", " ") for name in names)


def files(data: Path, kind: str) -> list[Path]:
    """The pictures of one kind below the game's `data` folder, sorted."""
    if kind == "portraits":
        return sorted(p for p in data.rglob("portraits/**/*") if p.suffix in {".png", ".webp", ".jpg"})
    return sorted(p for p in (data / "core/images/units").rglob("*.png") if not _FRAME.search(p.stem))


def make_set(data: Path, kind: str, folder: Path) -> int:
    """Write pictures and metadata.jsonl of one kind as `folder`, and return how many there are."""
    folder.mkdir(parents=True)
    lines: list[str] = []
    for index, path in enumerate(files(data, kind)):
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
        paper = Image.new("RGBA", picture.size, "white")
        paper.alpha_composite(picture)
        name = f"{index:04d}.png"
        if kind == "figures":  # squares of 72 pixels: as large as they are shown
            paper = paper.resize((2 * paper.width, 2 * paper.height), Image.Resampling.NEAREST)
        paper.convert("RGB").save(folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"{_KINDS[kind]} {_words(path)}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def main() -> None:
    """Arguments: the game's `data` folder, and the folder to write."""
    data, target = Path(sys.argv[1]), Path(sys.argv[2])
    for kind in _KINDS:
        print(f"{target / kind}: {make_set(data, kind, target / kind)} pictures")


if __name__ == "__main__":
    main()
