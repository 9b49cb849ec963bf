"""Captions of recorded datasets: audited by the miniature's judge, and written anew by a tiny random BLIP."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from flows.ingest import ingest_pictures
from flows.listings import list_caption_findings, recaption
from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout
from naruto_core.dataset.caption_audit import CaptionFault
from naruto_core.dataset.ingest import ingest as read_and_check
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import DatasetUnusable, NotRecorded
from naruto_core.recipe_sections import DatasetSection
from naruto_core.store.database import open_store
from tasks.captions import check_captions, find_caption_noise
from tasks.context import task_context
from tasks.ingest import ingest
from tasks.recaption import recaption_dataset
from tests.tiny_blip import write_blip

RECIPE = choose_recipe("mini")
WORLD = "world:naruto?count=60&seed=5"
SHUFFLED = 6  # drawings that have each other's captions
HELD_OUT = 10


@pytest.fixture(scope="module")
def home(prefect_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root of this module's own, without the model hub."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NARUTO_HOME", str(root))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield root


@pytest.fixture(scope="module")
def noisy(home: Path) -> tuple[Path, dict[str, CaptionFault]]:
    """An imagefolder of drawings with faults planted, and which fault each picture has, by its file's stem."""
    layout = Layout(home / "elsewhere")
    clean = read_and_check(DatasetSection(source=WORLD), layout, lambda _: None).version
    pictures = read_pictures(layout, clean)
    captions = [picture.caption for picture in pictures]
    planted: dict[int, CaptionFault] = {}
    for at, after in zip(range(SHUFFLED), [*range(1, SHUFFLED), 0], strict=True):
        captions[at] = pictures[after].caption
        planted[at] = CaptionFault.UNLIKE_PICTURE
    captions[20], planted[20] = "...", CaptionFault.EMPTY
    captions[21] = captions[22].upper() + "!"
    planted |= {21: CaptionFault.REPEATED, 22: CaptionFault.REPEATED}
    captions[23] = "a person with black hair, spiky green hair"
    planted[23] = CaptionFault.CONTRADICTS_ITSELF
    folder = home / "noisy"
    _write_folder(folder, layout, pictures, captions)
    return folder, {pictures[at].sha256: fault for at, fault in planted.items()}


def _write_folder(folder: Path, layout: Layout, pictures: list[Picture], captions: list[str]) -> None:
    folder.mkdir()
    lines = []
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        shutil.copy(layout.picture(picture.sha256, picture.suffix), folder / f"{i:03}.png")
        lines.append(json.dumps({"file_name": f"{i:03}.png", "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def dataset(noisy: tuple[Path, dict[str, CaptionFault]]) -> DatasetVersion:
    return ingest.fn(DatasetSection(source=str(noisy[0]), hold_out=HELD_OUT))


@pytest.fixture(scope="module")
def blip(home: Path) -> str:
    return str(write_blip(home / "blip"))


def rows_of(dataset: DatasetVersion) -> list[Picture]:
    with task_context() as context:
        return read_pictures(context.layout, dataset)


def naruto(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit status of the `naruto` command, in this process."""
    monkeypatch.setattr(sys, "argv", ["naruto", *words])
    monkeypatch.setattr("flows.cli.settle_libraries", lambda: None)  # they are settled, for all tests
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_planted_faults_are_found_and_hardly_anything_else(
    dataset: DatasetVersion, noisy: tuple[Path, dict[str, CaptionFault]]
):
    audit = check_captions(dataset.source, RECIPE)
    found = {(finding.sha256, finding.kind) for finding in audit.findings}
    planted = set(noisy[1].items())
    plain = {(name, fault) for name, fault in planted if fault is not CaptionFault.UNLIKE_PICTURE}
    assert plain <= found
    precision, recall = len(found & planted) / len(found), len(found & planted) / len(planted)
    print(f"precision {precision:.2f}, recall {recall:.2f}")
    assert precision >= 0.6
    assert recall >= 0.8
    assert audit.summary.n == 60
    assert audit.summary.extractor.startswith("open_clip:")
    assert 0.5 < (audit.summary.median_similarity or 0) < 0.9


def test_a_second_audit_embeds_nothing_and_says_the_same(dataset: DatasetVersion, monkeypatch: pytest.MonkeyPatch):
    first = check_captions(dataset.id, RECIPE)
    monkeypatch.setattr("open_clip.create_model_from_pretrained", lambda *_, **__: pytest.fail("loaded again"))
    assert check_captions(dataset.id[:9], RECIPE) == first


def test_words_only_looks_at_no_picture(dataset: DatasetVersion):
    audit = check_captions(dataset.id, RECIPE, words_only=True)
    assert {f.kind for f in audit.findings} == {
        CaptionFault.EMPTY,
        CaptionFault.REPEATED,
        CaptionFault.CONTRADICTS_ITSELF,
    }
    assert (audit.summary.extractor, audit.summary.median_similarity) == ("", None)


def test_the_listing_names_files_that_are_there(dataset: DatasetVersion, home: Path):
    listing = list_caption_findings(dataset.id, "mini")
    assert all((home / finding["file"]).is_file() for finding in listing.rows["findings"])
    lines = listing.text.splitlines()
    assert lines[0].split() == ["kind", "caption", "picture", "detail"]
    assert f"of 60 captions have a finding ({listing.rows['summary']['share']:.1%})" in lines[-2]


def test_captions_that_the_text_encoders_do_not_read_to_the_end_are_findings_with_numbers(
    home: Path, capsys: pytest.CaptureFixture[str]
):
    layout, folder = Layout(home / "elsewhere"), home / "long"
    folder.mkdir()
    rows = []
    version = read_and_check(DatasetSection(source=WORLD), layout, lambda _: None).version
    for n, picture in enumerate(read_pictures(layout, version)):
        name = f"{n}{picture.suffix}"
        shutil.copy(layout.picture(picture.sha256, picture.suffix), folder / name)
        caption = f"{'red ' * 60}{n} {picture.caption}" if n < 3 else f"{picture.caption} {n}"
        rows.append(json.dumps({"file_name": name, "text": caption}))
    (folder / "metadata.jsonl").write_text("\n".join(rows))
    ingest_pictures.fn("mini", str(folder), {"dataset.hold_out": 5})
    said = capsys.readouterr().err
    assert "warning: with the instance prompt, 3 of 60 captions are longer than the 46 tokens" in said
    assert "3 different captions become 1 text." in said
    listing = list_caption_findings(str(folder), "mini", words_only=True)
    cut = [finding for finding in listing.rows["findings"] if finding["kind"] == CaptionFault.TRUNCATED]
    assert len(cut) == listing.rows["summary"]["counts"][CaptionFault.TRUNCATED] == 3
    assert "tokens, and the text encoders read 46: word " in cut[0]["detail"]
    assert cut[0]["detail"].endswith("3 different captions become this text")
    assert "3 of 60 captions are longer" in listing.text


def test_of_several_versions_of_a_source_the_newest_is_looked_at(home: Path):
    section = DatasetSection(source="world:naruto?count=12&seed=1")
    versions = [ingest.fn(section.model_copy(update={"hold_out": n})) for n in (2, 5)]
    assert check_captions(section.source, RECIPE, words_only=True).dataset == versions[1]


def test_recaptioned_pictures_keep_their_bytes_and_their_side(dataset: DatasetVersion, blip: str, home: Path):
    made = recaption_dataset(dataset.id, blip, None, home / "anew", RECIPE)
    before, after = rows_of(dataset), rows_of(made.version)
    assert made.version.id != dataset.id
    assert made.version.n_reference == HELD_OUT
    assert [(p.sha256, p.split) for p in after] == [(p.sha256, p.split) for p in before]
    assert made.n == sum(a.caption != b.caption for a, b in zip(before, after, strict=True)) == 60
    for picture in after:
        kept = (home / "anew" / f"{picture.sha256}{picture.suffix}").read_bytes()
        assert kept == Layout(home).picture(picture.sha256, picture.suffix).read_bytes()
    with open_store(f"sqlite:///{home / 'naruto.db'}") as store:
        assert store.find_dataset(made.version.id) == made.version


def test_only_flagged_leaves_the_other_captions_as_they_were(
    dataset: DatasetVersion, blip: str, noisy: tuple[Path, dict[str, CaptionFault]]
):
    flagged = {finding.sha256 for finding in check_captions(dataset.id, RECIPE).findings}
    made = recaption_dataset(dataset.id, blip, None, None, RECIPE, only_flagged=True)
    old = {p.sha256: p.caption for p in rows_of(dataset)}
    assert {p.sha256 for p in rows_of(made.version) if p.caption != old[p.sha256]} == flagged
    lines = [json.loads(line) for line in (made.folder / "metadata.jsonl").read_text().splitlines()]
    assert sum(line.get("captioned_by") == made.captioner for line in lines) == len(flagged) == made.n


def test_a_second_recaptioning_writes_no_caption_and_makes_the_same_version(
    dataset: DatasetVersion, blip: str, monkeypatch: pytest.MonkeyPatch
):
    first = recaption_dataset(dataset.id, blip, None, None, RECIPE)
    monkeypatch.setattr("tasks.recaption.recaption", lambda *_: pytest.fail("captioned again"))
    assert recaption_dataset(dataset.id, blip, None, None, RECIPE) == first


def test_rows_with_the_same_bytes_stay_apart_so_that_nobody_changes_side(home: Path, blip: str):
    layout = Layout(home / "elsewhere")
    clean = read_and_check(DatasetSection(source="world:naruto?count=8&seed=2"), layout, lambda _: None).version
    pictures = read_pictures(layout, clean)
    twice = [*pictures, *pictures[:4]]
    _write_folder(home / "twice", layout, twice, [f"number {i}" for i in range(len(twice))])
    before = ingest.fn(DatasetSection(source=str(home / "twice"), hold_out=3))
    after = recaption_dataset(before.id, blip, None, None, RECIPE).version
    assert after.n_pictures == 12
    assert [(p.sha256, p.split) for p in rows_of(after)] == [(p.sha256, p.split) for p in rows_of(before)]
    assert sum(p.caption.startswith("number") for p in rows_of(after)) == 4  # one of each pair


def test_pictures_without_captions_are_audited_without_a_model_and_captioned_anew(home: Path, blip: str):
    layout = Layout(home / "elsewhere")
    clean = read_and_check(DatasetSection(source="world:naruto?count=8&seed=4"), layout, lambda _: None).version
    folder = home / "bare" / "4_sks"  # kohya's name: the pictures are repeated, and have the words as captions
    folder.mkdir(parents=True)
    for picture in read_pictures(layout, clean):
        shutil.copy(layout.picture(picture.sha256, picture.suffix), folder)
    shutil.copytree(folder, home / "plain")
    bare = ingest.fn(DatasetSection(source=str(home / "plain"), hold_out=3))
    audit = check_captions(bare.id, RECIPE)
    assert {finding.kind for finding in audit.findings} == {CaptionFault.EMPTY}
    assert (audit.summary.n, audit.summary.flagged, audit.summary.extractor) == (8, 8, "")
    with task_context() as context:
        noise = find_caption_noise(context, "a-run", bare, RECIPE)
    assert noise.warning
    assert noise.sentence.startswith("no picture has a caption: all were trained with the instance prompt alone")
    for source, repeats in ((str(home / "plain"), 1), (str(folder.parent), 4)):
        before = ingest.fn(DatasetSection(source=source, hold_out=3))
        after = recaption_dataset(source, blip, None, None, RECIPE).version
        assert [(p.sha256, p.split, p.repeats) for p in rows_of(after)] == [
            (p.sha256, p.split, repeats) for p in rows_of(before)
        ]
        assert all(p.caption not in ("", "sks") for p in rows_of(after))


def test_a_folder_that_holds_something_is_left_alone(dataset: DatasetVersion, blip: str, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DatasetUnusable, match="not an empty folder"):
        recaption_dataset(dataset.id, blip, None, tmp_path, RECIPE)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_nothing_flagged_is_nothing_to_write(home: Path, blip: str):
    source = "world:naruto?count=4&seed=3"
    ingest.fn(DatasetSection(source=source))
    with pytest.raises(DatasetUnusable, match="no caption with a finding"):
        recaption_dataset(source, blip, None, None, RECIPE, only_flagged=True)


def test_what_came_of_it_says_how_to_train_on_it(dataset: DatasetVersion, blip: str, home: Path):
    told = recaption(dataset.id, "mini", blip, None, home / "told", only_flagged=False)
    assert told.startswith(f"60 of 60 captions of {dataset.id} written anew by blip:")
    assert told.endswith(f"naruto run --recipe mini --dataset {home / 'told'} --set dataset.hold_out={HELD_OUT}")


def test_a_name_that_nothing_was_ingested_under_is_one_sentence(dataset: DatasetVersion):
    with pytest.raises(NotRecorded, match="there is no dataset 'nope': bring it in with `naruto ingest`"):
        check_captions("nope", RECIPE)


def test_the_command_answers_in_json(
    dataset: DatasetVersion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert naruto(monkeypatch, "captions", dataset.id, "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["n"] == 60


@pytest.mark.parametrize(
    "words",
    ["captions nope", "recaption {dataset} --model org/blip", "recaption nope --model {blip}", "captions ds- -r not"],
)
def test_a_mistake_is_one_sentence_and_exit_1(
    words: str, dataset: DatasetVersion, blip: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert naruto(monkeypatch, *words.format(blip=blip, dataset=dataset.id).split()) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("naruto: ")
    assert len(told.err.splitlines()) == 1
