"""The page Compare: pictures of models side by side, differences of scores, losses, recipes, export."""

import base64
from collections.abc import Mapping, Sequence
from math import ceil

import streamlit as st

from dashboard import charts, model_comparison
from dashboard.component import picture_rows
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from dashboard.views.run import curve
from naruto_core.domain import Prompt, Variant
from naruto_core.judging.campaign_plan import contender

_ROWS = 6  # on one page
_ALL, _SUITE_ORDER = "all", "the order of the suite"
_LAYOUTS = {"side": "Side by side", "slider": "Slider over the first two", "flip": "Flip the first two in place"}
_EXPORTED = 60  # rows of pictures in one HTML file, about 10 MB


def show() -> None:
    st.title("Compare")
    counts = database().runs.sample_counts()
    models = {contender(run_id, variant.value): (run_id, variant) for run_id, variant, _ in counts}
    if len(models) < 2:
        st.info("There is nothing to compare yet. Type `make demo` in a terminal, then reload this page.")
        return
    names = _select_models(models)
    if len(names) < 2:
        st.info("Choose two to four models.")
        return
    chosen = [models[name] for name in names]
    scores = [runs.sample_scores(run_id) for run_id, _ in chosen]
    all_rows = model_comparison.pair_rows(
        [runs.samples_of(run_id, variant) for run_id, variant in chosen],
        [by_sample for by_sample, _ in scores],
        _prompts(chosen),
    )
    rows = _filter(all_rows)
    _pictures(names, rows)
    _metrics(names, rows, [measurements for _, measurements in scores])
    _training(chosen)
    _recipes(chosen)
    _exports(names, rows)


def _select_models(models: dict[str, tuple[str, Variant]]) -> list[str]:
    in_address = [name for name in st.query_params.get_all("model") if name in models]
    newest = next(iter(models.values()))[0]
    of_newest = {variant: name for name, (run, variant) in models.items() if run == newest}
    default = [of_newest[variant] for variant in Variant if variant in of_newest][:2]
    names = st.multiselect("Models", list(models), (in_address or default)[:4], max_selections=4)
    st.query_params["model"] = names
    return names


def _prompts(chosen: list[tuple[str, Variant]]) -> list[Prompt]:
    suites = [runs.prompts(run_id) for run_id in dict.fromkeys(run_id for run_id, _ in chosen)]
    return list({prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}.values())


def _select_in_address(label: str, options: list[str], key: str) -> str:
    """A select box that is stored in the page's address; an invalid value in the address is ignored."""
    in_address = st.query_params.get(key, "")
    value = st.selectbox(label, options, options.index(in_address) if in_address in options else 0)
    if value != options[0]:
        st.query_params[key] = value
    else:
        st.query_params.pop(key, None)
    return value


def _filter(rows: list[model_comparison.Row]) -> list[model_comparison.Row]:
    left, middle, right = st.columns(3)
    with left:
        tag = _select_in_address("Tag", [_ALL, *sorted({tag for row in rows for tag in row.prompt.tags})], "tag")
    with middle:
        seed = _select_in_address("Seed", [_ALL, *map(str, sorted({row.seed for row in rows}))], "seed")
    metrics = sorted({metric for row in rows for scores in row.scores for metric in scores})
    with right:
        order = _select_in_address(
            "Order", [_SUITE_ORDER, *(f"largest disagreement by {metric}" for metric in metrics)], "order"
        )
    matching = [row for row in rows if tag in (_ALL, *row.prompt.tags) and seed in (_ALL, str(row.seed))]
    if order == _SUITE_ORDER:
        return matching
    metric = order.rpartition(" ")[2]
    return sorted(matching, key=lambda row: -row.disagreement(metric))


def _pictures(names: list[str], rows: list[model_comparison.Row]) -> None:
    layout = _select_in_address("Layout", list(_LAYOUTS.values()), "layout")
    pages = max(1, ceil(len(rows) / _ROWS))
    text = st.query_params.get("page", "1")
    first = int(text) if text.isascii() and text.isdigit() and 1 <= int(text) <= pages else 1
    page = st.pagination(pages, default=first) if pages > 1 else 1
    st.query_params["page"] = str(page)
    on_page = [_row(row) for row in rows[(page - 1) * _ROWS : page * _ROWS]]
    layout_key = next(key for key, label in _LAYOUTS.items() if label == layout)
    picture_rows(names, on_page, layout_key)
    st.caption("To zoom, double-click a picture, pinch it, or hold Shift and scroll. All pictures zoom together.")


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


def _metrics(
    names: Sequence[str], rows: Sequence[model_comparison.Row], measurements: Sequence[Mapping[str, str]]
) -> None:
    st.header("Scores")
    lines = [
        {
            "Metric": comparison.metric,
            names[0]: f"{comparison.first:.4g}",
            "Compared with": name,
            "Its value": f"{comparison.second:.4g}",
            "Difference (95 % interval)": _difference(comparison),
            "Verdict": f"{comparison.verdict}",
            "n": f"{comparison.n} pictures, {comparison.difference.prompts} prompts",
            "Measured by": comparison.extractor,
        }
        for index, name in enumerate(names[1:], start=1)
        for comparison in model_comparison.compare_metrics(rows, index, measurements)
    ]
    if not lines:
        st.info("No metric was measured in the same way on both models, so there are no differences to show.")
        return
    st.dataframe(lines, hide_index=True, alt="Differences of the metrics of single pictures")
    st.caption(
        "Paired over the same prompts and seeds; intervals over whole prompts; p adjusted by Holm. For "
        "distances and other set metrics, use `naruto compare`."
    )


def _difference(comparison: model_comparison.MetricComparison) -> str:
    difference = comparison.difference
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4g} (no interval)"
    return f"{difference.value:+.4g} ({difference.low:+.4g} to {difference.high:+.4g})"


def _training(chosen: Sequence[tuple[str, Variant]]) -> None:
    lines: list[charts.Row] = []
    for run_id in dict.fromkeys(run_id for run_id, _ in chosen):
        lines += curve(run_id, database().runs.steps(run_id))
    if lines:
        with st.expander("Training loss"):
            st.altair_chart(charts.line_plot(lines, "step", "loss"))


def _recipes(chosen: Sequence[tuple[str, Variant]]) -> None:
    run_ids = list(dict.fromkeys(run_id for run_id, _ in chosen))
    with st.expander("Differences of the recipes"):
        differences = model_comparison.recipe_differences([database().runs.recipe_json(run_id) for run_id in run_ids])
        if len(run_ids) < 2:
            st.text("All chosen models are of one run, so there is one recipe.")
        elif not differences:
            st.text("The recipes are equal.")
        else:
            lines = [{"Key": key} | dict(zip(run_ids, values, strict=True)) for key, values in differences.items()]
            st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")


def _exports(names: list[str], rows: list[model_comparison.Row]) -> None:
    st.header("Export")
    left, right = st.columns(2)
    left.download_button("Table (CSV)", lambda: model_comparison.as_csv(names, rows), "comparison.csv", "text/csv")
    right.download_button(
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
