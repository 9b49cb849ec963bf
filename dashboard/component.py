"""Parts of pages that run in the browser: plain JavaScript and CSS, without a build step."""

from collections.abc import Callable
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
