"""What is deleted with a run and what stays, and what `naruto gc` may remove."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import NOON, open_run, sample, score
from safetensors.numpy import save_file

from naruto_core.artifacts import Layout, link_or_copy, sha256_file
from naruto_core.domain import Adapter, DatasetVersion, FusedModel, RunState, StepRecord, Variant
from naruto_core.errors import DeletionRefused, NotRecorded, RatingRefused, RecipeInvalid
from naruto_core.ratings import Campaign, Mode, Unit
from naruto_core.store import deletion
from naruto_core.store.database import Database, open_database
from naruto_core.store.deletion import KeptRuns, Rebuildable, parse_kept
from naruto_core.store.leases import LeaseOwner, this_process
from naruto_core.store.promotions import CHAMPION
from naruto_core.store.verification import verify

NOBODY = KeptRuns(False, False, frozenset(), 0)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def database(url: str, dataset: DatasetVersion) -> Iterator[Database]:
    with open_database(url) as opened:
        yield opened


def finished_run(database: Database, layout: Layout, dataset: DatasetVersion, fingerprint: str, base: Path) -> str:
    """A run with a file of each kind; its base picture is a link to `base` in the cache."""
    run = open_run(database.runs, dataset.id, fingerprint)
    adapter, fused = layout.adapter(run.id), layout.fused(run.id)
    adapter.parent.mkdir(parents=True)
    save_file({"lora": np.ones(4, np.float32)}, adapter)
    (fused / "unet").mkdir(parents=True)
    save_file({"w": np.zeros(1000, np.float32)}, fused / "unet" / "m.safetensors")
    of_base = sample(run.id, 0, sha256=sha256_file(base))
    link_or_copy(base, layout.root / of_base.path)
    database.runs.add_adapters([Adapter(run.id, layout.relative(adapter), sha256_file(adapter), 4, 10)])
    database.runs.add_fused(FusedModel(run.id, layout.relative(fused), "0" * 64, 1.0))
    database.runs.add_samples([of_base])
    database.runs.add_scores([replace(score(run.id, 3.0), variant=Variant.ADAPTED)])
    database.runs.add_scores([score(run.id, 0.5, sample_id=of_base.id)])
    database.runs.add_steps(run.id, [StepRecord(0, 0.1, 1e-4)])
    database.runs.change_tags(run.id, ["good"], [])
    database.runs.finish_run(run.id, NOON)
    return run.id


def cached_picture(layout: Layout, name: str) -> Path:
    """A picture of the base model in the cache."""
    data = f"picture {name}".encode() * 50
    scratch = layout.picture_cache / "ab" / "scratch"
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.write_bytes(data)
    path = scratch.with_name(f"{'ab' * 32}.{sha256_file(scratch)}.png")
    return scratch.rename(path)


def test_a_deleted_run_leaves_its_name_and_what_others_use(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    shared, alone = cached_picture(layout, "shared"), cached_picture(layout, "alone")
    first = finished_run(database, layout, dataset, "a" * 64, shared)
    second = finished_run(database, layout, dataset, "b" * 64, shared)
    third = finished_run(database, layout, dataset, "c" * 64, alone)
    size = alone.stat().st_size + layout.adapter(third).stat().st_size
    size += sum(path.stat().st_size for path in layout.fused(third).rglob("*.safetensors"))
    assert database.deletion.delete_run(third, NOON, layout) == size  # the picture has two names, and one inode
    assert not alone.exists()
    database.deletion.delete_run(first, NOON, layout)
    assert (shared.exists(), layout.run(first).exists(), layout.run(second).exists()) == (True, False, True)
    assert [summary.run.id for summary in database.runs.runs()] == [second]
    assert (database.runs.run(first).state, database.runs.samples(first), database.runs.scores(first)) == (
        RunState.DELETED, [], []
    )  # fmt: skip
    with pytest.raises(NotRecorded):
        database.runs.add_note(first, "gone", NOON)
    assert [problem.kind for problem in verify(database.runs, layout) if first in problem.path] == []
    again = open_run(database.runs, dataset.id, "a" * 64)
    assert (again.id, again.state) == (first, RunState.RUNNING)


def test_the_champion_and_a_run_at_work_are_not_deleted(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    base = cached_picture(layout, "base")
    first, second = (finished_run(database, layout, dataset, name * 64, base) for name in "ab")
    promote = database.ratings.promote
    promote(CHAMPION, first, "Lea", "hands", NOON, {}, layout)
    with pytest.raises(DeletionRefused, match=f"{first} cannot be deleted: it is the champion: promote another"):
        database.deletion.delete_run(first, NOON, layout)
    lease = database.runs.acquire_lease(second, this_process(), 2, NOON)
    with pytest.raises(DeletionRefused, match=re.escape(f"process {os.getpid()} on {lease.host} works on it")):
        database.deletion.delete_run(second, NOON, layout)
    assert database.runs.samples(second)
    database.runs.release_lease(lease.id, NOON)
    promote(CHAMPION, second, "Lea", "better", NOON, {}, layout)
    database.deletion.delete_run(first, NOON, layout)
    assert [event.run_id for event in database.ratings.promotions(CHAMPION)] == [second, first]
    assert database.ratings.promotion_fault(first, layout) == "it is not done (deleted)"


def test_a_campaign_with_pictures_of_a_deleted_run_is_neither_opened_nor_opened_again(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    run_id = finished_run(database, layout, dataset, "a" * 64, cached_picture(layout, "base"))
    shown = database.runs.samples(run_id)[0].id
    units = [Unit("kage", "a ninja", 7, (shown,), (f"{run_id}/base",))]
    campaign = Campaign("", "first", "How good?", Mode.SCALE, NOON)
    first = database.ratings.open_campaign(campaign, units, 0)
    with pytest.raises(DeletionRefused, match="people vote on its pictures in the campaign first: close it first"):
        database.deletion.delete_run(run_id, NOON, layout)
    database.ratings.close_campaign(first.id, NOON)
    database.deletion.delete_run(run_id, NOON, layout)
    with pytest.raises(RatingRefused, match=f"{run_id} is deleted, and its pictures with it"):
        database.ratings.reopen_campaign(first.id)
    with pytest.raises(RatingRefused, match=f"{run_id} is deleted, and its pictures with it"):
        database.ratings.open_campaign(replace(campaign, name="second"), units, 0)
    assert [campaign.closed_at for campaign in database.ratings.campaigns()] == [NOON]


def test_gc_leaves_a_run_alone_that_is_promoted_while_it_works(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    run_id = finished_run(database, layout, dataset, "a" * 64, cached_picture(layout, "base"))
    kept = parse_kept("champion")
    items = [item for item in database.deletion.rebuildable(kept, NOON, layout) if item.run_id]
    database.ratings.promote(CHAMPION, run_id, "Lea", "hands", NOON, {}, layout)
    assert [database.deletion.remove(item, kept, NOON) for item in items] == [False]
    assert layout.fused(run_id).exists()


def test_no_process_makes_a_run_anew_while_its_files_are_removed(
    database: Database, layout: Layout, dataset: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [finished_run(database, layout, dataset, name * 64, cached_picture(layout, name)) for name in "ab"]
    owners: list[str] = []

    def removed(path: Path) -> None:
        for fingerprint, run in zip("ab", runs, strict=True):
            if path.is_relative_to(layout.run(run)):
                open_run(database.runs, dataset.id, fingerprint * 64)
                owners.append(database.runs.acquire_lease(run, LeaseOwner("f:1:1", "pod-b", 1), 8, NOON).owner)

    monkeypatch.setattr(deletion, "_remove", removed)
    rebuildable = database.deletion.rebuildable(NOBODY, NOON, layout)
    (fused,) = (item for item in rebuildable if item.run_id == runs[1] and item.kind == "fused model")
    assert database.deletion.remove(fused, NOBODY, NOON)
    database.deletion.delete_run(runs[0], NOON, layout)
    assert set(owners) == {this_process().id}
    assert [database.runs.leases(run) for run in runs] == [[], []]


def test_gc_removes_fused_models_of_runs_that_are_not_kept_and_old_scratch_files(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    base = cached_picture(layout, "base")
    kept, other, last = (finished_run(database, layout, dataset, name * 64, base) for name in "abc")
    database.runs.change_tags(other, [], ["good"])
    database.runs.change_tags(last, [], ["good"])
    scratch = layout.run(kept) / ".samples.0123abcd-0123456789ab.png"
    scratch.write_bytes(b"half")
    fresh = layout.run(kept) / ".samples.0123abcd-0123456789ac.png"
    fresh.write_bytes(b"half")
    os.utime(scratch, (time.time() - 100_000,) * 2)
    unfinished = open_run(database.runs, dataset.id, "d" * 64)
    layout.fused(unfinished.id).mkdir(parents=True)

    items = database.deletion.rebuildable(parse_kept("tagged, champion"), NOON, layout)
    assert [(item.kind, item.run_id) for item in items] == [
        ("fused model", other),
        ("fused model", last),
        ("scratch", ""),
    ]
    assert items[0].size == sum(path.stat().st_size for path in layout.fused(other).rglob("*.safetensors"))
    lease = database.runs.acquire_lease(other, this_process(), 2, NOON)
    assert [database.deletion.remove(item, NOBODY, NOON) for item in items] == [False, True, True]
    latents = Rebuildable("latents", other, layout.run(other) / "latents", 0)  # nor what that process draws with
    assert not database.deletion.remove(latents, NOBODY, NOON)
    database.runs.release_lease(lease.id, NOON)
    assert (layout.fused(other).exists(), layout.fused(last).exists()) == (True, False)
    assert (scratch.exists(), fresh.exists(), database.runs.find_fused(last)) == (False, True, None)
    assert len(database.deletion.rebuildable(NOBODY, NOON, layout)) == 2
    assert database.deletion.rebuildable(parse_kept("last=9"), NOON, layout) == []


def test_gc_removes_the_checkpoint_of_a_pruned_run_but_not_of_one_that_will_go_on(
    database: Database, layout: Layout, dataset: DatasetVersion
) -> None:
    pruned, stopped = (open_run(database.runs, dataset.id, name * 64).id for name in "ef")
    database.runs.prune_run(pruned, "the sweep ended it.", NOON)
    database.runs.cancel_run(stopped, "somebody stopped it.", NOON)
    for run_id in (pruned, stopped):
        layout.run(run_id).mkdir(parents=True)
        layout.checkpoint(run_id, "ink").write_bytes(b"checkpoint")
    (item,) = database.deletion.rebuildable(NOBODY, NOON, layout)
    assert (item.kind, item.run_id, item.size) == ("checkpoint", pruned, 10)
    assert database.deletion.remove(item, NOBODY, NOON)
    assert (layout.checkpoint(pruned, "ink").exists(), layout.checkpoint(stopped, "ink").exists()) == (False, True)


def test_what_to_keep_is_read_from_words() -> None:
    assert parse_kept("champion,tag=good , last=5,") == KeptRuns(True, False, frozenset({"good"}), 5)
    for wrong in ("champions", "last=", "last=-1", "tag="):
        with pytest.raises(RecipeInvalid, match=f"--keep {wrong}: use champion"):
            parse_kept(wrong)
