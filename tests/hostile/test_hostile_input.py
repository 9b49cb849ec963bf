"""Every hostile input of the corpus ends soon, in one sentence and a non-zero exit status; nothing is half-written."""

import resource
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flows.cli import main
from flows.profiles import choose_recipe
from naruto_core import recipe_text
from naruto_core.artifacts import Layout
from naruto_core.dataset.ingest import ingest
from naruto_core.dataset.parquet_limits import _unpacked_size, safe_batch_rows
from naruto_core.errors import DatasetUnusable, NarutoError
from naruto_core.recipe import overrides_from_text, read_recipe
from naruto_core.recipe_sections import DatasetSection
from tests.hostile.corpus import BOMB, COMMANDS, DATASETS, DOCUMENTS, MINI, OVERRIDES, SETTINGS, SUITES, lying_footer

_MOST_SECONDS, _MOST_BYTES = 10, 1_500_000_000
Refused = Callable[..., str]


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, new_database: Path
) -> Iterator[Refused]:
    """Runs `naruto` in this process; returns what it printed to stderr. The home has an empty database."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "naruto.db").write_bytes(new_database.read_bytes())
    monkeypatch.setenv("NARUTO_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    mini = recipe_text.read_yaml(MINI)  # parsing it takes 0.05 s, and most cases begin with it
    read = recipe_text.read_yaml
    monkeypatch.setattr("naruto_core.recipe.read_yaml", lambda text: deepcopy(mini) if text == MINI else read(text))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["naruto", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (1, 2)
        return capsys.readouterr().err

    yield run
    assert sorted(path.name for path in home.iterdir() if path.suffix != ".db" and "naruto.db" not in path.name) in (
        [],
        ["locks"],
    )


def _check_sentence(case: str, printed: str, seconds: float) -> None:
    """One sentence of ours, or the usage error of the command line's library."""
    assert seconds < _MOST_SECONDS, case
    assert "\x1b" not in printed, case
    if "Usage: naruto" not in printed:
        assert printed.startswith("naruto: "), (case, printed[:500])
        assert printed.count("\n") == 1, (case, printed[:500])
        assert len(printed) < 12_000, case


def _most_memory() -> int:
    """Bytes that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def test_every_hostile_recipe_suite_setting_and_argument_ends_in_one_sentence(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _most_memory()
    files = {f"document {name}": data for name, data in DOCUMENTS.items()}
    calls: dict[str, tuple[str, ...]] = {}
    for number, (name, data) in enumerate(files.items()):
        path = tmp_path / f"{number}.yaml"
        path.write_bytes(data)
        calls[f"recipe, {name}"] = ("plan", "--recipe", str(path))
        calls[f"suite, {name}"] = ("plan", "--set", f"generation.suite={path}")
    for number, (name, text) in enumerate(SUITES.items()):
        path = tmp_path / f"suite-{number}.yaml"
        path.write_text(text)
        calls[f"suite, {name}"] = ("plan", "--set", f"generation.suite={path}")
    calls |= {f"--set {pair[:80]}": ("plan", "--set", pair) for pair in OVERRIDES}
    calls |= {f"command {arguments}"[:120]: arguments for arguments in COMMANDS}
    assert len(calls) + len(SETTINGS) + len(DATASETS) >= 250
    for case, arguments in calls.items():
        began = _cpu()
        _check_sentence(case, refused(*arguments), _cpu() - began)
    for name, value in SETTINGS:
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            began = _cpu()
            printed = refused("runs")
            _check_sentence(f"{name}={value[:80]}", printed, _cpu() - began)
            assert "secret" not in printed
    assert _most_memory() - before < _MOST_BYTES


def test_every_hostile_dataset_ends_in_one_sentence_and_writes_no_version(tmp_path: Path) -> None:
    before = _most_memory()
    for number, (case, make) in enumerate(DATASETS.items()):
        folder, layout = tmp_path / str(number), Layout(tmp_path / f"home-{number}")
        folder.mkdir()
        section, began = DatasetSection(source=make(folder), hold_out=0), _cpu()
        with pytest.raises(NarutoError) as refused:
            ingest(section, layout, lambda _: None)
        _check_sentence(case, f"naruto: {refused.value}\n", _cpu() - began)
        assert not (layout.root / "datasets").exists(), case
        assert _most_memory() - before < _MOST_BYTES, case


def _sentence(act: Callable[[], object]) -> str:
    """The sentence of the error that `act` raises; "" when it raises none. Another kind of error is a failure."""
    try:
        act()
    except NarutoError as error:
        return str(error)
    return ""


def test_a_dictionary_that_repeats_a_large_cell_is_read_in_small_batches(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What unpacks is known beforehand, whatever the footer says."""
    for path in (BOMB, Path(lying_footer(tmp_path))):
        with path.open("rb") as raw, pq.ParquetFile(path) as file, monkeypatch.context() as patch:
            with pytest.raises(DatasetUnusable, match="unpack to 100,000,0"):
                safe_batch_rows(file, raw, ["image"], 16, "set")
            assert safe_batch_rows(file, raw, ["text"], 16, "set") == 16
            patch.setattr("naruto_core.dataset.parquet_limits._HARMLESS", 1 << 40)
            assert safe_batch_rows(file, raw, ["image"], 16, "set") == 5


@pytest.mark.parametrize(
    "options", [{"data_page_version": "2.0"}, {"compression": "zstd", "use_dictionary": False}, {}]
)
def test_page_headers_of_honest_files_sum_up_to_what_the_footer_says(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [bytes([n % 251]) * (n * 37 % 3000) for n in range(4000)]
    table = pa.table({"image": cells, "text": [str(n) if n % 3 else None for n in range(4000)], "n": range(4000)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1500, data_page_size=20_000, **options)
    with (tmp_path / "a.parquet").open("rb") as raw, pq.ParquetFile(raw) as file:
        for group in range(3):
            for number in range(3):
                column = file.metadata.row_group(group).column(number)
                stated = column.total_uncompressed_size
                assert 0.9 * stated <= _unpacked_size(raw, column) <= stated  # the footer counts headers too


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_yaml = st.one_of(_text, st.text("[]{}:,&*!|>-?#\"' \n\tab01.", max_size=60))


@given(key=st.sampled_from([pair.partition("=")[0] for pair in OVERRIDES]), text=_yaml)
@hypothesis_settings(max_examples=30, deadline=None, derandomize=True)
def test_whatever_is_set_is_a_value_or_one_sentence(key: str, text: str) -> None:
    sentence = _sentence(lambda: choose_recipe("mini", overrides=overrides_from_text([f"{key}={text}"])))
    assert "\n" not in sentence or "\n" in key + text


@given(at=st.integers(0, len(MINI)), length=st.integers(0, 30), text=_yaml)
@hypothesis_settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_a_recipe_file_holds_is_a_recipe_or_one_sentence(
    at: int, length: int, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MINI[:at] + text + MINI[at + length :], encoding="utf-8")
    sentence = _sentence(lambda: read_recipe(path))
    assert sentence == "" or sentence.startswith(("recipe mine.yaml", "cannot read recipe", f"recipe {path} must be"))
