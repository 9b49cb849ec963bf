"""The part XYZ of the page Compare: one prompt and seed, drawn by runs that differ in two keys of their recipes."""

import json
from collections.abc import Mapping

import streamlit as st

from dashboard.component import picture_rows
from dashboard.navigation import short_name
from dashboard.queries import runs
from naruto_core.domain import Prompt, Sample
from naruto_core.report.key_grid import KeyGrid, key_grids
from naruto_core.sweep import value_text

_MOST = 8  # columns, and rows, on one page
_SIZES = {2: 320, 3: 288, 4: 224}  # pixels of a picture by the number of columns


def show() -> None:
    """Choose two keys, a prompt and a seed; then the pictures, zoomed together."""
    pairs = runs.key_pairs()
    if not pairs:
        st.info(
            "No runs differ in exactly two keys of their recipes, each with two values or more. Type "
            "`naruto sweep FILE` with a grid of two keys, or `naruto run --set KEY=VALUE` for each pair of values; "
            "then reload this page."
        )
        return
    first, second = st.columns([3, 2])
    pair = first.selectbox("Two keys (columns, rows)", list(pairs), key="key_pair", bind="query-params",
                           format_func=", ".join, help="Those of most runs come first.")  # fmt: skip
    swapped = second.toggle("Swap columns and rows", key="keys_swapped", bind="query-params")
    x, y = pair[::-1] if swapped else pair
    grids = key_grids(runs.recorded_recipes(), x, y)
    grid = grids[0]
    if len(grids) > 1:
        grid = st.selectbox("Runs", grids, format_func=_others, key="key_grid", bind="query-params")
    _grid(grid)


def _others(grid: KeyGrid) -> str:
    """What tells a grid from the others: the values that all of its runs have."""
    shown = ", ".join(f"{key}={_value(value)}" for key, value in list(grid.others.items())[:4])
    return f"{shown or 'all other keys equal'} ({grid.n_runs} runs)"


def _value(text: str) -> str:
    """A value of a recipe for people."""
    try:
        return value_text(json.loads(text)) if text else "not set"
    except ValueError:  # the id of a dataset version is no JSON
        return text[:12]


def _grid(grid: KeyGrid) -> None:
    run_ids = [run_id for row in grid.runs for run_id in row if run_id]
    prompts = _prompts(run_ids)
    drawn = {run_id: {(s.prompt, s.seed): s for s in _samples(run_id)} for run_id in run_ids}
    seeds = sorted({seed for places in drawn.values() for _, seed in places})
    if not prompts or not seeds:
        st.info("None of these runs has pictures yet.")
        return
    first, second, third = st.columns([5, 1, 2])
    slug = first.selectbox("Prompt", list(prompts), format_func=lambda slug: prompts[slug].text, key="prompt_of_grid",
                           bind="query-params")  # fmt: skip
    seed = second.selectbox("Seed", seeds, key="seed_of_grid", bind="query-params")
    columns, rows = grid.columns[:_MOST], grid.rows[:_MOST]
    size = third.slider("Size of a picture (pixels)", 96, 512, _SIZES.get(len(columns), 160), 32, key="size_of_grid",
                        bind="query-params")  # fmt: skip
    names = [f"{grid.x} = {_value(column)}" for column in columns]
    shown = [_row(grid, index, len(columns), drawn, (slug, seed)) for index in range(len(rows))]
    picture_rows(names, shown, "side", size)
    gaps = len(columns) * len(rows) - sum(bool(digest) for row in shown for digest in row["pictures"])  # type: ignore[union-attr]
    about = "Everything but the two keys is equal: the dataset, and all other keys of the recipes."
    notes = [about, "The models and words chosen above do not apply here."]
    if gaps:
        notes.append(f"{gaps} of {len(columns) * len(rows)} places have no picture: no run has these two values, or it "
                     "has not drawn this prompt and seed.")  # fmt: skip
    if len(grid.columns) > _MOST or len(grid.rows) > _MOST:
        notes.append(f"Of {len(grid.columns)} columns and {len(grid.rows)} rows, the first {_MOST} are shown.")
    st.caption(" ".join(notes))


def _prompts(run_ids: list[str]) -> Mapping[str, Prompt]:
    suites = [runs.prompts(run_id) for run_id in run_ids]
    return {prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}


def _samples(run_id: str) -> list[Sample]:
    return runs.samples_of(run_id, runs.trained_variant(run_id))


def _row(
    grid: KeyGrid, index: int, n_columns: int, drawn: Mapping[str, Mapping[tuple[str, int], Sample]],
    place: tuple[str, int],
) -> dict[str, object]:  # fmt: skip
    run_ids = grid.runs[index][:n_columns]
    samples = [drawn[run_id].get(place) if run_id else None for run_id in run_ids]
    return {
        "text": f"{grid.y} = {_value(grid.rows[index])}",
        "about": "",
        "pictures": [sample.sha256 if sample else "" for sample in samples],
        "notes": [short_name(run_id) if run_id else "" for run_id in run_ids],
    }
