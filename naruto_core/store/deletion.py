"""Delete runs, and find what takes place on the disk although it can be made again.

A deleted run keeps its row, with the state `deleted`, its recipe and its dates: the history of promotions names it.
"""

import re
import shutil
import stat
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from naruto_core.artifacts import Layout, is_abandoned
from naruto_core.domain import RunState, Variant
from naruto_core.errors import DeletionRefused, NotRecorded, RecipeInvalid
from naruto_core.picture_file import SUFFIX
from naruto_core.store.connection import Repository
from naruto_core.store.labels import NoteRow, TagRow
from naruto_core.store.leases import LeaseRow, live_owner, this_process
from naruto_core.store.rating_schema import CampaignRow, PromotionRow, UnitRow
from naruto_core.store.schema import (
    AdapterRow,
    FindingRow,
    FusedRow,
    PhaseRow,
    RunRow,
    SampleRow,
    ScoreRow,
    StepRow,
    run_row,
)

_CACHED = re.compile(rf"[0-9a-f]{{64}}\.(?P<sha256>[0-9a-f]{{64}}){re.escape(SUFFIX)}")
_OF_RUN = (ScoreRow, SampleRow, FindingRow, StepRow, PhaseRow, FusedRow, AdapterRow, LeaseRow, TagRow, NoteRow)


@dataclass(frozen=True, slots=True)
class KeptRuns:
    """Which runs `naruto gc` leaves alone: champions, runs with any tag or one of `tags`, and the `last` newest."""

    champion: bool
    tagged: bool
    tags: frozenset[str]
    last: int


@dataclass(frozen=True, slots=True)
class Rebuildable:
    """A file or folder that can be made again.

    `kind` is "fused model", "hub folder", "latents", "checkpoint" (of a pruned run) or "scratch".

    `size` in bytes is what its removal frees: a file that has another name elsewhere (a hard link) counts nothing.
    """

    kind: str
    run_id: str
    path: Path
    size: int


def parse_kept(text: str) -> KeptRuns:
    """`text` like "champion,tagged,tag=good,last=5". Raises RecipeInvalid for other words."""
    champion, tagged, tags, last = False, False, set[str](), 0
    for word in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = word.partition("=")
        if word == "champion":
            champion = True
        elif word == "tagged":
            tagged = True
        elif key == "tag" and value:
            tags.add(value)
        elif key == "last" and value.isdecimal() and len(value) < 10:
            last = int(value)
        else:
            raise RecipeInvalid(
                f"--keep {word}: use champion, tagged, tag=NAME and last=N, e.g. --keep champion,last=5."
            )
    return KeptRuns(champion, tagged, frozenset(tags), last)


class Deletion(Repository):
    """Deletes runs from the database and from the disk; `layout` locates their files."""

    def delete_run(self, run_id: str, now: datetime, layout: Layout) -> int:
        """Delete a run: what the database has of it in one transaction, then its files. The bytes that were freed.

        Cached pictures of the base model go too, unless another run has them. A process that makes the run anew waits
        until its old files are gone. A deletion that was interrupted can be repeated. Raises NotRecorded for an unknown
        run, and DeletionRefused for one that an alias names, that a process works on, or whose pictures are in an open
        campaign.
        """
        with self._writing() as session:
            row = session.get(RunRow, run_id)
            if row is None:
                raise NotRecorded(f"there is no run {run_id!r}; `naruto runs` lists them all.")
            if fault := _deletion_fault(session, run_id, now):
                raise DeletionRefused(f"{run_id} cannot be deleted: {fault}.")
            cached = _cached_alone(session, run_id, layout)
            for table in _OF_RUN:
                session.execute(delete(table).where(table.run_id == run_id))
            row.state, row.finished_at, row.failure, row.suite = RunState.DELETED, now, "", None
            lease_id = _begin_lease(session, run_id, now)
        with self._ending(lease_id):
            folders = [layout.run(run_id), layout.tensorboard(run_id)]
            freed = _size(*folders, *cached)
            for path in (*folders, *cached):
                _remove(path)
        return freed

    def deletion_fault(self, run_id: str, now: datetime) -> str:
        """Why a run cannot be deleted, as the end of a sentence; "" when it can."""
        with self._reading() as session:
            return _deletion_fault(session, run_id, now)

    def rebuildable(self, kept: KeptRuns, now: datetime, layout: Layout) -> list[Rebuildable]:
        """What of the runs that are not `kept` can be made again, and abandoned scratch files; fused models first.

        A run that is neither done nor pruned, or that a process works on, is kept.
        """
        with self._reading() as session:
            names = _kept(session, kept)
            runs = [
                run_id
                for run_id in session.scalars(
                    select(RunRow.id)
                    .where(RunRow.state.in_((RunState.DONE, RunState.PRUNED)))
                    .order_by(RunRow.started_at)
                )
                if run_id not in names and not live_owner(session, run_id, now)
            ]
        found = [item for run_id in runs for item in _of_run(layout, run_id)]
        found.sort(key=lambda item: (item.kind != "fused model", item.kind))
        return [*found, *_scratch(layout)]

    def remove(self, item: Rebuildable, kept: KeptRuns, now: datetime) -> bool:
        """Remove a rebuildable file; False where its run is `kept` by now, or a process began to work on it."""
        if not item.run_id:
            _remove(item.path)
            return True
        with self._writing() as session:
            run_row(session, item.run_id)
            if live_owner(session, item.run_id, now) or item.run_id in _kept(session, kept):
                return False
            if item.kind == "fused model":
                session.execute(delete(FusedRow).where(FusedRow.run_id == item.run_id))
            lease_id = _begin_lease(session, item.run_id, now)
        with self._ending(lease_id):
            _remove(item.path)
        return True

    @contextmanager
    def _ending(self, lease_id: int) -> Generator[None]:
        """Forget the lease of `_begin_lease` after the block."""
        try:
            yield
        finally:
            with self._writing() as session:
                session.execute(delete(LeaseRow).where(LeaseRow.id == lease_id))


def prune_cache(layout: Layout, most_bytes: float) -> int:
    """Delete cached pictures and results, those that were not used for longest first, down to `most_bytes` in all.

    Encoded pictures and embeddings are kept: a training may be reading them. Returns how many files went; they are made
    again when they are needed.
    """
    files: list[tuple[float, int, Path]] = []
    for path in (*layout.picture_cache.glob("??/[!.]*"), *layout.results.glob("[!.]*")):
        with suppress(FileNotFoundError):
            status = path.stat()
            files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in files)
    removed = 0
    for _, size, path in sorted(files):
        if total <= most_bytes:
            break
        path.unlink(missing_ok=True)
        total, removed = total - size, removed + 1
    return removed


def _begin_lease(session: Session, run_id: str, now: datetime) -> int:
    """Let no process work on the run while this one removes files of it; the id of the lease."""
    owner = this_process()
    row = LeaseRow(run_id=run_id, owner=owner.id, host=owner.host, process=owner.process, threads=1, began_at=now,
                   heartbeat_at=now, released_at=None)  # fmt: skip
    session.add(row)
    session.flush()
    return row.id


def _deletion_fault(session: Session, run_id: str, now: datetime) -> str:
    newest = select(func.max(PromotionRow.id)).group_by(PromotionRow.alias)
    aliases = session.scalars(
        select(PromotionRow.alias).where(PromotionRow.id.in_(newest), PromotionRow.run_id == run_id)
    ).all()
    if aliases:
        return f"it is the {', '.join(aliases)}: promote another run first"
    if owner := live_owner(session, run_id, now):
        return f"{owner}: stop it first with  naruto stop {run_id}"
    samples = set(session.scalars(select(SampleRow.id).where(SampleRow.run_id == run_id)))
    units = (
        select(CampaignRow.name, UnitRow.samples)
        .join(UnitRow, UnitRow.campaign_id == CampaignRow.id)
        .where(CampaignRow.closed_at.is_(None))
    )
    open_campaigns = sorted({name for name, shown in session.execute(units) if samples & set(shown)})
    if open_campaigns:
        return f"people vote on its pictures in the campaign {', '.join(open_campaigns)}: close it first"
    return ""


def _cached_alone(session: Session, run_id: str, layout: Layout) -> list[Path]:
    """The cached pictures that this run's samples have, and no other run's."""
    of_base = SampleRow.variant == Variant.BASE
    mine = set(session.scalars(select(SampleRow.sha256).where(SampleRow.run_id == run_id, of_base)))
    others = set(session.scalars(select(SampleRow.sha256).where(SampleRow.run_id != run_id, of_base)))
    alone = mine - others
    files = layout.picture_cache.glob(f"*/*{SUFFIX}") if alone else ()
    return [path for path in files if (name := _CACHED.fullmatch(path.name)) and name["sha256"] in alone]


def _kept(session: Session, kept: KeptRuns) -> set[str]:
    names: set[str] = set()
    if kept.champion:
        newest = select(func.max(PromotionRow.id)).group_by(PromotionRow.alias)
        names |= set(session.scalars(select(PromotionRow.run_id).where(PromotionRow.id.in_(newest))))
    if kept.tagged:
        names |= set(session.scalars(select(TagRow.run_id)))
    if kept.tags:
        names |= set(session.scalars(select(TagRow.run_id).where(TagRow.tag.in_(kept.tags))))
    if kept.last:
        exists = RunRow.state != RunState.DELETED
        names |= set(
            session.scalars(select(RunRow.id).where(exists).order_by(RunRow.started_at.desc()).limit(kept.last))
        )
    return names


def _of_run(layout: Layout, run_id: str) -> Iterator[Rebuildable]:
    paths = {
        "fused model": layout.fused(run_id),
        "hub folder": layout.published(run_id),
        "latents": layout.run(run_id) / "latents",
    }
    for kind, path in paths.items():
        if path.exists():
            yield Rebuildable(kind, run_id, path, _size(path))
    for path in sorted(layout.run(run_id).glob("checkpoint*.safetensors")):  # a run that is done has none
        yield Rebuildable("checkpoint", run_id, path, _size(path))


def _scratch(layout: Layout) -> Iterator[Rebuildable]:
    """Scratch files and folders that killed processes left."""
    now = time.time()
    abandoned: list[Path] = []
    for path in sorted(layout.root.rglob(".*")):
        if not any(path.is_relative_to(other) for other in abandoned) and is_abandoned(path, now):
            abandoned.append(path)
            yield Rebuildable("scratch", "", path, _size(path))


def _size(*paths: Path) -> int:
    """The bytes that the removal of `paths` frees: those of the files that have no other name elsewhere."""
    names: dict[tuple[int, int], int] = {}
    total = 0
    for file in (file for path in paths for file in (path, *path.rglob("*"))):
        with suppress(FileNotFoundError):
            status = file.lstat()
            inode = status.st_dev, status.st_ino
            names[inode] = names.get(inode, 0) + 1
            if stat.S_ISREG(status.st_mode) and names[inode] == status.st_nlink:
                total += status.st_size
    return total


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
