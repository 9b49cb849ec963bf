"""A LoRA and pictures of other programs become runs that are drawn, scored, compared and rated beside our own."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deployments.service.errors import ApiError
from deployments.service.model_registry import ModelRegistry
from naruto_core.artifacts import Layout
from naruto_core.domain import Variant
from naruto_core.judging.campaign_plan import contender, plan_units
from naruto_core.ratings import Action, Campaign, Mode, Outcome, RatingEvent, Role
from naruto_core.store.database import open_database
from tests.flows.conftest import SMALL, Naruto, flags

NOW = datetime(2026, 11, 28, tzinfo=UTC)
DRAWN = {key: value for key, value in SMALL.items() if not key.startswith("training.")}
OPTIONS = flags(DRAWN | {"generation.variants": "[adapted]", "scoring.resamples": 100})


@pytest.fixture(scope="session")
def home(small_run: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the small run's home, for runs beside it."""
    copy = tmp_path_factory.mktemp("imports") / "home"
    shutil.copytree(small_run[0], copy)
    return copy


def _database(home: Path):
    return open_database(f"sqlite:///{home / 'naruto.db'}")


def _run(naruto: Naruto, home: Path, profile: str) -> str:
    """The id of the only run of `profile`; "" when there is none."""
    rows = json.loads(naruto(home, "runs", "--json").stdout)
    return next((row["id"] for row in rows if row["profile"] == profile), "")


@pytest.fixture
def imported(small_run: tuple[Path, str], home: Path, naruto: Naruto) -> str:
    """The id of the run that imports the small run's LoRA in kohya's form; imported by the first test that asks."""
    if not _run(naruto, home, "from-kohya"):
        assert naruto(home, "export", "kohya", small_run[1], str(home.parent)).returncode == 0
        (file,) = home.parent.glob("*.safetensors")
        done = naruto(home, "import", "lora", str(file), "--name", "From_kohya", *OPTIONS)
        assert done.returncode == 0, done.stderr
        assert f"{file.name}: kohya form, rank 16, 48 modules" in done.stderr
        assert "the file says ss_steps: 12" in done.stderr
    return _run(naruto, home, "from-kohya")


def _pixels(home: Path, path: str) -> np.ndarray:
    with Image.open(home / path) as picture:
        return np.array(picture.convert("RGB")).astype(int)


def test_an_imported_kohya_lora_draws_what_its_run_drew_and_is_compared_with_it(
    small_run: tuple[Path, str], home: Path, imported: str, naruto: Naruto
):
    with _database(home) as database:
        own, theirs = (database.runs.samples(run_id, Variant.ADAPTED) for run_id in (small_run[1], imported))
        base = database.runs.samples(small_run[1], Variant.BASE)
    assert [(s.prompt, s.seed) for s in theirs] == [(s.prompt, s.seed) for s in own]
    to_import, to_base = (
        [np.abs(_pixels(home, a.path) - _pixels(home, b.path)) for a, b in zip(own, others, strict=True)]
        for others in (theirs, base)
    )
    assert max(difference.max() for difference in to_import) <= 3  # kohya's file is in half precision
    # twelve steps change little, but more than this rounding
    assert np.mean(to_import) < np.mean(to_base) / 2
    rows = json.loads(naruto(home, "compare", small_run[1], imported, "--json").stdout)
    assert {"mmd", "clip", "copying"} <= {row["metric"] for row in rows}
    assert naruto(home, "verify").stdout.startswith("every recorded file is there")


def test_an_imported_lora_is_rated_in_a_campaign_beside_our_own(small_run: tuple[Path, str], home: Path, imported: str):
    with _database(home) as database:
        names = [contender(run_id, "adapted") for run_id in (small_run[1], imported)]
        suite = database.runs.prompts(imported)
        assert suite is not None
        samples = {n: database.runs.samples(n.partition("/")[0], Variant.ADAPTED) for n in names}
        units = plan_units(Mode.PAIR, samples, suite.prompts, overlap=0, raters=1, gold=0, seed=0)
        assert len(units) == 6
        campaign = database.ratings.open_campaign(Campaign("", "both", "Which?", Mode.PAIR, NOW), units, 0)
        database.ratings.add_reviewer("admin", Role.ADMIN)
        me = database.ratings.add_reviewer("me", Role.REVIEWER)[0].id
        assignment = database.ratings.next_assignment(campaign.id, me, NOW)
        assert assignment is not None
        event = RatingEvent(assignment.id, Action.VOTE, "n", 2.5, "390x844", Outcome.LEFT)
        assert database.ratings.record(me, event, NOW)
        assert sorted(database.ratings.models(campaign.id)) == sorted(names)
        assert len(database.ratings.ratings(campaign.id)) == 1


def test_what_is_said_and_handed_out_of_an_imported_run_claims_no_training(
    home: Path, imported: str, naruto: Naruto, tmp_path: Path
):
    shown = json.loads(naruto(home, "show", imported, "--json").stdout)
    assert "training" not in shown["recipe"]
    assert shown["imported"].endswith("its training is unknown.")
    scores = naruto(home, "scores", imported, "--all").stdout
    assert "imported: Imported from" in scores
    assert scores.count("Its training pictures are unknown") == 2
    for command in ("hub", "kohya", "endpoint"):
        done = naruto(home, "export", command, imported, str(tmp_path / command))
        assert done.returncode == 0, done.stderr
    card = (tmp_path / "hub" / imported / "README.md").read_text()
    assert "who trained it, how, and on which pictures is unknown" in card
    assert "the file says `ss\\_steps` | 12" in card
    claims = ("trained by", "training.optimizer", "Trained on", "that trained this adapter", "captioned pictures")
    assert [claim for claim in claims if claim in card] == []
    assert naruto(home, "report", imported, "-o", str(tmp_path / "report.html")).returncode == 0
    assert "its training is unknown" in (tmp_path / "report.html").read_text()


def _folder_of(home: Path, run_id: str, target: Path) -> Path:
    """The run's adapted pictures as another program would save them."""
    target.mkdir()
    with _database(home) as database:
        for sample in database.runs.samples(run_id, Variant.ADAPTED):
            with Image.open(home / sample.path) as picture:
                picture.convert("RGB").save(target / f"{sample.prompt}_{sample.seed}.png")
    return target


def test_imported_pictures_get_the_scores_that_the_same_pictures_of_a_run_have_and_are_never_served(
    small_run: tuple[Path, str], home: Path, naruto: Naruto, tmp_path: Path
):
    folder = _folder_of(home, small_run[1], tmp_path / "pictures")
    done = naruto(home, "import", "pictures", str(folder), "--model", "Midjourney v6", *OPTIONS)
    assert done.returncode == 0, done.stderr
    run_id = _run(naruto, home, "midjourney-v6")
    with _database(home) as database:
        own, theirs = (
            {s.metric: s.value for s in database.runs.scores(r) if s.variant is Variant.ADAPTED and not s.sample_id}
            for r in (small_run[1], run_id)
        )
        registry = ModelRegistry(database.runs, database.ratings, Layout(home), None)
        assert registry.spec(None).name != run_id  # it is the newest run
        assert run_id not in [entry.id for entry in registry.entries()]
        with pytest.raises(ApiError, match="no such model"):
            registry.spec(run_id)
        assert database.ratings.promotion_fault(run_id, Layout(home)) == "it has no adapter"
    assert {"mmd", "clip"} <= theirs.keys()
    assert theirs == {metric: own[metric] for metric in theirs}
    recipe = json.loads(naruto(home, "show", run_id, "--json").stdout)["recipe"]
    assert set(recipe["generation"]) == {"suite", "variants", "resolution", "prompts", "seeds"}  # no steps, no sampler
    refused = naruto(home, "export", "kohya", run_id, str(tmp_path))
    assert "it consists of imported pictures" in refused.stderr
    assert refused.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("lora", "gone.safetensors"), "there is no LoRA file gone.safetensors; one of the hub is OWNER/NAME@COMMIT"),
        (("lora", "me/lora@main"), "me/lora@main: give a commit hash"),
        (("lora", "x", "--set", "training.rank=4"), "--set training.rank: an import has no training"),
        (("lora", "x", "--trigger", "sks", "--set", "generation.prompts=1"), "has 'a naruto anime character', so the"),
        (("pictures", "gone", "--model", "m"), "there is no folder gone"),
    ],
)
def test_an_import_that_cannot_work_ends_with_one_sentence_and_records_nothing(
    naruto: Naruto, tmp_path: Path, arguments: tuple[str, ...], sentence: str
):
    done = naruto(tmp_path, "import", *arguments)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
