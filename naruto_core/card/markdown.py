"""Somebody's words inside Markdown: they stay words, whatever they hold."""

import re
from collections.abc import Iterable, Sequence

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_MARKUP = re.compile(r"[\\`*_\[\]|~$&<>]")


def escape(text: str) -> str:
    """`text` in one line, shown letter by letter by any Markdown renderer.

    It must not begin a line: what is markup only there (`# `, `---`, `1.`) is left as it is.
    """
    return _MARKUP.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
