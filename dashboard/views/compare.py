"""The page Compare: what differs between models: recipes, metrics with verdicts, training, and their pictures."""

import base64
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from math import ceil
from typing import Any

import streamlit as st

from dashboard import charts, model_comparison
from dashboard.component import picture_rows
from dashboard.naruto_command import in_background, run_naruto
from dashboard.navigation import short_name
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from dashboard.views import key_grid
from dashboard.views.run_training import curve
from naruto_core.artifacts import sha256_bytes
from naruto_core.domain import Prompt, Variant
from naruto_core.errors import NarutoError
from naruto_core.report.recipe_changes import recipe_differences
from naruto_core.settings import read_settings

MOST = 12  # models
_LARGE_PICTURES, _SMALL_PICTURES = 24, 48  # on one page, about; a row has one for each model
_SIZES = {2: 384, 3: 288, 4: 256}  # pixels of a picture at first, by the number of models: a row fits a laptop's screen
_SMALL = 5  # models and more are shown in small pictures
_ALL, _SUITE_ORDER = "all", "the order of the suite"
_LAYOUTS = {"side": "Side by side", "slider": "Slider over the first two", "flip": "Flip the first two in place"}
_EXPORTED = 60  # rows of pictures in one HTML file, about 10 MB
_PARTS = ("Pictures", "Verdicts", "Recipes", "Training", "XYZ", "Export")
_DIFFERENCES = 6  # keys of the recipes that stand in a sentence

Model = tuple[str, Variant]


def show() -> None:
    st.title("Compare")
    models = runs.models()
    if len(models) < 2:
        st.info("There is nothing to compare yet. Type `make demo` in a terminal, then reload this page.")
        return
    names = _select_models(models)
    if len(names) < 2:
        st.info(f"Choose two to {MOST} models.")
        return
    chosen = [models[name] for name in names]
    scores = [runs.sample_scores(run_id) for run_id, _ in chosen]
    all_rows = model_comparison.pair_rows(
        [runs.samples_of(run_id, variant) for run_id, variant in chosen],
        [by_sample for by_sample, _ in scores],
        _prompts(chosen),
    )
    st.text(_changes(chosen))
    rows = _filter(all_rows)
    pictures, verdicts, recipes, training, xyz, export = st.tabs(
        _PARTS, on_change="rerun", key="part", bind="query-params"
    )
    if pictures.open:
        with pictures:
            _pictures(names, rows)
    if verdicts.open:
        with verdicts:
            _verdicts(names, chosen, rows, [measurements for _, measurements in scores])
    if recipes.open:
        with recipes:
            _recipes(chosen)
    if training.open:
        with training:
            _training(chosen)
    if xyz.open:
        with xyz:
            key_grid.show()
    if export.open:
        with export:
            _exports(names, rows)


def _select_models(models: Mapping[str, tuple[str, Variant]]) -> list[str]:
    in_address = [name for name in st.query_params.get_all("model") if name in models]
    names = st.multiselect(
        "Models: the others are compared with the first", list(models), (in_address or _default(models))[:MOST],
        max_selections=MOST, format_func=short_name,
    )  # fmt: skip
    st.query_params["model"] = names
    return names


def _default(models: Mapping[str, tuple[str, Variant]]) -> list[str]:
    """The trained models of the newest runs; base and trained model where there is one run only."""
    trained: dict[str, str] = {}
    for name, (run_id, variant) in models.items():
        if variant is Variant.ADAPTED or (variant is Variant.FUSED and run_id not in trained):
            trained[run_id] = name
        if len(trained) > MOST:
            break
    if len(trained) > 1:
        return list(trained.values())[:MOST]
    newest = next(iter(models.values()))[0]
    of_newest = {variant: name for name, (run, variant) in models.items() if run == newest}
    return [of_newest[variant] for variant in Variant if variant in of_newest][:2]


def _prompts(chosen: list[tuple[str, Variant]]) -> list[Prompt]:
    suites = [runs.prompts(run_id) for run_id in dict.fromkeys(run_id for run_id, _ in chosen)]
    return list({prompt.slug: prompt for suite in suites if suite for prompt in suite.prompts}.values())


def _changes(chosen: Sequence[tuple[str, Variant]]) -> str:
    """What changed between the recipes, in a sentence."""
    run_ids = list(dict.fromkeys(run_id for run_id, _ in chosen))
    if len(run_ids) < 2:
        return "All chosen models are of one run, so there is one recipe."
    differences = recipe_differences([database().runs.recipe_json(run_id) for run_id in run_ids])
    if not differences:
        return "The recipes are equal."
    shown = [f"{key} {' → '.join(dict.fromkeys(v or '–' for v in values))}" for key, values in differences.items()]
    more = f"; and {len(shown) - _DIFFERENCES} more keys" if len(shown) > _DIFFERENCES else ""
    return f"Changed in the recipe: {'; '.join(shown[:_DIFFERENCES])}{more}."


def _recipes(chosen: Sequence[tuple[str, Variant]]) -> None:
    """Every key in which the recipes differ, with the value in each."""
    run_ids = list(dict.fromkeys(run_id for run_id, _ in chosen))
    differences = recipe_differences([database().runs.recipe_json(run_id) for run_id in run_ids])
    if not differences:
        st.text(_changes(chosen))
        return
    lines = [{"Key": key} | dict(zip(run_ids, values, strict=True)) for key, values in differences.items()]
    st.dataframe(lines, hide_index=True, alt="Keys in which the recipes differ")


def _filter(rows: list[model_comparison.Row]) -> list[model_comparison.Row]:
    first, second, third, fourth = st.columns([3, 2, 1, 3])
    words = first.text_input("Words in the prompt", key="words", max_chars=200, bind="query-params")
    tags = [_ALL, *sorted({tag for row in rows for tag in row.prompt.tags})]
    tag = second.selectbox("Tag", tags, key="tag", bind="query-params")
    seeds = [_ALL, *map(str, sorted({row.seed for row in rows}))]
    seed = third.selectbox("Seed", seeds, key="seed", bind="query-params")
    metrics = sorted({metric for row in rows for scores in row.scores for metric in scores})
    orders = [_SUITE_ORDER, *(f"largest disagreement by {metric}" for metric in metrics)]
    order = fourth.selectbox("Order", orders, key="order", bind="query-params")
    parts = words.lower().split()
    matching = [
        row
        for row in rows
        if tag in (_ALL, *row.prompt.tags)
        and seed in (_ALL, str(row.seed))
        and all(part in row.prompt.text.lower() for part in parts)
    ]
    if order == _SUITE_ORDER:
        return matching
    metric = order.rpartition(" ")[2]
    return sorted(matching, key=lambda row: -row.disagreement(metric))


def _pictures(names: list[str], rows: list[model_comparison.Row]) -> None:
    left, right = st.columns([3, 2])
    layout = left.selectbox("Layout", list(_LAYOUTS.values()), key="layout", bind="query-params")
    size = right.slider("Size of a picture (pixels)", 96, 768, _SIZES.get(len(names), 160), 32, key="size",
                        bind="query-params")  # fmt: skip
    if not rows:
        st.info("No prompt matches. Clear the words, the tag or the seed above.")
        return
    on_page = max(2, (_SMALL_PICTURES if len(names) >= _SMALL else _LARGE_PICTURES) // len(names))
    pages = max(1, ceil(len(rows) / on_page))
    page = st.pagination(pages, key="page", bind="query-params") if pages > 1 else 1
    shown = [_row(row, notes=len(names) < _SMALL) for row in rows[(page - 1) * on_page : page * on_page]]
    layout_key = next(key for key, label in _LAYOUTS.items() if label == layout)
    picture_rows([short_name(name) for name in names], shown, layout_key, size=size)
    st.caption("To zoom, double-click a picture, pinch it, or hold Shift and scroll. All pictures zoom together.")


def _row(row: model_comparison.Row, *, notes: bool) -> dict[str, object]:
    return {
        "text": row.prompt.text,
        "about": f"seed {row.seed}; {', '.join(row.prompt.tags)}",
        "pictures": [sample.sha256 if sample else "" for sample in row.samples],
        "notes": [
            ", ".join(f"{metric} {value:.3f}" for metric, value in sorted(scores.items()) if metric != "blank")
            if notes
            else ""
            for scores in row.scores
        ],
    }


def _verdicts(
    names: Sequence[str], chosen: Sequence[tuple[str, Variant]], rows: Sequence[model_comparison.Row],
    measurements: Sequence[Mapping[str, str]],
) -> None:  # fmt: skip
    """One line a metric and model: metrics of single pictures now, all metrics when they are computed."""
    if len({sample.sha256 for row in rows for sample in row.samples if sample}) < len(names):
        st.info("The models have too few pictures to compare.")
        return
    everything = st.toggle("Distances between sets too: computed in the background and kept", key="all_metrics")
    if everything:
        _all_metrics(tuple(names), tuple(chosen))
        return
    lines = [
        {
            "Metric": comparison.metric,
            "Model": short_name(name),
            "Verdict": f"{comparison.verdict}",
            "Difference (95 % interval)": _difference(comparison),
            "First": comparison.first,
            "This": comparison.second,
            "n": f"{comparison.n} pictures, {comparison.difference.prompts} prompts",
            "Measured by": comparison.extractor,
        }
        for index, name in enumerate(names[1:], start=1)
        for comparison in model_comparison.compare_metrics(rows, index, measurements)
    ]
    if not lines:
        st.info("No metric was measured in the same way on both models, so there are no differences to show.")
        return
    _table(lines, names[0])
    st.caption(
        "Paired over the same prompts and seeds, of the pictures chosen above; intervals over whole prompts; p "
        "adjusted by Holm."
    )


def _table(lines: Sequence[dict[str, Any]], first: str) -> None:
    number = st.column_config.NumberColumn
    st.dataframe(
        lines, hide_index=True, alt="Differences of the metrics",
        column_config={"First": number(short_name(first), format="%.4g"), "This": number("Its value", format="%.4g")},
    )  # fmt: skip


@st.fragment(run_every=2)
def _all_metrics(names: tuple[str, ...], chosen: tuple[tuple[str, Variant], ...]) -> None:
    lines: list[dict[str, Any]] = []
    for name, model in zip(names[1:], chosen[1:], strict=True):
        result = _comparison(chosen[0], model)
        if result is None:
            st.text(f"{short_name(name)}: comparing …")
        elif isinstance(result, str):
            st.text(f"{short_name(name)}: {result}")
        else:
            lines += [_set_line(name, metric) for metric in result]
    if lines:
        _table(lines, names[0])
        st.caption("Over all prompts and seeds that both have; as `naruto compare` prints it. Primary metrics first.")


def _set_line(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    change, text = row["difference"], ""
    if change:
        low, high = change["low"], change["high"]
        text = f"{change['value']:+.4g} " + ("(no interval)" if low is None else f"({low:+.4g} to {high:+.4g})")
    return {
        "Metric": row["metric"], "Model": short_name(name), "Verdict": row["verdict"],
        "Difference (95 % interval)": text, "First": row["first"], "This": row["second"], "n": f"{row['n']} pictures",
        "Measured by": row["extractor"],
    }  # fmt: skip


def _difference(comparison: model_comparison.MetricComparison) -> str:
    difference = comparison.difference
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.4g} (no interval)"
    return f"{difference.value:+.4g} ({difference.low:+.4g} to {difference.high:+.4g})"


def _training(chosen: Sequence[tuple[str, Variant]]) -> None:
    lines: list[charts.Row] = []
    for run_id in dict.fromkeys(run_id for run_id, _ in chosen):
        lines += curve(run_id, database().runs.steps(run_id), "loss", 0.9)
    if lines:
        charts.show(charts.line_plot(lines, "step", "loss", runs.colours(), height=420))
    else:
        st.text("No training step is recorded for these runs.")


def _exports(names: list[str], rows: list[model_comparison.Row]) -> None:
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


def _comparison(first: Model, second: Model) -> list[dict[str, Any]] | str | None:
    """A row for each metric, as `naruto compare --json` prints them; a sentence where it failed; None until it ends.

    The command runs in the background: it needs networks that this process never loads. It keeps its results by
    content, so that the same comparison is answered at once later, also after a restart.
    """
    future = _started(read_settings().database_url, first, second, _drawn_digest(first), _drawn_digest(second))
    return future.result() if future.done() else None


def _drawn_digest(model: Model) -> str:
    """What changes with the pictures of a model."""
    return sha256_bytes(" ".join(sorted(sample.sha256 for sample in runs.samples_of(*model))).encode())


@lru_cache(maxsize=256)
def _started(url: str, first: Model, second: Model, pictures: str, others: str) -> "Future[list[dict[str, Any]] | str]":
    del url, pictures, others  # the key of the cache only
    return in_background(_run_compare, f"{first[0]}:{first[1].value}", f"{second[0]}:{second[1].value}")


def _run_compare(first: str, second: str) -> list[dict[str, Any]] | str:
    try:
        return json.loads(run_naruto("compare", first, second, "--json"))
    except NarutoError as error:
        return str(error)
