"""The pictures of a run: a row for each prompt, with the models that drew it side by side. A part of the page Run."""

from collections.abc import Mapping
from math import ceil

import streamlit as st

from dashboard.component import picture_rows
from dashboard.queries import runs
from naruto_core.domain import Prompt, Sample, Variant

_ALL_TAGS = "all"
_ROWS = 12  # prompts on one page

Place = tuple[str, Variant]


def show() -> None:
    st.title("Pictures")
    run_ids = [summary.run.id for summary in runs.runs()]
    if not run_ids:
        st.info("There are no pictures yet. Type `make demo` in a terminal, wait some minutes, then reload this page.")
        return
    in_address = st.query_params.get("run", "")
    show_run(st.selectbox("Run", run_ids, run_ids.index(in_address) if in_address in run_ids else 0, key="run"))


def show_run(run_id: str) -> None:
    """The pictures of a run, to be searched by tag, seed and words."""
    samples = runs.samples(run_id)
    suite = runs.prompts(run_id)
    if not samples or suite is None:
        st.info("This run has no pictures yet. `naruto runs` shows its progress.")
        return
    slugs = {sample.prompt for sample in samples}
    prompts = [prompt for prompt in suite.prompts if prompt.slug in slugs]
    left, right = st.columns(2)
    tags = sorted({tag for prompt in prompts for tag in prompt.tags})
    tag = left.selectbox("Tag", [_ALL_TAGS, *tags], key="tag", bind="query-params")
    seeds = sorted({sample.seed for sample in samples})
    seed = right.selectbox("Seed", seeds, key="seed", bind="query-params")
    typed = st.text_input("Words in the prompt", key="words", max_chars=200, bind="query-params")
    words = typed.lower().split()
    shown = [
        prompt
        for prompt in prompts
        if tag in (_ALL_TAGS, *prompt.tags) and all(word in prompt.text.lower() for word in words)
    ]
    if not shown:
        st.info("No prompt matches. Clear the words or the tag above.")
        return
    by_place = {(sample.prompt, sample.variant): sample for sample in samples if sample.seed == seed}
    variants = [variant for variant in Variant if any(place[1] is variant for place in by_place)]
    picture_rows([variant.value for variant in variants], [_row(p, variants, by_place) for p in _page(shown)])
    st.caption("To zoom, double-click a picture, pinch it, or hold Shift and scroll. All pictures zoom together.")


def _page(prompts: list[Prompt]) -> list[Prompt]:
    if len(prompts) <= _ROWS:
        return prompts
    number = st.pagination(ceil(len(prompts) / _ROWS), key="page", bind="query-params")
    return prompts[(number - 1) * _ROWS : number * _ROWS]


def _row(prompt: Prompt, variants: list[Variant], samples: Mapping[Place, Sample]) -> dict[str, object]:
    drawn = [samples.get((prompt.slug, variant)) for variant in variants]
    return {
        "text": prompt.text,
        "about": ", ".join(prompt.tags),
        "pictures": [sample.sha256 if sample else "" for sample in drawn],
        "notes": ["" if sample else "not drawn yet" for sample in drawn],
    }
