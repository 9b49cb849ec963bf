"""The main job for real: all of it, killed anywhere, told in one sentence what it cannot do."""

import json
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow.csv import read_csv
from pyarrow.parquet import read_table
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from naruto_core.artifacts import Layout
from naruto_core.domain import Variant
from naruto_core.generation import Job, Painter
from naruto_core.picture_file import read_facts
from naruto_core.scoring.metrics import SAMPLE_METRICS
from naruto_core.store.database import open_store
from naruto_core.training import latent_cache
from tests.flows.conftest import SMALL, Naruto, flags
from tests.preloaded import Preloaded

SAMPLES = 3 * 2 * 2  # prompts x seeds x variants
STEPS = 12


def _count(home: Path, table: str) -> int:
    with sqlite3.connect(home / "naruto.db") as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])


def test_one_run_leaves_pictures_scores_and_a_sheet_in_the_record(small_run: tuple[Path, str]):
    home, run_id = small_run
    layout = Layout(home)
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        assert store.run(run_id).state == "done"
        samples = store.samples(run_id)
        assert len(samples) == SAMPLES
        assert all((home / sample.path).exists() for sample in samples)
        scores = store.scores(run_id)
        sets = {(s.metric, str(s.variant)): s for s in scores if s.sample_id is None}
        assert {("mmd", v) for v in ("base", "adapted", "real")} <= set(sets)
        assert {metric for metric, _ in sets} == {"kd-judge", "cmmd", "mmd", "vendi"} | {
            m.name for m in SAMPLE_METRICS if not (m.optional or m.sparse)
        } | {name for name, _ in sets if name.startswith("attributes")}
        read = {key: score for key, score in sets.items() if key[0].startswith("attributes")}
        assert all(s.extractor.startswith("reader:") and s.version and s.method for s in read.values())
        embedded = {key: score for key, score in sets.items() if key not in read}
        assert all(s.extractor.startswith("open_clip:") and s.version and s.method for s in embedded.values())
        assert all(s.n == 6 for (_, variant), s in embedded.items() if variant != "real")
        assert {read["attributes", variant].n for variant in ("base", "adapted")} == {2}
        assert {s.details["seeds"] for s in sets.values()} == {"11, 22"}
        findings = {finding.name: finding for finding in store.findings(run_id)}
        too_few = "the set of drawn pictures holds 6 pictures; this score needs at least"
        for metric, least in (("fd-judge", 16), ("recall", 8)):
            assert f"{metric}: {too_few} {least}" in findings["not measured"].sentence
        assert "are too few to compare with" in findings["overfitting"].sentence
        assert findings["fused model"].figures["pictures"] == 4
        assert all(s.low <= s.value <= s.high for s in sets.values())
        assert sets["mmd", "base"].reference.endswith(":12")
        singles = [s for s in scores if s.sample_id]
        assert Counter(s.metric for s in singles if s.metric.startswith("attributes")) == {
            "attributes": SAMPLES // 3,  # one of the three prompts asks for a place, two for the style
            "attributes-place": SAMPLES // 3,
            "attributes-style": SAMPLES * 2 // 3,
        }
        dense = [s for s in singles if not s.metric.startswith("attributes")]
        assert len(dense) == SAMPLES * sum(not (metric.optional or metric.sparse) for metric in SAMPLE_METRICS)
        steps = store.steps(run_id)
        assert [s.step for s in steps] == list(range(STEPS))
        units = {record.planned.phase: (record.planned.units, record.measured_units) for record in store.phases(run_id)}
        counts = {"class pictures": 4, "encode": 28 + 4 + 4, "train": STEPS, "fuse": 1, "samples": SAMPLES}
        counts |= {"fused check": 4, "score": SAMPLES + 28 + 12}
        assert units == {phase: (count, count) for phase, count in counts.items()}
    assert layout.adapter(run_id).exists()
    assert not layout.checkpoint(run_id).exists()
    with Image.open(layout.contact_sheet(run_id)) as sheet:
        assert sheet.width > 500


def test_the_same_command_again_finds_everything_done(small_run: tuple[Path, str], naruto: Naruto):
    home, run_id = small_run
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*.png") if p.name != "contact-sheet.png"}
    again = naruto(home, "run", *flags(SMALL))
    assert again.returncode == 0, again.stderr
    assert run_id in again.stderr
    assert "\ntrain " not in again.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert _count(home, "runs") == 1


def test_killed_in_ingest_train_generate_and_score_it_goes_on_to_the_same_bytes(
    small_run: tuple[Path, str], programs: Preloaded, environment: dict[str, str], tmp_path: Path
):
    undisturbed, run_id = small_run
    variables = environment | {"NARUTO_HOME": str(tmp_path)}
    for stage in ("ingest", "train", "generate", "score"):
        program = programs.start("flows", "run", *flags(SMALL), environment=variables)
        seen = ""
        for line in program.output:
            seen += line
            if line.startswith(f"{stage} "):
                program.kill()
                break
        assert program.wait() == -signal.SIGKILL, f"{stage} was over before it could be killed:\n{seen}"
    last = programs.start("flows", "run", *flags(SMALL), environment=variables)
    told = last.output.read()
    assert last.wait() == 0, told

    layout, other = Layout(tmp_path), Layout(undisturbed)
    assert layout.adapter(run_id).read_bytes() == other.adapter(run_id).read_bytes()
    curve = EventAccumulator(str(layout.tensorboard(run_id)), {"scalars": 0})
    curve.Reload()
    assert [point.step for point in curve.Scalars("train/loss")] == list(range(STEPS))
    for table in ("runs", "samples", "scores", "steps", "adapter_files", "fused_models", "datasets", "findings"):
        assert _count(tmp_path, table) == _count(undisturbed, table), table
    with (
        open_store(f"sqlite:///{tmp_path / 'naruto.db'}") as ours,
        open_store(f"sqlite:///{undisturbed / 'naruto.db'}") as theirs,
    ):
        assert [(s.id, s.sha256) for s in ours.samples(run_id)] == [(s.id, s.sha256) for s in theirs.samples(run_id)]
        pairs = zip(ours.scores(run_id), theirs.scores(run_id), strict=True)
        assert all(a.value == pytest.approx(b.value, rel=1e-6) for a, b in pairs)


def test_a_second_run_of_another_rank_draws_and_encodes_only_its_own(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Counted where pictures are painted and encoded; and the run is whole when the cache is deleted."""
    undisturbed, first = small_run
    home = shutil.copytree(undisturbed, tmp_path / "home")
    painted: list[tuple[str, Job]] = []
    encoded: list[object] = []
    paint, encode = Painter.paint, latent_cache._encode_shard

    def counting_paint(self: Painter, jobs: Sequence[Job], on_step: Any = None) -> Any:
        adapted = hasattr(self.pipeline.unet, "peft_config")
        painted.extend(("adapted" if adapted else Path(self.pipeline.name_or_path).name, job) for job in jobs)
        return paint(self, jobs, on_step)

    def counting_encode(*given: Any) -> None:
        encoded.append(given)
        encode(*given)

    monkeypatch.setattr(Painter, "paint", counting_paint)
    monkeypatch.setattr(latent_cache, "_encode_shard", counting_encode)
    done = naruto(home, "run", *flags(SMALL | {"training.rank": 4, "training.max_train_steps": 2}))
    assert done.returncode == 0, done.stderr
    assert Counter(name for name, _ in painted) == {"adapted": 3 * 2, "fused": 4}
    assert encoded == []
    assert "exists already and is not planned: class pictures 4, samples of the base 6" in done.stderr
    planned = naruto(home, "plan", "--json", *flags(SMALL | {"training.rank": 8}))
    bases = {phase["phase"]: phase["basis"] for phase in json.loads(planned.stdout)["phases"]}
    assert {bases[phase] for phase in ("train", "fuse", "samples", "score")} == {"measured here"}
    refused = naruto(home, "plan", "--gpu", "k80")
    assert (refused.returncode, "use one of t4, l4" in refused.stderr) == (1, True)
    assert "which a T4 only emulates" in naruto(home, "plan", "--gpu", "t4").stderr
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        (second,) = (summary.run.id for summary in store.runs() if summary.run.id != first)
        drawn = [{(s.prompt, s.seed): s.sha256 for s in store.samples(run, Variant.BASE)} for run in (first, second)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 6
    shutil.rmtree(home / "cache")
    assert naruto(home, "verify").returncode == 0


def _flip_bits(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data) - 2000, len(data), 4):
        data[at] ^= 1
    path.write_bytes(data)


def _facts(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        return read_facts(picture)


def test_damaged_files_are_made_again_by_the_same_command_and_the_run_ends_as_it_was(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    """Of a done run: encoded and class pictures, the adapter, the fused model, a drawn picture."""
    undisturbed, run_id = small_run
    home = shutil.copytree(undisturbed, tmp_path / "home")
    (drawn,) = (path for path in home.glob("cache/pictures/*/*.png") if _facts(path)["seed"] == 43)
    whole = drawn.read_bytes()
    (home / "runs" / run_id / "fused" / "model_index.json").unlink()
    for path in (drawn, *home.glob("cache/examples-*/*.safetensors"), *home.glob("runs/*/fused/unet/*.safetensors")):
        _flip_bits(path)
    next((home / "runs" / run_id / "samples").glob("*.png")).unlink()
    Layout(home).adapter(run_id).unlink()
    done = naruto(home, "run", *flags(SMALL))
    assert done.returncode == 0, done.stderr
    for sentence in (
        "the adapter is trained again: its file",
        "the fused model is made again",
        "samples are made again",
    ):
        assert sentence in done.stderr + done.stdout
    assert Layout(home).adapter(run_id).read_bytes() == Layout(undisturbed).adapter(run_id).read_bytes()
    assert drawn.read_bytes() == whole
    assert naruto(home, "verify").returncode == 0
    with (
        open_store(f"sqlite:///{home / 'naruto.db'}") as ours,
        open_store(f"sqlite:///{undisturbed / 'naruto.db'}") as theirs,
    ):
        assert ours.run(run_id).state == "done"
        assert ours.find_fused(run_id) == theirs.find_fused(run_id)
        assert [(s.id, s.sha256) for s in ours.samples(run_id)] == [(s.id, s.sha256) for s in theirs.samples(run_id)]


def test_the_listings_speak_to_people_and_to_programs(small_run: tuple[Path, str], naruto: Naruto):
    home, run_id = small_run
    assert run_id in naruto(home, "runs").stdout
    listed = json.loads(naruto(home, "runs", "--json").stdout)
    assert [one["id"] for one in listed] == [run_id]
    scores = json.loads(naruto(home, "scores", run_id, "--json").stdout)
    assert {"kd-judge", "mmd", "vendi", "clip", "style"} <= {row["metric"] for row in scores}
    anchors = {row["variant"]: row["anchored"] for row in scores if row["metric"] == "mmd"}
    assert (anchors["base"], anchors["real"]) == (0, 1)
    told = naruto(home, "scores", run_id).stdout
    assert "warning  not measured: fd-judge: " in told
    assert json.loads(naruto(home, "show", run_id, "--json").stdout)["recipe"]["training"]["rank"] == 16


def test_scores_are_written_as_a_table_and_measured_again_to_the_same_figures(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    tables = {}
    for kind, read in ((".csv", read_csv), (".parquet", read_table)):
        done = naruto(home, "scores", run_id, "-o", str(tmp_path / f"scores{kind}"))
        assert done.returncode == 0, done.stderr
        tables[kind] = read(tmp_path / f"scores{kind}")
    assert (
        tables[".csv"].num_rows
        == tables[".parquet"].num_rows
        > SAMPLES * sum(not (metric.optional or metric.sparse) for metric in SAMPLE_METRICS)
    )
    assert {"metric", "value", "low", "high", "n", "extractor", "suite", "seeds", "sample"} <= set(
        tables[".parquet"].column_names
    )
    refused = naruto(home, "scores", run_id, "-o", str(tmp_path / "scores.xlsx"))
    assert refused.returncode == 1
    assert refused.stderr.endswith("scores.xlsx: write to a .csv or a .parquet file.\n")
    again = naruto(home, "rescore", run_id)
    assert f"{run_id}: nothing moved" in again.stderr
    assert "ok       fused model: in 4 pictures" in naruto(home, "scores", run_id, "--all").stdout
    assert again.returncode == 1  # six pictures are too few for some metrics, and that is said
    assert "naruto: not measured: fd-judge: the set of drawn pictures holds 6 pictures" in again.stderr


def test_two_models_are_compared_from_kept_features_and_a_report_tells_all_of_it(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    done = naruto(home, "compare", f"{run_id}:base", run_id, "--json")
    assert done.returncode == 0, done.stderr
    found = {row["metric"]: row for row in json.loads(done.stdout)}
    assert [name for name, row in found.items() if row["primary"]] == ["mmd", "attributes"]
    assert found["clip"]["verdict"] == "cannot be judged with n = 3 prompts: at least 6 are needed"
    assert found["precision"]["difference"] is None
    alike = naruto(home, "compare", run_id, run_id)
    assert "primary: named in the recipe" in alike.stdout
    assert "alike" in alike.stdout
    assert "undecided" not in alike.stdout
    unknown = naruto(home, "compare", f"{run_id}:best", run_id)
    assert unknown.returncode == 1
    assert unknown.stderr == (
        f"naruto: {run_id}:best: a model is RUN:VARIANT, with base or adapted or fused for VARIANT.\n"
    )
    page = tmp_path / "report.html"
    assert naruto(home, "report", run_id, "-o", str(page)).returncode == 0
    html = page.read_text()
    assert html.count('<img src="data:image/webp;base64,') == 3 * 2 + 2 * 6  # base and adapted; six pairs
    assert "http" not in html.replace("https://", "http://").split("</style>")[1]
    assert "not measured: fd-judge: the set of drawn pictures holds 6 pictures" in html


def test_an_exported_run_is_one_file_for_comfyui_and_a_folder_for_diffusers(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    kohya = naruto(home, "export", "kohya", run_id, str(tmp_path))
    assert kohya.stdout.strip() == str(tmp_path / f"{run_id}.safetensors")
    with safe_open(tmp_path / f"{run_id}.safetensors", framework="pt") as file:
        assert file.metadata()["modelspec.title"] == run_id
        assert len(file.keys()) == 48 * 3
    for options, kept in (((), "pytorch_lora_weights.safetensors"), (("--fused",), "model_index.json")):
        for _ in range(2):  # the same export again replaces the folder
            done = naruto(home, "export", "diffusers", run_id, str(tmp_path / f"of{len(options)}"), *options)
            assert done.returncode == 0, done.stderr
        assert (tmp_path / f"of{len(options)}" / run_id / kept).is_file()
    refused = naruto(home, "export", "diffusers", run_id, str(tmp_path / "of0"), "--fused")
    _one_sentence(refused.stderr, "it has files that this export does not write")
    assert (tmp_path / "of0" / run_id / "pytorch_lora_weights.safetensors").is_file()


def test_an_adapter_that_is_not_the_recorded_one_is_not_exported(
    small_run: tuple[Path, str], naruto: Naruto, tmp_path: Path
):
    home, run_id = small_run
    path = Layout(home).adapter(run_id)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"x")
        refused = naruto(home, "export", "kohya", run_id, str(tmp_path))
    finally:
        path.write_bytes(whole)
    assert refused.returncode == 1
    _one_sentence(refused.stderr, "is not the one that was recorded")
    assert list(tmp_path.iterdir()) == []


def test_verify_is_silent_about_a_whole_archive_and_names_an_altered_picture(
    small_run: tuple[Path, str], naruto: Naruto
):
    home, run_id = small_run
    clean = naruto(home, "verify")
    assert (clean.returncode, "every recorded file is there" in clean.stdout) == (0, True), clean
    victim = sorted((home / "runs" / run_id / "samples").glob("*.png"))[0]
    original = victim.read_bytes()
    try:
        victim.write_bytes(original[:-1] + b"x")
        altered = naruto(home, "verify")
        assert altered.returncode == 1
        assert "altered" in altered.stdout
        assert victim.name in altered.stdout
        kept = [path.rename(path.with_name(f"kept-{path.name}")) for path in (home / "cache").glob("embeddings.db*")]
        refused = naruto(home, "rescore", run_id)
        assert refused.returncode == 1
        _one_sentence(refused.stderr, f"{victim.name} is not the one that was recorded; `naruto run` with the choices")
        for path in kept:
            path.rename(path.with_name(path.name.removeprefix("kept-")))
        assert naruto(home, "scores", run_id, "--all").stdout.count("\nmmd ") == 3  # what was measured is still there
    finally:
        victim.write_bytes(original)


MISTAKES = [
    (["--set", "training.rnk=8"], "unknown key training.rnk"),
    (["--recipe", "minni"], "did you mean mini"),
    (["--dataset", "./no/such/pictures"], "no/such/pictures"),
    (["--set", "dataset.caption_column=txt", "--set", "dataset.source=FOLDER"], "txt"),
    (["--recipe", "t4"], "HF_TOKEN"),
    (["--recipe", "t4", "--set", "publish.push_to_hub=false"], "fp16, which needs a CUDA device"),
    (["--set", "model.base=./no/such/model"], "there is no model folder ./no/such/model"),
    (["--set", "model.base=some/model"], "set its revision"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[sentence for _, sentence in MISTAKES])
def test_a_users_mistake_is_one_sentence_and_a_failing_exit(
    naruto: Naruto, tmp_path: Path, arguments: list[str], sentence: str
):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (64, 64), "teal").save(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a teal square"}\n')
    done = naruto(tmp_path / "home", "run", *[a.replace("FOLDER", str(folder)) for a in arguments])
    assert done.returncode == 1
    _one_sentence(done.stderr, sentence)


@pytest.mark.parametrize("command", [["run"], ["ingest", "world:naruto?count=4&seed=1"]], ids=["run", "ingest"])
def test_a_home_whose_name_cannot_be_part_of_a_tables_address_is_refused_and_nothing_is_left_there(
    naruto: Naruto, tmp_path: Path, command: list[str]
):
    home = tmp_path / "a#b?"
    done = naruto(home, *command)
    assert done.returncode == 1
    _one_sentence(done.stderr, "its name has a '#'; set NARUTO_HOME to another folder.")
    assert not home.exists()


def _one_sentence(stderr: str, sentence: str) -> None:
    mistakes = [line for line in stderr.splitlines() if line.startswith("naruto: ")]
    assert len(mistakes) == 1
    assert sentence in mistakes[0]
    assert "Traceback" not in stderr


def test_a_mistake_in_a_process_of_its_own_is_told_the_same_way(
    programs: Preloaded, environment: dict[str, str], tmp_path: Path
):
    (tmp_path / "file").write_text("not a folder")
    variables = environment | {"NARUTO_HOME": str(tmp_path / "file" / "home")}
    program = programs.start("flows", "run", *flags(SMALL), environment=variables)
    told = program.output.read()
    assert program.wait() == 1
    assert told.splitlines()[-1].startswith("naruto: ")
    _one_sentence(told, str(tmp_path / "file"))
