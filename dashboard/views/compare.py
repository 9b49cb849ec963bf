"""What figures and settings say of models beside each other."""

import base64
from collections.abc import Mapping, Sequence
from math import ceil

import streamlit as st

from dashboard import charts, model_comparison
from dashboard.component import component
from dashboard.queries import runs
from dashboard.queries.database import the_store
from dashboard.queries.thumbnails import thumbnail
from naruto_core.domain import Prompt, Variant
from naruto_core.judging.campaign_plan import contender

_POINTS = 400  # of a curve: more cannot be told apart


def show_changes(
    names: Sequence[str], rows: Sequence[model_comparison.Row], rulers: Sequence[Mapping[str, str]]
) -> None:
    """The first model against each other one, by the metrics of single pictures."""
    st.header("Scores")
    lines = [
        {
            "Metric": one.metric,
            names[0]: f"{one.first:.4g}",
            "against": name,
            "its value": f"{one.second:.4g}",
            "Difference (95 % interval)": _signed(one),
            "Which is": f"{one.verdict}",
            "n": f"{one.n} pictures, {one.difference.prompts} prompts",
            "Measured by": one.extractor,
        }
        for place, name in enumerate(names[1:], start=1)
        for one in model_comparison.changes(rows, place, rulers)
    ]
    if not lines:
        st.info("No metric was measured on both in the same way, so nothing can be said in figures.")
        return
    st.dataframe(lines, hide_index=True, alt="Differences of the metrics of single pictures")
    st.caption(
        "Paired over the same prompts and seeds, intervals over whole prompts, p adjusted by Holm. FID and the other "
        "metrics of whole sets: `naruto compare`."
    )


def _signed(one: model_comparison.Change) -> str:
    found = one.difference
    if found.low is None or found.high is None:
        return f"{found.value:+.4g} (no interval)"
    return f"{found.value:+.4g} ({found.low:+.4g} to {found.high:+.4g})"


def show_training(chosen: Sequence[tuple[str, Variant]]) -> None:
    """Losses of the runs over each other."""
    lines: list[charts.Row] = []
    for run_id in dict.fromkeys(run_id for run_id, _ in chosen):
        steps = the_store().steps(run_id)
        thin = steps[:: max(1, len(steps) // _POINTS)]
        lines += [{"run": run_id, "step": step.step, "loss": step.loss} for step in thin if step.loss == step.loss]
    if lines:
        with st.expander("How they were trained"):
            st.altair_chart(charts.curves(lines, "step", "loss"))


def show_recipes(chosen: Sequence[tuple[str, Variant]]) -> None:
    """Only what differs."""
    runs = list(dict.fromkeys(run_id for run_id, _ in chosen))
    with st.expander("How their recipes differ"):
        found = model_comparison.recipe_differences([the_store().recipe_json(run_id) for run_id in runs])
        if len(runs) < 2:
            st.text("It is one run, so there is one recipe.")
        elif not found:
            st.text("They do not differ: the same recipe.")
        else:
            lines = [{"Key": key} | dict(zip(runs, values, strict=True)) for key, values in found.items()]
            st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")


_COMPONENT = component("compare")
_ROWS = 6  # on one page
_EVERY, _SUITE = "all", "the order of the suite"
_LAYOUTS = {"side": "Side by side", "slider": "Slider over the first two", "flip": "Flip the first two in place"}
_EXPORTED = 60  # rows of pictures in one file, some 10 MB


def show() -> None:
    st.title("Compare")
    drawn = {contender(run_id, variant.value): (run_id, variant) for run_id, variant, _ in the_store().drawn()}
    if len(drawn) < 2:
        st.info("There is nothing to compare yet. Type `make demo` in a terminal and come back.")
        return
    names = _models(drawn)
    if len(names) < 2:
        st.info("Choose two to four models.")
        return
    chosen = [drawn[name] for name in names]
    prompts = _prompts(chosen)
    measured = [runs.sample_scores(run_id) for run_id, _ in chosen]
    all_rows = model_comparison.rows(
        [runs.samples_of(*one) for one in chosen], [found for found, _ in measured], prompts
    )
    rows = _filtered(all_rows)
    _pictures(names, rows)
    show_changes(names, rows, [rulers for _, rulers in measured])
    show_training(chosen)
    show_recipes(chosen)
    _exports(names, rows)


def _models(drawn: dict[str, tuple[str, Variant]]) -> list[str]:
    asked = [name for name in st.query_params.get_all("model") if name in drawn]
    newest = next(iter(drawn.values()))[0]
    usual = [name for name, (run_id, variant) in drawn.items() if run_id == newest and variant is not Variant.ADAPTED]
    names = st.multiselect("Models", list(drawn), (asked or usual)[:4], max_selections=4)
    st.query_params["model"] = names
    return names


def _prompts(chosen: list[tuple[str, Variant]]) -> list[Prompt]:
    suites = [runs.prompts(run_id) for run_id in dict.fromkeys(run_id for run_id, _ in chosen)]
    return list({prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}.values())


def _chosen(label: str, options: list[str], key: str) -> str:
    """A select box that reads and writes the page's address; what the address says wrongly is not taken."""
    asked = st.query_params.get(key, "")
    value = st.selectbox(label, options, options.index(asked) if asked in options else 0)
    if value != options[0]:
        st.query_params[key] = value
    else:
        st.query_params.pop(key, None)
    return value


def _filtered(rows: list[model_comparison.Row]) -> list[model_comparison.Row]:
    one, two, three = st.columns(3)
    with one:
        tag = _chosen("Tag", [_EVERY, *sorted({tag for row in rows for tag in row.prompt.tags})], "tag")
    with two:
        seed = _chosen("Seed", [_EVERY, *map(str, sorted({row.seed for row in rows}))], "seed")
    metrics = sorted({metric for row in rows for scores in row.scores for metric in scores})
    with three:
        order = _chosen("Order", [_SUITE, *(f"largest disagreement by {metric}" for metric in metrics)], "order")
    kept = [row for row in rows if tag in (_EVERY, *row.prompt.tags) and seed in (_EVERY, str(row.seed))]
    if order == _SUITE:
        return kept
    metric = order.rpartition(" ")[2]
    return sorted(kept, key=lambda row: -row.apart(metric))


def _pictures(names: list[str], rows: list[model_comparison.Row]) -> None:
    layout = _chosen("Layout", list(_LAYOUTS.values()), "layout")
    pages = max(1, ceil(len(rows) / _ROWS))
    asked = st.query_params.get("page", "1")
    first = int(asked) if asked.isascii() and asked.isdigit() and 1 <= int(asked) <= pages else 1
    page = st.pagination(pages, default=first) if pages > 1 else 1
    st.query_params["page"] = str(page)
    shown = rows[(page - 1) * _ROWS : page * _ROWS]
    word = next(key for key, label in _LAYOUTS.items() if label == layout)
    _COMPONENT(
        key="compare", data={"names": names, "layout": word, "rows": [_row(row) for row in shown]},
    )  # fmt: skip
    st.caption("Double-click a picture, pinch it, or hold Shift and scroll to look closer: all pictures move together.")


def _row(row: model_comparison.Row) -> dict[str, object]:
    return {
        "text": row.prompt.text,
        "about": f"seed {row.seed}; {', '.join(row.prompt.tags)}",
        "pictures": [sample.sha256 if sample else "" for sample in row.samples],
        "notes": [
            ", ".join(f"{metric} {value:.3f}" for metric, value in sorted(scores.items()) if metric != "blank")
            for scores in row.scores
        ],
    }


def _exports(names: list[str], rows: list[model_comparison.Row]) -> None:
    st.header("Take it along")
    one, two = st.columns(2)
    one.download_button("Table (CSV)", lambda: model_comparison.as_csv(names, rows), "comparison.csv", "text/csv")
    two.download_button(
        f"Page with pictures (HTML, the first {_EXPORTED} rows)" if len(rows) > _EXPORTED else "Page (HTML)",
        lambda: _page(names, rows[:_EXPORTED]), "comparison.html", "text/html",
    )  # fmt: skip


def _page(names: list[str], rows: list[model_comparison.Row]) -> str:
    pictures: dict[str, str] = {}
    for digest in {sample.sha256 for row in rows for sample in row.samples if sample}:
        path = thumbnail(digest, "512")
        if path:
            pictures[digest] = f"data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return model_comparison.as_html(names, rows, pictures)
