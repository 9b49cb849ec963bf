"""What `naruto sweep show` and `naruto sweep list` print and write."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import Listing, columns
from naruto_core.errors import RecipeInvalid
from naruto_core.intervals import p_text
from naruto_core.report.tables import interval_text, number_text
from naruto_core.scoring.metrics import decimals, direction, find_metric
from naruto_core.scoring.sweep_results import SettingResult
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database
from naruto_core.store.sweeps import RecordedSweep
from naruto_core.sweep import setting_label
from tasks.sweep import SweepReport, report_sweep


def list_sweeps() -> Listing:
    """Every sweep with the states of its runs, newest first."""
    with open_database(read_settings().database_url) as database:
        sweeps = database.sweeps.sweeps()
    if not sweeps:
        return Listing([], "no sweeps yet: start one with  naruto sweep FILE")
    rows = [
        {
            "name": sweep.name,
            "recipe": sweep.recipe,
            "objective": sweep.objective,
            "created": sweep.created_at.isoformat(),
            "runs": dict(Counter(recorded.state for recorded in sweep.cells)),
        }
        for sweep in sweeps
    ]
    lines = [["sweep", "recipe", "objective", "created", "runs"]]
    lines += [[s.name, s.recipe, s.objective, f"{s.created_at:%Y-%m-%d %H:%M}", _states(s)] for s in sweeps]
    return Listing(rows, columns(lines))


def show_sweep(name: str) -> Listing:
    """The settings of a sweep, compared, and its runs."""
    report = report_sweep(name)
    sweep = report.sweep
    labels = setting_labels(sweep)
    facts = {"name": sweep.name, "recipe": sweep.recipe, "objective": sweep.objective}
    settings = [asdict(result) | {"label": label} for result, label in zip(report.results, labels, strict=True)]
    return Listing(facts | {"settings": settings, "runs": _run_rows(report)}, sweep_text(report))


def sweep_text(report: SweepReport) -> str:
    """The table of the settings, what its columns are, and every run with its state and value."""
    sweep, rows = report.sweep, setting_rows(report)
    better = direction(sweep.objective)
    head = f"sweep {sweep.name}: {sweep.objective}, {better}; runs: {_states(sweep)}"
    note = (
        "spread: standard deviation between seeds. Intervals are over seeds and prompts. Differences are from the\n"
        "first setting, with the interval by which they are judged: 95 % or more, by Holm's correction over all."
    )
    places = decimals(sweep.objective)
    lines = [["setting", "seed", "run", "state", sweep.objective]]
    for recorded, label in zip(sweep.cells, _labels_of_cells(sweep), strict=True):
        position = recorded.cell.position
        value = number_text(report.values.get(position), f".{places}f")
        reason = report.faults.get(position) or (recorded.failure if recorded.run is None else recorded.run.failure)
        run_id = recorded.run.id if recorded.run else ""
        lines.append([label, str(recorded.cell.seed), run_id, recorded.state, value or reason])
    table = columns([list(rows[0]), *(list(row.values()) for row in rows)])
    return f"{head}\n\n{table}\n\n{note}{_best_of_search(report)}\n\n{columns(lines)}"


def _best_of_search(report: SweepReport) -> str:
    """The best setting of a search so far, and how to make sure of it; "" for a grid."""
    sweep = report.sweep
    means = [(r.mean, r.setting) for r in report.results if r.mean is not None]
    metric = find_metric(sweep.objective)
    if not sweep.search or not means or metric is None:
        return ""
    mean, setting = max(means, key=lambda pair: (pair[0] * metric.better, -pair[1]))
    return (
        f"\nbest mean of {len(means)} of {sweep.n_settings} settings: {setting_labels(sweep)[setting]} "
        f"({mean:.{decimals(sweep.objective)}f}). The best of many looks better than it is: compare it with the first\n"
        "setting in a grid of both with other seeds."
    )


def setting_rows(report: SweepReport) -> list[dict[str, str]]:
    """One row a setting, as texts by column."""
    labels, places = setting_labels(report.sweep), decimals(report.sweep.objective)
    return [_setting_row(result, label, places) for result, label in zip(report.results, labels, strict=True)]


def _setting_row(result: SettingResult, label: str, places: int) -> dict[str, str]:
    form, signed = f".{places}f", f"+.{places}f"
    change = result.difference
    return {
        "setting": label,
        "seeds": str(result.seeds),
        "mean": number_text(result.mean, form),
        "95 % interval": interval_text((result.low, result.high), form),
        "spread": number_text(result.spread, form),
        "difference": number_text(change.value, signed) if change else "",
        "its interval": interval_text((change.low, change.high), signed) if change else "",
        "p (Holm)": p_text(change.p) if change else "",
        "verdict": change.word if change else "compared with",
    }


def setting_labels(sweep: RecordedSweep) -> list[str]:
    """The name of each setting: the values in which the settings differ."""
    return [setting_label(values, sweep.settings) for values in sweep.settings]


def _labels_of_cells(sweep: RecordedSweep) -> list[str]:
    labels = setting_labels(sweep)
    return [labels[recorded.cell.setting] for recorded in sweep.cells]


def _states(sweep: RecordedSweep) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(r.state for r in sweep.cells).items())


def _run_rows(report: SweepReport) -> list[dict[str, Any]]:
    return [
        {
            "setting": recorded.cell.setting,
            "values": dict(recorded.cell.values),
            "seed": recorded.cell.seed,
            "run": recorded.run.id if recorded.run else None,
            "state": str(recorded.state),
            "failure": recorded.run.failure if recorded.run else recorded.failure,
            "value": report.values.get(recorded.cell.position),
            "fault": report.faults.get(recorded.cell.position, ""),
        }
        for recorded in report.sweep.cells
    ]


def write_sweep(name: str, path: Path) -> Path:
    """Write one row a run as a .csv file: the setting's values and results, the seed, the run's state and value.

    Raises RecipeInvalid for another kind of file.
    """
    if path.suffix != ".csv":
        raise RecipeInvalid(f"{path}: write to a .csv file.")
    report = report_sweep(name)
    labels, objective = setting_labels(report.sweep), report.sweep.objective
    rows: list[dict[str, Any]] = []
    for row in _run_rows(report):
        result = report.results[row["setting"]]
        of_difference = asdict(result.difference) if result.difference else {}
        rows.append(
            {"setting": labels[row["setting"]], **row["values"], "seed": row["seed"], "run": row["run"]}
            | {"state": row["state"], objective: row["value"], "mean": result.mean, "spread": result.spread}
            | {"low": result.low, "high": result.high}
            | {f"difference_{key}": value for key, value in of_difference.items()}
        )
    _write_csv(rows, path)
    return path


def _write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import csv

    from naruto_core.artifacts import atomic_file

    names = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
