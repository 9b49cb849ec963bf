"""Ingest on real files: what is stored, what is refused, and what a killed process leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_bytes import (
    broken_pictures,
    encoded,
    picture,
    png,
    rows,
    write_imagefolder,
    write_parquet,
    write_saved,
    write_tar,
    write_zip,
)

from naruto_core.artifacts import Layout, sha256_bytes
from naruto_core.dataset.ingest import IngestResult, ingest
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import Progress, Split
from naruto_core.errors import DatasetUnusable, StorageFailed
from naruto_core.recipe_sections import DatasetSection
from tests.small_disk import on_a_small_disk


@dataclass
class Home:
    """A data root, and what ingesting into it reported."""

    layout: Layout
    reports: list[Progress] = field(default_factory=list)

    def ingest(self, source: object, **options: object) -> IngestResult:
        section = DatasetSection.model_validate({"source": str(source), **options})
        return ingest(section, self.layout, self.reports.append)

    def stored(self) -> list[Path]:
        return sorted(p for p in (self.layout.root / "pictures").rglob("*") if p.is_file())


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(Layout(tmp_path / "var"))


READ = """
import json, sys
from pathlib import Path
from naruto_core.artifacts import Layout
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion
print(len(read_pictures(Layout(Path(sys.argv[1])), DatasetVersion(**json.loads(sys.argv[2])))))
"""


def test_a_process_that_reads_a_dataset_and_ends_at_once_ends_well(home: Home, tmp_path: Path) -> None:
    """Arrow's own threads would abort a process that ends while they run."""
    version = home.ingest(write_parquet(tmp_path / "a.parquet", rows(40))).version
    command = [sys.executable, "-c", READ, str(home.layout.root), json.dumps(asdict(version))]
    done = [subprocess.run(command, capture_output=True, text=True, check=False) for _ in range(4)]
    assert [(process.returncode, process.stdout) for process in done] == [(0, "40\n")] * 4


def test_original_bytes_are_stored_once_under_their_sha256(home: Home, tmp_path: Path) -> None:
    jpeg = encoded(picture(1), "JPEG")
    source = write_parquet(tmp_path / "a.parquet", [(jpeg, "one"), (jpeg, "two"), (png(2), "three")])
    version = home.ingest(source).version
    assert {p.name for p in home.stored()} == {f"{sha256_bytes(jpeg)}.jpg", f"{sha256_bytes(png(2))}.png"}
    assert home.layout.picture(sha256_bytes(jpeg), ".jpg").read_bytes() == jpeg
    assert (version.n_pictures, version.n_duplicates) == (3, 1)
    assert [p.caption for p in read_pictures(home.layout, version) if p.suffix == ".jpg"] == ["one", "two"]


def test_the_same_content_is_the_same_version_whatever_its_order_or_source(home: Home, tmp_path: Path) -> None:
    content = [*rows(20), (png(3), "another caption")]
    sources = [
        write_parquet(tmp_path / "a.parquet", content),
        write_parquet(tmp_path / "turned.parquet", content[::-1]),
        write_imagefolder(tmp_path / "folder", content[7:] + content[:7]),
        write_saved(tmp_path / "saved", content),
        write_parquet(tmp_path / "repeated.parquet", content + content[:4]),
    ]
    versions = [home.ingest(source, hold_out=5).version for source in sources]
    assert len({version.id for version in versions}) == 1
    assert len({tuple(read_pictures(home.layout, version)) for version in versions}) == 1
    assert len({version.table for version in versions}) == 5
    assert [version.n_duplicates for version in versions] == [1, 1, 1, 1, 5]
    assert (versions[0].n_train, versions[0].n_reference) == (16, 5)


def test_broken_files_of_every_kind_are_quarantined_and_the_rest_goes_on(home: Home, tmp_path: Path) -> None:
    broken = broken_pictures()
    content = [*rows(90), *((data, "a ninja") for data, _ in broken), (png(900), None), (png(901), 5), (png(902), "")]
    folder = write_imagefolder(tmp_path / "folder", content)
    result = home.ingest(folder, max_quarantined=0.4)
    assert [(q.source, q.row) for q in result.quarantined] == [(f"{i:04}.png", i) for i in range(90, len(content))]
    reasons = [*(reason for _, reason in broken), "no-caption", "caption-not-text", "no-caption"]
    assert [q.reason for q in result.quarantined] == reasons
    assert all(q.detail for q in result.quarantined)
    assert (result.version.n_pictures, result.version.n_quarantined) == (90, len(broken) + 3)


def test_too_many_broken_records_are_refused_without_a_version(home: Home, tmp_path: Path) -> None:
    content = rows(50)
    for i in range(0, 50, 5):
        content[i] = (content[i][0][:-60], content[i][1])
    source = write_parquet(tmp_path / "a.parquet", content)
    with pytest.raises(DatasetUnusable) as refused:
        home.ingest(source)
    assert "10 of 50 records" in str(refused.value)
    assert "20.0%; at most 5.0%" in str(refused.value)
    assert "mostly truncated (10, first in a.parquet row 0" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (home.layout.root / "datasets").exists()
    assert home.ingest(source, max_quarantined=0.2).version.n_pictures == 40


def test_nothing_at_all_and_nothing_usable_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(DatasetUnusable, match="is empty"):
        home.ingest(write_parquet(tmp_path / "none.parquet", []))
    with pytest.raises(DatasetUnusable, match="2 of 2 records"):
        home.ingest(write_parquet(tmp_path / "bad.parquet", [(b"x", "a"), (b"y", "b")]), max_quarantined=1)


def test_held_out_pictures_hardly_depend_on_the_other_pictures(home: Home, tmp_path: Path) -> None:
    def reference(count: int) -> set[str]:
        version = home.ingest(write_parquet(tmp_path / f"{count}.parquet", rows(count)), hold_out=10).version
        return {p.sha256 for p in read_pictures(home.layout, version) if p.split is Split.REFERENCE}

    assert len(reference(40) & reference(44)) >= 6


def test_holding_out_everything_is_refused(home: Home, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(5))
    with pytest.raises(DatasetUnusable, match=r"hold_out is 5, and the dataset has 5 pictures to use"):
        home.ingest(source, hold_out=5)
    twins = write_parquet(tmp_path / "b.parquet", [*rows(2), *((data, f"{text}!") for data, text in rows(2))])
    with pytest.raises(DatasetUnusable, match=r"only 0 of 4 pictures have no duplicate"):
        home.ingest(twins, hold_out=1)


def test_progress_counts_up_to_the_total_and_says_the_time_left(home: Home, tmp_path: Path) -> None:
    content = rows(120)
    content[3] = (b"", "a ninja")
    home.ingest(write_parquet(tmp_path / "a.parquet", content))
    assert [r.done for r in home.reports if r.done % 50 == 0] == [50, 100]
    last = home.reports[-1]
    assert (last.stage, last.done, last.total, last.seconds_left, last.note) == ("ingest", 120, 120, 0, "1 quarantined")


@pytest.mark.parametrize("cut_bytes", [0, -1])
def test_a_picture_that_is_damaged_on_disk_is_stored_again(home: Home, tmp_path: Path, cut_bytes: int) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(3))
    first = home.ingest(source)
    damaged, intact = home.stored()[:2]
    written = intact.stat().st_mtime_ns
    data = damaged.read_bytes()
    damaged.write_bytes(data[:cut_bytes] + b"\0" * (-cut_bytes))  # empty, or as long as it was
    assert home.ingest(source) == first
    assert sha256_bytes(damaged.read_bytes()) == damaged.stem
    assert intact.stat().st_mtime_ns == written


SCRIPT = r"""
import re, sys
from pathlib import Path
from naruto_core.artifacts import Layout
from naruto_core.dataset.ingest import ingest
from naruto_core.errors import NarutoError
from naruto_core.recipe_sections import DatasetSection
try:
    result = ingest(DatasetSection(source=sys.argv[1], hold_out=3), Layout(Path(sys.argv[2])), lambda p: None)
except NarutoError as error:
    sys.exit(f"{type(error).__name__}: {error}")
assert "torch" not in sys.modules
status = Path("/proc/self/status")
peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1] if status.exists() else ""
print(result.version.id, result.version.n_pictures, peak)
"""


def _in_a_process(source: Path, root: Path, *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", SCRIPT, str(source), str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_killed_ingest_resumes_to_the_same_version(home: Home, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(1500))
    root = home.layout.root
    command = [sys.executable, "-c", SCRIPT, str(source), str(root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(home.stored()) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    left = home.stored()
    assert 20 <= len(left) < 1500
    assert not (root / "datasets").exists()
    whole = [path for path in left if not path.name.startswith(".")]
    assert all(sha256_bytes(path.read_bytes()) == path.stem for path in whole)
    done = _in_a_process(source, root).stdout.split()
    undisturbed = _in_a_process(source, tmp_path / "other").stdout.split()
    assert done[:2] == undisturbed[:2]
    assert done[1] == "1500"
    assert len([path for path in home.stored() if not path.name.startswith(".")]) == 1500


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


@needs_proc
def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """Ten times as many rows in one row group, 80 MB of pictures instead of 8, cost less than 25 MB.

    20 MB in archives with caption files cost less than 8 MB more than those 8.
    """
    noise = os.urandom(100_000)  # behind the picture's end, where decoders do not look
    peaks: list[int] = []
    for count in (80, 800):
        entries = [{"bytes": png(i) + noise, "path": None} for i in range(count)]
        table = pa.table({"image": entries, "text": [f"a character, number {i}" for i in range(count)]})
        source = tmp_path / f"{count}.parquet"
        options = {"compression": "none", "use_dictionary": False, "write_batch_size": 16}
        pq.write_table(table, source, row_group_size=count, **options)
        done = _in_a_process(source, tmp_path / f"var{count}")
        peaks.append(int(done.stdout.split()[2]))
    assert source.stat().st_size > 80_000_000
    assert peaks[1] - peaks[0] < 25_000  # KiB
    files = {f"{i}.png": png(i) + noise for i in range(200)} | {f"{i}.txt": f"number {i}" for i in range(200)}
    for archive in (write_zip(tmp_path / "a.zip", files), write_tar(tmp_path / "a.tar", files)):
        done = _in_a_process(archive, tmp_path / f"var-{archive.name}")
        assert int(done.stdout.split()[2]) - peaks[0] < 8_000


@needs_proc
def test_thousands_of_rows_need_little_additional_memory(tmp_path: Path) -> None:
    few, many = (
        int(_in_a_process(write_parquet(tmp_path / f"{n}.parquet", rows(n)), tmp_path / f"var{n}").stdout.split()[2])
        for n in (300, 3000)
    )
    assert many - few < 30_000  # KiB, half of it the buffers that Arrow reads the version back with


def test_a_file_where_a_folder_is_needed_is_an_error(home: Home, tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(3))
    home.layout.root.mkdir()
    for name in ("pictures", "datasets"):
        (home.layout.root / name).write_text("in the way")
        with pytest.raises(StorageFailed, match="a file is where a folder is needed"):
            home.ingest(source)
        (home.layout.root / name).unlink()


def test_a_folder_without_write_permission_is_an_error(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "a.parquet", rows(3))
    root = tmp_path / "var"
    root.mkdir()
    root.chmod(0o500)
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write anywhere, and there is no setpriv to take that right away")
        refused = _in_a_process(source, root, "setpriv", "--bounding-set=-dac_override,-dac_read_search")
    else:
        refused = _in_a_process(source, root)
    assert refused.stderr.startswith("StorageFailed: cannot write ")
    assert "this user has no write permission" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("kilobytes", [64, 404])
def test_a_full_disk_is_an_error(tmp_path: Path, kilobytes: int) -> None:
    """A disk too small for the pictures, and one on which only the table no longer fits."""
    source = write_parquet(tmp_path / "a.parquet", rows(100))
    (tmp_path / "disk").mkdir()
    small_disk = on_a_small_disk(tmp_path / "disk", kilobytes)
    refused = _in_a_process(source, tmp_path / "disk" / "var", *small_disk)
    assert refused.returncode == 1
    assert "StorageFailed: cannot write " in refused.stderr
    assert "the disk is full" in refused.stderr


@pytest.mark.skipif(
    "NARUTO_TOON_CAPTIONS" not in os.environ, reason="set NARUTO_TOON_CAPTIONS to the folder of toon-captions"
)
def test_real_drawings_are_all_usable(home: Home) -> None:
    began = time.monotonic()
    version = home.ingest(os.environ["NARUTO_TOON_CAPTIONS"], hold_out=200).version
    assert (version.n_pictures, version.n_reference, version.n_quarantined) == (1221, 200, 0)
    assert time.monotonic() - began < 20
