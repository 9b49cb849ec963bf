"""The page Pictures: a row for each prompt of a run, with the models that drew it side by side.

Prompts are untrusted text: they are shown as plain text, never as Markdown.
"""

from collections.abc import Iterable, Mapping
from math import ceil

import streamlit as st

from dashboard.queries import runs
from naruto_core.domain import Prompt, Sample, Variant

_ALL_TAGS = "all"
_ROWS = 12  # prompts on one page: at 1024 pixels that is 36 pictures of 1.5 MB

Place = tuple[str, Variant]


def show() -> None:
    st.title("Pictures")
    run_ids = [summary.run.id for summary in runs.runs()]
    if not run_ids:
        st.info("There are no pictures yet. Type `make demo` in a terminal, wait some minutes, then reload this page.")
        return
    run_id = st.selectbox("Run", run_ids, key="run")
    samples = runs.samples(run_id)
    suite = runs.prompts(run_id)
    if not samples or suite is None:
        st.info("This run has no pictures yet. `naruto runs` shows its progress.")
        return
    slugs = {sample.prompt for sample in samples}
    prompts = [prompt for prompt in suite.prompts if prompt.slug in slugs]
    left, right = st.columns(2)
    tags = sorted({tag for prompt in prompts for tag in prompt.tags})
    tag = left.selectbox("Tag", [_ALL_TAGS, *tags], key="tag")
    seed = right.selectbox("Seed", sorted({sample.seed for sample in samples}), key="seed")
    tagged = [prompt for prompt in prompts if tag in (_ALL_TAGS, *prompt.tags)]
    _rows(_page(tagged), {(sample.prompt, sample.variant): sample for sample in samples if sample.seed == seed})


def _page(prompts: list[Prompt]) -> list[Prompt]:
    if len(prompts) <= _ROWS:
        return prompts
    number = st.pagination(ceil(len(prompts) / _ROWS), key="page")
    return prompts[(number - 1) * _ROWS : number * _ROWS]


def _rows(prompts: Iterable[Prompt], samples: Mapping[Place, Sample]) -> None:
    variants = [variant for variant in Variant if any(place[1] is variant for place in samples)]
    for prompt in prompts:
        st.text(prompt.text)
        for column, variant in zip(st.columns(len(variants)), variants, strict=True):
            with column:
                _cell(prompt, variant, samples.get((prompt.slug, variant)))


def _cell(prompt: Prompt, variant: Variant, sample: Sample | None) -> None:
    data = runs.picture(sample) if sample else None
    if data is not None:
        st.image(data, caption=variant.value, width="stretch", alt=f"{prompt.text} ({variant.value})")
    elif sample is None:
        st.caption(f"{variant.value}: not drawn yet")
    else:
        st.warning(f"{variant.value}: the picture is missing or was changed. `naruto verify` lists all such files.")
