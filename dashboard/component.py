"""Parts of pages that run in the browser: plain JavaScript and CSS, without a build step."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

_FOLDER = Path(__file__).parent / "components"


def component(name: str) -> Callable[..., Any]:
    """The component of `NAME.css` and `NAME.js`, with `element.js` and `zoom.js`; it fills `<div class="NAME">`."""
    scripts = ("element.js", "zoom.js", f"{name}.js")
    return st.components.v2.component(
        f"naruto_{name}",
        html=f'<div class="{name}"></div>',
        css=(_FOLDER / f"{name}.css").read_text(encoding="utf-8"),
        js="\n".join((_FOLDER / script).read_text(encoding="utf-8") for script in scripts),
    )


_COMPARE = component("compare")
_ENTER = st.components.v2.component(
    "naruto_enter",
    html="<span></span>",
    js="export default ({ data }) => { fetch(new URL(data.path, document.baseURI), { redirect: 'manual' }); }",
)


@lru_cache(maxsize=1)
def page_style() -> str:
    """The style of all pages, as HTML: dense, figures of one width, links that look like links."""
    return f"<style>{(_FOLDER / 'pages.css').read_text(encoding='utf-8')}</style>"


def picture_rows(names: Sequence[str], rows: Sequence[dict[str, object]], layout: str = "side", size: int = 0) -> None:
    """Rows of pictures, one column for each of `names`, zoomed together.

    A row has the `text` of its prompt, a line `about` it, and for each column a sha256 in `pictures` ("" for none) and
    a text in `notes`. `layout` is "side", "slider" or "flip". `size` is the width of a picture in pixels, 0 for as wide
    as there is room.
    """
    _COMPARE(key="compare", data={"names": list(names), "layout": layout, "rows": list(rows), "size": size})


def keep_link(token: str) -> None:
    """Let the browser open a personal link in the background: the cookie is set, and the page stays."""
    _ENTER(key="enter", data={"path": f"enter/{token}"})
