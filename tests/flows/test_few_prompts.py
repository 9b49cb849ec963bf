"""A run over three prompts, as the project's own report has: compared and reported in sentences."""

import json
import re
from pathlib import Path
from typing import NoReturn

import pytest

from tests.flows.conftest import SMALL, Naruto, flags
from tests.independent_scores import differences

THREE_PROMPTS = SMALL | {
    "dataset.source": "world:naruto?count=48&seed=3",
    "dataset.hold_out": 20,
    "generation.seeds": 4,
    "generation.variants": "[base,adapted]",
    "training.max_train_steps": 2,
    "training.train_batch_size": 2,
    "training.prior": "null",
    "training.validation": "null",
}


def _no_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def test_three_prompts_of_four_seeds_have_intervals_and_no_verdict(naruto: Naruto, tmp_path: Path):
    home, page = tmp_path / "home", tmp_path / "report.html"
    done = naruto(home, "run", *flags(THREE_PROMPTS))
    assert done.returncode == 0, done.stderr
    run_id = json.loads(naruto(home, "runs", "--json").stdout, parse_constant=_no_json)[0]["id"]
    asked = "compare", f"{run_id}:base", run_id
    rows = json.loads(naruto(home, *asked, "--json").stdout, parse_constant=_no_json)
    assert {row["n"] for row in rows if not row["metric"].startswith("attributes")} == {12}
    assert {"mmd", "recall", "clip-content"} <= {row["metric"] for row in rows}
    unmeasured = {row["metric"]: row["verdict"] for row in rows if row["difference"] is None}
    assert unmeasured["fd-judge"].endswith("holds 12 pictures; this score needs at least 16")
    for row in (row for row in rows if row["metric"] not in unmeasured):
        alike = row["verdict"] == "alike"  # nothing differs at all: e.g. no picture is blank
        assert not alike or row["metric"] == "blank" or row["metric"].startswith("attributes")
        prompts = "[123]" if row["metric"].startswith("attributes") else "3"  # not all prompts ask for all attributes
        judged = f"cannot be judged with n = {prompts} prompts?: at least 6 are needed"
        assert re.fullmatch("alike" if alike else judged, row["verdict"])
        assert row["p"] == (1 if alike else None)
        if not row["metric"].startswith("attributes"):  # fewer than three prompts ask for an attribute
            assert row["difference"]["low"] <= row["difference"]["value"] <= row["difference"]["high"]
    shown = [
        naruto(home, *asked).stdout,
        naruto(home, *asked, "--markdown").stdout,
        naruto(home, "scores", run_id, "--all").stdout,
        naruto(home, "scores", run_id).stdout,
    ]
    assert shown[0].startswith("Not judged by the primary metrics: mmd cannot be judged with n = 3 prompts")
    row = next(line for line in shown[-1].splitlines() if line.startswith("style distance (mmd)"))
    assert row.endswith("cannot be judged")
    scores = json.loads(naruto(home, "scores", run_id, "--json").stdout, parse_constant=_no_json)
    intervals = {(row["metric"], row["variant"]): (row["low"], row["high"]) for row in scores}
    assert None not in intervals["mmd", "adapted"]
    assert None not in intervals["mmd", "real"]
    table = tmp_path / "scores.csv"
    assert naruto(home, "scores", run_id, "-o", str(table)).returncode == 0
    assert naruto(home, "report", run_id, "-o", str(page)).returncode == 0
    shown += [table.read_text(), page.read_text()]
    assert "Could not be decided: mmd: cannot be judged with n = 3 prompts" in shown[-1]
    for text in shown:
        words = text.lower().replace("[", " ").replace("]", " ").replace(",", " ").split()
        assert not {"nan", "+nan", "inf", "+inf", "-inf", "none]"} & set(words)
    again = differences(home, run_id)
    measured = {metric for metric, _ in again}
    assert measured >= {"kd", "cmmd", "mmd", "precision", "recall", "vendi", "clip", "style", "copying"}
    assert {variant for _, variant in again} == {"base", "adapted", "real"}
    for key, (recorded, recomputed) in again.items():
        assert recomputed == pytest.approx(recorded, rel=1e-4, abs=1e-4), key
