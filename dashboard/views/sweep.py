"""The page Sweep: the settings of a sweep with their results, parallel coordinates, one prompt in all settings.

The results are those that `naruto sweep` computed last: the dashboard reads them, and measures nothing.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import altair as alt
import streamlit as st

from dashboard import charts
from dashboard.queries import runs
from dashboard.queries.database import database
from dashboard.queries.thumbnails import thumbnail
from naruto_core.domain import RunState, Sample, Variant
from naruto_core.intervals import p_text
from naruto_core.store.sweeps import RecordedCell, RecordedSweep
from naruto_core.sweep import setting_label, value_text

_COLUMNS = 8  # settings beside each other
_TICKS = 5  # values that are named on an axis


def show() -> None:
    st.title("Sweep")
    sweeps = {sweep.name: sweep for sweep in database().sweeps.sweeps()}
    if not sweeps:
        st.info("There is no sweep yet. Type `naruto sweep FILE` in a terminal, then reload this page.")
        return
    names, in_address = list(sweeps), st.query_params.get("name", "")
    if in_address and in_address not in sweeps:
        st.warning("The sweep in the address is not recorded here; the newest sweep is shown.")
    name = st.selectbox("Sweep", names, names.index(in_address) if in_address in sweeps else 0, key="shown_sweep")
    st.query_params["name"] = name
    sweep = sweeps[name]
    _summary(sweep)
    _settings(sweep)
    _parallel_coordinates(sweep)
    _pictures(sweep)
    _runs(sweep)


def _summary(sweep: RecordedSweep) -> None:
    states = Counter(sweep.states)
    to_come = (sweep.n_settings - len(sweep.settings)) * _seeds(sweep)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    kind = f"search of {sweep.n_settings} settings" if sweep.search else f"grid of {sweep.n_settings} settings"
    st.text(
        f"{sweep.name}: {kind} with {_seeds(sweep)} seeds each, of the recipe {sweep.recipe}. Runs: {counts}"
        + (f", {to_come} to come." if to_come else ".")
    )
    better = {1: ", more is better", -1: ", less is better"}.get(int(sweep.report.get("better", 0)), "")
    st.text(f"Objective: {sweep.objective}{better}.")
    if sweep.report and _done(sweep.report["states"]) != _done(sweep.states):
        st.warning(f"Runs have changed since the results were computed: `naruto sweep show {sweep.name}` renews them.")


def _done(states: Sequence[str]) -> list[int]:
    return [position for position, state in enumerate(states) if state == RunState.DONE]


def _seeds(sweep: RecordedSweep) -> int:
    return len({recorded.cell.seed for recorded in sweep.cells})


def _results(sweep: RecordedSweep) -> list[Mapping[str, Any]]:
    """The result of each setting that is recorded; an empty one where it is newer than the results."""
    computed = list(sweep.report.get("settings", ()))
    empty = {"mean": None, "low": None, "high": None, "spread": None, "seeds": 0, "difference": None}
    return [computed[number] if number < len(computed) else empty for number in range(len(sweep.settings))]


def labels(sweep: RecordedSweep) -> list[str]:
    """The name of each setting: the values in which the settings differ."""
    return [setting_label(values, sweep.settings) for values in sweep.settings]


def _settings(sweep: RecordedSweep) -> None:
    st.header("Settings")
    results = _results(sweep)
    cells = [[c for c in sweep.cells if c.cell.setting == number] for number in range(len(sweep.settings))]
    numeric = {key for key in sweep.settings[0] if all(_is_number(values[key]) for values in sweep.settings)}
    lines = [
        line({key: value if key in numeric else value_text(value) for key, value in values.items()}, result, of_setting)
        for values, result, of_setting in zip(sweep.settings, results, cells, strict=True)
    ]
    empty = {name for name in lines[0] if all(row[name] is None for row in lines)}
    lines = [{name: value for name, value in row.items() if name not in empty} for row in lines]
    figure = st.column_config.NumberColumn(format=f"%.{sweep.report.get('decimals', 3)}f")
    columns = dict.fromkeys(("Mean", "Spread", "Difference", "Low", "High", "Low of difference"), figure)
    columns |= {"High of difference": figure}
    columns |= {key: st.column_config.NumberColumn(format="%.4g") for key in numeric}
    st.dataframe(lines, hide_index=True, column_config=columns, placeholder="", alt=f"The settings of {sweep.name}")
    st.caption(
        "Low and high bound a 95 % interval of the mean over seeds and prompts. Spread is the standard deviation "
        "between seeds. Differences are from the first setting, with the interval by which they are judged: 95 % or "
        "more, by Holm's correction over all settings."
    )
    known = [
        {"name": label, "value": result["mean"], "low": result["low"], "high": result["high"]}
        for label, result in zip(labels(sweep), results, strict=True)
        if result["low"] is not None
    ]
    if known:
        charts.show(charts.interval_plot(known, f"{sweep.objective}, mean with 95 % interval"))


def line(
    values: Mapping[str, Any], result: Mapping[str, Any], cells: Sequence[RecordedCell]
) -> dict[str, str | float | None]:
    """One row of the table of settings; `values` are numbers or texts."""
    change = result["difference"] or {}
    states = Counter(str(recorded.state) for recorded in cells)
    return {
        **values,
        "Verdict": change.get("word") or ("compared with" if cells[0].cell.setting == 0 else "not finished"),
        "Runs": ", ".join(f"{count} {state}" for state, count in states.items()),
        "Mean": result["mean"],
        "Low": result["low"],
        "High": result["high"],
        "Spread": result["spread"],
        "Difference": change.get("value"),
        "Low of difference": change.get("low"),
        "High of difference": change.get("high"),
        "p (Holm)": p_text(change.get("p")) or None,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _parallel_coordinates(sweep: RecordedSweep) -> None:
    means = [result["mean"] for result in _results(sweep)]
    if sum(mean is not None for mean in means) < 2:
        return
    st.header("Parallel coordinates")
    charts.show(parallel_coordinates(sweep, means))
    st.caption("Each line is a setting: its values, and its mean on the right. Point at a line for its name.")


def parallel_coordinates(sweep: RecordedSweep, means: Sequence[float | None]) -> alt.LayerChart:
    """One line for each setting with a mean, over an axis for each key in which settings differ and one for the mean.

    Every axis goes from its smallest to its largest value; a key that is searched on a logarithmic scale is drawn so.
    """
    known = [number for number, mean in enumerate(means) if mean is not None]
    columns: dict[str, list[Any]] = {}
    for key in sweep.settings[0]:
        values = [sweep.settings[number][key] for number in known]
        if len({value_text(value) for value in values}) > 1:
            columns[key] = values
    columns[sweep.objective] = [means[number] for number in known]
    lines: list[charts.Row] = []
    ticks: list[charts.Row] = []
    names = labels(sweep)
    for key, values in columns.items():
        is_log = bool(sweep.search.get(key, {}).get("log")) if key in sweep.search else False
        heights = _heights(values, log=is_log)
        for number, value, height in zip(known, values, heights, strict=True):
            shown = {"value": value_text(value), "mean": means[number]}
            lines.append({"axis": key, "place": height, "name": names[number], **shown})
        distinct = sorted({(height, value_text(value)) for height, value in zip(heights, values, strict=True)})
        stride = max(1, math.ceil((len(distinct) - 1) / (_TICKS - 1)))
        for height, text in (*distinct[:-1:stride], distinct[-1]):
            ticks.append({"axis": key, "place": height, "text": text})
    colour = alt.Color("mean:Q", title=sweep.objective, scale=alt.Scale(scheme="viridis"))
    return charts.parallel_coordinates(lines, list(columns), colour, ticks)


def _heights(values: Sequence[Any], *, log: bool) -> list[float]:
    """Where each value lies on its axis, from 0 to 1; values that are no numbers lie in the order of their use."""
    numbers: list[float] = [float(value) for value in values if _is_number(value)]
    if len(numbers) < len(values):
        order = list(dict.fromkeys(json.dumps(value, sort_keys=True) for value in values))
        numbers = [float(order.index(json.dumps(value, sort_keys=True))) for value in values]
    elif log and min(numbers) > 0:
        numbers = [math.log(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    return [0.5 if high == low else (number - low) / (high - low) for number in numbers]


def _pictures(sweep: RecordedSweep) -> None:
    drawn = {r.cell.position: _samples(r.run.id) for r in sweep.cells if r.run is not None}
    drawn = {position: samples for position, samples in drawn.items() if samples}
    if not drawn:
        return
    st.header("One prompt in all settings")
    suites = [runs.prompts(sample.run_id) for sample in (next(iter(samples.values())) for samples in drawn.values())]
    texts = {prompt.slug: prompt.text for suite in suites if suite for prompt in suite.prompts}
    left, right = st.columns([3, 1])
    slug = left.selectbox("Prompt", list(texts), format_func=lambda slug: texts[slug], key="prompt_of_sweep",
                          bind="query-params")  # fmt: skip
    seeds = sorted({seed for samples in drawn.values() for _, seed in samples})
    picture_seed = right.selectbox("Seed of the pictures", seeds, key="seed_of_sweep", bind="query-params")
    names, settings = labels(sweep), sorted({r.cell.setting for r in sweep.cells if r.cell.position in drawn})
    pages = math.ceil(len(settings) / _COLUMNS)
    page = st.pagination(pages, key="page_of_sweep", bind="query-params") if pages > 1 else 1
    shown = settings[(page - 1) * _COLUMNS : page * _COLUMNS]
    for number, column in zip(shown, st.columns(_COLUMNS), strict=False):
        column.text(names[number].replace(", ", "\n").replace("training.", ""))
    for seed in dict.fromkeys(recorded.cell.seed for recorded in sweep.cells):
        st.text(f"training seed {seed}")
        of_seed = {r.cell.setting: drawn.get(r.cell.position, {}) for r in sweep.cells if r.cell.seed == seed}
        for number, column in zip(shown, st.columns(_COLUMNS), strict=False):
            sample = of_seed.get(number, {}).get((slug, picture_seed))
            path = thumbnail(sample.sha256, "256") if sample else None
            if path:
                column.image(path.read_bytes(), width="stretch", alt=f"{texts[slug]} ({names[number]}, seed {seed})")
            else:
                column.caption("no picture")


def _samples(run_id: str) -> dict[tuple[str, int], Sample]:
    """The adapted model's pictures of a run by prompt and seed."""
    return {(sample.prompt, sample.seed): sample for sample in runs.samples_of(run_id, Variant.ADAPTED)}


def _runs(sweep: RecordedSweep) -> None:
    st.header("Runs")
    names, values = labels(sweep), sweep.report.get("values", {})
    lines = [
        {
            "Setting": names[recorded.cell.setting],
            "Seed": recorded.cell.seed,
            "State": str(recorded.state),
            sweep.objective: values.get(str(recorded.cell.position)),
            "Run": f"run?{urlencode({'id': recorded.run.id})}" if recorded.run else None,
            "Reason": recorded.failure or (recorded.run.failure if recorded.run else ""),
        }
        for recorded in sweep.cells
    ]
    links = {"Run": st.column_config.LinkColumn(display_text=r"id=(.*)")}
    st.dataframe(lines, hide_index=True, column_config=links, placeholder="", alt=f"The runs of {sweep.name}")
