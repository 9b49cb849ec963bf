"""The page Sweep shows what was computed, the states as they are now, and one prompt in all settings."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.views.sweep import parallel_coordinates
from naruto_core.domain import Run
from naruto_core.settings import read_settings
from naruto_core.store.database import Database, open_database
from naruto_core.store.writes import Store
from naruto_core.sweep import SearchRange, SearchSection, SweepFile

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
RATE, RANK = "training.learning_rate", "training.rank"
RATES = (1e-4, 1e-3, 1e-2)
SEARCH = SearchSection(
    ranges={
        RATE: SearchRange(type="float", low=1e-4, high=1e-2, log=True),
        RANK: SearchRange(type="choices", values=(4, 8)),
    },
    trials=4,
)
FILE = SweepFile(name="rates", recipe="mini", search=SEARCH, seeds=(1, 2), objective="mmd")


def result(setting: int, mean: float | None, word: str = "") -> dict[str, Any]:
    """The kept result of a setting; of one with a `word` the difference from the first."""
    change = {"value": None if mean is None else mean - 0.02, "low": None, "high": None, "p": None, "word": word}
    known = {"mean": mean, "low": mean and mean - 0.001, "high": mean and mean + 0.001, "spread": 0.0005}
    return {"setting": setting, "seeds": 2, "difference": change if word else None, **known}


@pytest.fixture
def searched(store: Store, run: Run) -> Database:
    """Three of four settings of a search: one done (with the pictures of `run`), one pruned, one not started."""
    with open_database(read_settings().database_url) as database:
        cells = [FILE.cells_of(n, {RATE: rate, RANK: 4 + 4 * (n == 1)}) for n, rate in enumerate(RATES)]
        database.sweeps.open_sweep(FILE, cells[0], ["f1", "f2"], NOW)
        for number in (1, 2):
            database.sweeps.add_setting("rates", cells[number], ["f3", "f4"])
        for position in (0, 1):
            database.sweeps.record_cell("rates", position, run.id, "")
        database.sweeps.prune_setting("rates", 1)
        states = database.sweeps.sweep("rates").states
        report = {"states": states, "values": {"0": 0.019, "1": 0.021}, "better": -1, "decimals": 4}
        report["settings"] = [result(0, 0.02), result(1, None, "pruned")]
        database.sweeps.keep_report("rates", report)
        yield database


def page(**query: str) -> AppTest:
    def show() -> None:
        from dashboard.views import sweep

        sweep.show()

    app = AppTest.from_function(show, default_timeout=60)
    app.query_params.update(query)
    return app.run()


def test_the_table_has_kept_results_and_states_and_each_setting_shows_the_prompt(searched: Database, home: Path):
    app = page(name="rates")
    assert not app.exception
    text = "\n".join(element.value for element in app.text)
    assert "rates: search of 4 settings with 2 seeds each" in text
    assert "Runs: 2 done, 2 pruned, 2 not started, 2 to come." in text
    assert "Objective: mmd, less is better." in text
    settings, runs = (table.value for table in app.dataframe)
    assert settings[RATE].tolist() == list(RATES)
    assert settings["Runs"].tolist() == ["2 done", "2 pruned", "2 not started"]
    assert settings["Verdict"].tolist() == ["compared with", "pruned", "not finished"]
    assert settings["Mean"].tolist()[0] == 0.02
    assert runs["State"].tolist() == ["done"] * 2 + ["pruned"] * 2 + ["not started"] * 2
    assert text.count("training seed") == 2
    assert "no picture" not in [element.value for element in app.caption]
    assert [app.selectbox(key="prompt_of_sweep").value, app.query_params["name"]] == ["kage", "rates"]
    assert not app.warning


def test_results_of_runs_that_have_changed_are_marked_and_an_unknown_name_is_a_sentence(
    searched: Database, run: Run, home: Path
):
    kept = searched.sweeps.sweep("rates").report
    searched.sweeps.keep_report("rates", kept | {"states": ["running"] * 4})
    (warning,) = page().warning
    assert warning.value == "Runs have changed since the results were computed: `naruto sweep show rates` renews them."
    assert "The sweep in the address is not recorded here" in page(name="other").warning[0].value


def test_without_a_sweep_the_page_says_how_to_start_one(store: Store):
    (info,) = page().info
    assert "naruto sweep FILE" in info.value


def test_a_line_has_the_height_of_each_value_on_its_axis_and_a_logarithmic_axis_is_drawn_so(searched: Database):
    sweep = searched.sweeps.sweep("rates")
    chart = parallel_coordinates(sweep, [0.02, 0.01, 0.03]).to_dict()
    lines = next(layer["data"]["values"] for layer in chart["layer"] if layer["mark"].get("point"))
    heights = {(line["axis"], line["name"].split("=")[1].split(",")[0]): line["place"] for line in lines}
    assert [round(heights[RATE, text], 6) for text in ("0.0001", "0.001", "0.01")] == [0, 0.5, 1]
    assert [round(heights["mmd", text], 6) for text in ("0.001", "0.0001", "0.01")] == [0, 0.5, 1]
    assert {line["axis"] for line in lines} == {RATE, RANK, "mmd"}
