"""A model of another NARUTO_HOME is compared as one of this, and the other folder stays as it was."""

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt

from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Split, Variant
from naruto_core.store.database import open_store
from naruto_core.store.embedding_cache import row_digest
from tests.flows.conftest import SMALL, Naruto

# Another repetition, of prompts enough for a verdict: 7 of them, of which the first three are the small run's. With one
# seed, because 8 pictures and more are asked for metrics that so few cannot be resampled for. Only what is compared.
SECOND = SMALL | {"training.seed": 43, "generation.prompts": 7, "generation.seeds": 1}
SECOND |= {"training.max_train_steps": 2, "training.prior": None, "training.validation": None}
SECOND |= {"generation.variants": ["base", "adapted"]}
KEPT = ("naruto.db", "datasets", "cache/embeddings.db")  # what `make keep` copies


@pytest.fixture(scope="session")
def both(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(NARUTO_HOME, id of the second run) of a copy of the small run's home in which a second run was made."""
    from flows.train_naruto import train_naruto

    home = tmp_path_factory.mktemp("both") / "home"
    shutil.copytree(small_run[0], home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(home))
        second = train_naruto("mini", None, SECOND)
    return home, second


def _kept(home: Path, target: Path) -> Path:
    """The parts of `home` that a comparison needs: no picture, no weights."""
    for name in KEPT:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (home / name).is_dir() else shutil.copyfile
        copy(home / name, target / name)
    return target


def _change_scoring(home: Path, run_id: str, **changes: object) -> None:
    """Write other choices of scoring into a run's recorded recipe."""
    with sqlite3.connect(home / "naruto.db") as database:
        (told,) = database.execute("select recipe_json from runs where id = ?", (run_id,)).fetchone()
        recipe = json.loads(told)
        recipe["scoring"] |= changes
        database.execute("update runs set recipe_json = ? where id = ?", (json.dumps(recipe), run_id))


def _seen(home: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder, when it was last changed, and what is in it."""
    paths = [home, *home.rglob("*")]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"") for path in paths}


def _rows(naruto: Naruto, home: Path, first: str, second: str) -> list[dict[str, object]]:
    done = naruto(home, "compare", first, second, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)  # NaN and Infinity are no JSON


def test_runs_of_two_homes_compare_as_those_of_one(
    small_run: tuple[Path, str], both: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    (alone, one), (home, other) = small_run, both
    within = _rows(naruto, home, one, other)
    metrics = {row["metric"] for row in within}
    assert {"mmd", "kd-judge", "vendi", "clip", "clip-content", "style", "copying"} <= metrics
    assert {row["n"] for row in within if not str(row["metric"]).startswith("attributes")} == {3}
    assert _rows(naruto, home, f"{alone}//{one}", other) == within
    assert _rows(naruto, alone, one, f"{home}//{other}") == within  # nothing of the second run is recorded here
    kept = _kept(home, tmp_path / "kept")
    assert _rows(naruto, alone, f"{one}:adapted", f"{kept}//{other}:adapted") == within
    assert _rows(naruto, tmp_path / "empty", f"{alone}//{one}", f"{kept}//{other}") == within


def test_nothing_is_written_to_the_other_home(
    small_run: tuple[Path, str], both: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, other = both
    kept = _kept(home, tmp_path / "kept")
    with sqlite3.connect(kept / "cache" / "embeddings.db") as database:  # so that some have to be computed again
        database.execute("delete from embeddings where content like 'text:%'")
    before = _seen(kept)
    _rows(naruto, small_run[0], small_run[1], f"{kept}//{other}")
    assert _seen(kept) == before
    assert list((small_run[0] / "cache").glob(".looked-at-*")) == []


def test_the_same_pictures_are_said_to_be_the_same_though_another_machine_rounded_their_features_otherwise(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    kept = _kept(home, tmp_path / "kept")
    with sqlite3.connect(kept / "cache" / "embeddings.db") as database:
        rows = database.execute("select rowid, extractor, content, blank, features from embeddings").fetchall()
        for row, extractor, content, blank, features in rows:
            moved = np.nextafter(np.frombuffer(features, np.float16), np.float16(np.inf))
            digest = row_digest(extractor, content, moved.tobytes(), blank=bool(blank))
            changed = (moved.tobytes(), digest, row)
            database.execute("update embeddings set features = ?, digest = ? where rowid = ?", changed)
    found = _rows(naruto, home, f"{kept}//{run_id}", run_id)
    assert {row["verdict"] for row in found if row["difference"]} == {"alike"}
    moved = {row["metric"]: row["difference"]["value"] for row in found if row["difference"]}  # type: ignore[index]
    assert all(abs(value) < 1e-9 for value in moved.values()), moved
    told = naruto(home, "compare", f"{kept}//{run_id}", run_id, "--fail-on-worse")
    assert told.returncode == 0
    assert told.stdout.startswith("The same pictures: all 6 of the second are the first's, byte for byte.\n")
    assert "undecided" not in told.stdout


def test_what_was_measured_against_another_reference_is_refused_on_the_terminal_and_on_the_page(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    kept, other = _kept(home, tmp_path / "kept"), shutil.copytree(home, tmp_path / "other")
    _change_scoring(other, run_id, reference="training")
    refused = naruto(other, "compare", f"{kept}//{run_id}", run_id, "--markdown")
    assert refused.returncode == 1
    assert "their reference pictures differ" in refused.stderr
    assert refused.stdout == f"**Not compared**: {refused.stderr.partition('naruto: ')[2]}"


MISTAKES = [
    ("nowhere//RUN", "nowhere is not a NARUTO_HOME: it has no naruto.db"),
    ("//RUN", "//RUN: a run of another NARUTO_HOME is HOME//"),
    ("kept//", "kept//: a run of another NARUTO_HOME is HOME//"),
    ("kept/RUN", "kept/RUN: a run of another NARUTO_HOME is HOME//"),
    ("kept//2020-01-01-none", "in kept: there is no run '2020-01-01-none'; the nearest is RUN"),
    ("kept//RUN:best", "kept//RUN:best: a model is "),
    ("torn//RUN", "cannot use the database torn/naruto.db: the file is not a SQLite database"),
]


@pytest.mark.parametrize(("model", "sentence"), MISTAKES, ids=[model for model, _ in MISTAKES])
def test_a_model_that_is_not_there_is_one_sentence(
    small_run: tuple[Path, str],
    naruto: Naruto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    sentence: str,
):
    home, run_id = small_run
    _kept(home, tmp_path / "kept")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "naruto.db").write_text("no database at all, but long enough to be looked at as one")
    monkeypatch.chdir(tmp_path)
    refused = naruto(home, "compare", model.replace("RUN", run_id), run_id)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"naruto: {sentence.replace('RUN', run_id)}")
    assert refused.stderr.count("\n") == 1


def test_the_first_comparison_of_all_says_that_there_is_nothing_yet_and_is_content(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    model = f"{tmp_path / 'main-var'}//{run_id}"
    first = naruto(home, "compare", model, run_id, "--markdown", "--if-there", "--fail-on-worse")
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == f"Nothing to compare with yet: there is no record in {tmp_path / 'main-var'}.\n"
    assert naruto(home, "compare", model, run_id, "--markdown").returncode == 1


@pytest.fixture
def perfect(both: tuple[Path, str], tmp_path: Path) -> str:
    """The second run in a home of its own, where the adapted pictures have the features of held-out real ones."""
    home, run_id = both
    kept = _kept(home, tmp_path / "perfect")
    with open_store(f"sqlite:///{kept / 'naruto.db'}") as store:
        dataset = store.find_dataset(store.run(run_id).dataset_id)
        samples = store.samples(run_id, Variant.ADAPTED)
        resolution = json.loads(store.recipe_json(run_id))["generation"]["resolution"]
    assert dataset is not None
    real = [picture for picture in read_pictures(Layout(home), dataset) if picture.split is Split.REFERENCE]
    with sqlite3.connect(kept / "cache" / "embeddings.db") as database:
        for sample, picture in zip(samples, real, strict=False):
            content = f"{picture.sha256}@{resolution}"
            found = database.execute("select extractor, features from embeddings where content = ?", (content,))
            for extractor, features in found.fetchall():
                digest = row_digest(extractor, sample.sha256, features, blank=False)
                changed = (features, digest, sample.sha256, extractor)
                database.execute(
                    "update embeddings set features = ?, digest = ?, blank = 0 where content = ? and extractor = ?",
                    changed,
                )
    return f"{kept}//{run_id}"


def test_the_page_has_a_headline_and_a_table_with_the_primary_metrics_first(
    perfect: str, naruto: Naruto, tmp_path: Path
):
    base = f"{perfect}:base"
    page = naruto(tmp_path / "empty", "compare", base, perfect, "--markdown").stdout
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert html.startswith("<p><strong>Better by the primary metrics</strong>: mmd better; attributes alike.</p>")
    assert f"First: {base}, commit " in html
    assert "0 of 7 pictures are the same bytes." in html
    heads = html.split("<thead>")[1].split("</thead>")[0]
    assert [part.split("</th>")[0] for part in heads.split("<th>")[1:]] == [
        *("metric", "first", "second", "difference", "95 % interval", "n", "verdict on the second")
    ]
    rows = html.split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
    assert [row.count("<td>") for row in rows] == [7] * len(rows)
    assert "<strong>mmd</strong>" in rows[0]
    assert "<strong>better</strong>" in rows[0]
    assert "<strong>attributes</strong>" in rows[1]
    assert not any("<strong>" in row for row in rows[2:])


def test_a_worse_model_fails_only_where_it_is_asked_to(
    both: tuple[Path, str], perfect: str, naruto: Naruto, tmp_path: Path
):
    _change_scoring(tmp_path / "perfect", both[1], primary=["mmd"])
    home, base = tmp_path / "empty", f"{perfect}:base"
    for flags, code in (((), 0), (("--fail-on-worse",), 1), (("--fail-on-worse", "--markdown"), 1)):
        done = naruto(home, "compare", perfect, base, *flags)
        assert done.returncode == code
        assert "Worse by the primary metrics" in done.stdout
    assert done.stderr == f"naruto: {base} is worse than {perfect} by mmd.\n"
    better = naruto(home, "compare", base, perfect, "--fail-on-worse")
    assert better.returncode == 0
    assert better.stdout.startswith("Better by the primary metrics: mmd better.\n")
