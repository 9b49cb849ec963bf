"""What was computed once is not computed again, and commands on a scored run import no torch and no Prefect."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from naruto_core.artifacts import Layout
from naruto_core.report.score_table import WIDTH
from tests.flows.conftest import Naruto

ONE_PROCESS = """
import sys
from flows.cli import main
home, run, page = sys.argv[1:]
for words in (
    ["scores", run], ["scores", run, "--all"], ["compare", f"{run}:base", run], ["rescore", run],
    ["report", run, "-o", page],
):
    sys.argv = ["naruto", *words]
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None) or words[0] == "rescore", (words, ended.code)
    slow = {"torch", "open_clip", "transformers", "diffusers", "prefect"} & sys.modules.keys()
    assert not slow, (words, slow)
    if words == ["scores", run]:
        also_slow = {"alembic", "pyarrow", "deltalake", "scipy.stats", "yaml", "optuna", "distributed"}
        also_slow |= {"naruto_core.recipe", "naruto_core.sweep", "sqlalchemy.dialects.postgresql"}
        also_slow &= sys.modules.keys()
        assert not also_slow, also_slow
"""


SHORT = """
import sys
from flows.cli import main
sys.argv = ["naruto", *sys.argv[1:]]
try:
    main()
finally:
    loaded = {"sqlalchemy", "pyarrow", "deltalake", "pydantic_settings", "rich", "yaml", "PIL", "naruto_core.recipe"}
    loaded |= {"numpy"} if "rescore" in sys.argv else set()
    print("loaded:", sorted(loaded & sys.modules.keys()), file=sys.stderr)
"""


def _refuse(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError("computed again")


def test_a_scored_run_is_shown_compared_rescored_and_reported_without_torch(
    small_run: tuple[Path, str], environment: dict[str, str], tmp_path: Path
):
    home, run_id = small_run
    for path in Layout(home).results.glob("*.json"):  # computed in that process, from kept features
        path.unlink()
    command = [sys.executable, "-c", ONE_PROCESS, str(home), run_id, str(tmp_path / "report.html")]
    subprocess.run(command, env=environment | {"NARUTO_HOME": str(home)}, check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_an_unchanged_comparison_and_rescore_compute_nothing_again(
    small_run: tuple[Path, str], naruto: Naruto, monkeypatch: pytest.MonkeyPatch
):
    home, run_id = small_run
    compared = naruto(home, "compare", f"{run_id}:base", run_id, "--json")
    assert compared.returncode == 0, compared.stderr
    naruto(home, "rescore", run_id)
    monkeypatch.setattr("tasks.compare.compare", _refuse)
    monkeypatch.setattr("tasks.evaluation.evaluate", _refuse)
    again = naruto(home, "compare", f"{run_id}:base", run_id, "--json")
    assert json.loads(again.stdout) == json.loads(compared.stdout)
    assert f"{run_id}: nothing moved" in naruto(home, "rescore", run_id).stderr
    monkeypatch.setattr("tasks.results._code", lambda: ["other code"])
    for words in (["compare", f"{run_id}:base", run_id], ["rescore", run_id]):
        with pytest.raises(AssertionError, match="computed again"):
            naruto(home, *words)


def test_what_was_computed_before_is_shown_without_the_libraries_that_computed_it(
    small_run: tuple[Path, str], environment: dict[str, str], naruto: Naruto
):
    home, run_id = small_run
    for words in (["compare", f"{run_id}:base", run_id], ["rescore", run_id], ["scores", run_id]):
        first = naruto(home, *words)  # computes it, if no test before did
        command = [sys.executable, "-c", SHORT, *words]
        variables = environment | {"NARUTO_HOME": str(home)}
        again = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert again.stderr.endswith("loaded: []\n"), (words, again.stderr)
        assert (again.returncode, again.stdout) == (first.returncode, first.stdout)


def test_the_scores_of_a_run_begin_with_what_the_adapter_changed(small_run: tuple[Path, str], naruto: Naruto):
    home, run_id = small_run
    shown = naruto(home, "scores", run_id).stdout
    lines = shown.splitlines()
    assert lines[0].split() == ["metric", "base", "adapted", "real", "adapted", "-", "base", "[95", "%]", "change"]
    assert lines[1].startswith("style distance (mmd) ↓")
    table = lines[: lines.index("")]
    assert max(map(len, table)) <= WIDTH
    assert "\x1b" not in shown  # no colours when piped
    assert "warning  not measured: fd-judge: " in shown
    assert shown.rstrip().endswith(f"naruto scores {run_id} --all")
    rows = json.loads(naruto(home, "scores", run_id, "--json").stdout)
    words = {row["metric"]: row["change_word"] for row in rows if row["variant"] == "adapted"}
    assert words["mmd"] == "cannot be judged"
