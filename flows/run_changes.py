"""What the commands that change runs do, and the sentences that they print. Imports no torch."""

import getpass
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from naruto_core.artifacts import Layout
from naruto_core.errors import DeletionRefused, RecipeInvalid, amount
from naruto_core.settings import read_settings
from naruto_core.store.database import open_database
from naruto_core.store.deletion import Rebuildable, parse_kept
from naruto_core.store.promotions import CHAMPION


def change_tags(name: str, signed: Sequence[str]) -> str:
    """Add each "+tag" and remove each "-tag"; the tags then. Raises RecipeInvalid for a word without a sign."""
    for word in signed:
        if word[:1] not in ("+", "-"):
            raise RecipeInvalid(f"{word!r} has no sign: write +{word} to add the tag, -{word} to remove it.")
    settings = read_settings()
    with open_database(settings.database_url) as database:
        run_id = database.runs.run(name).id
        add, remove = ([word[1:] for word in signed if word.startswith(sign)] for sign in "+-")
        tags = database.runs.change_tags(run_id, add, remove)
    return f"{run_id}: {', '.join(tags) if tags else 'no tags'}"


def add_note(name: str, text: str) -> str:
    """Add a note to a run; a sentence."""
    with open_database(read_settings().database_url) as database:
        run_id = database.runs.run(name).id
        database.runs.add_note(run_id, text, datetime.now(UTC))
    return f"{run_id}: noted."


def request_stop(name: str) -> str:
    """Ask the process that works on a run to stop; a sentence."""
    with open_database(read_settings().database_url) as database:
        run = database.runs.run(name)
        lease = database.runs.request_stop(run.id, _person(), datetime.now(UTC))
        now = database.runs.run(run.id)
    if lease is not None:
        return f"{run.id}: process {lease.process} on {lease.host} stops at its next safe point, usually in seconds."
    if now.state != run.state:
        return f"{run.id}: no process works on it any more; it is marked as cancelled, and the same command resumes it."
    return f"{run.id}: no process works on it ({run.state}); nothing to stop."


def deletion_question(name: str) -> str:
    """What to ask before a run is deleted. Raises DeletionRefused for one that cannot be deleted."""
    with open_database(read_settings().database_url) as database:
        run = database.runs.run(name)
        if fault := database.deletion.deletion_fault(run.id, datetime.now(UTC)):
            raise DeletionRefused(f"{run.id} cannot be deleted: {fault}.")
        pictures, notes = len(database.runs.samples(run.id)), len(database.runs.notes(run.id))
    return (
        f"Delete {run.id} with {amount(pictures, 'picture')}, its scores, adapter, models and {amount(notes, 'note')}? "
        "Nothing undoes it."
    )


def delete_run(name: str) -> str:
    """Delete a run; a sentence."""
    settings = read_settings()
    with open_database(settings.database_url) as database:
        run_id = database.runs.run(name).id
        freed = database.deletion.delete_run(run_id, datetime.now(UTC), Layout(settings.root, settings.store))
    return f"{run_id} is deleted: {_bytes(freed)} freed."


def collect_garbage(keep: str, *, dry_run: bool) -> str:
    """Remove what can be made again of the runs that `keep` does not name; what it was, and its bytes."""
    settings, kept = read_settings(), parse_kept(keep)
    layout, now = Layout(settings.root, settings.store), datetime.now(UTC)
    with open_database(settings.database_url) as database:
        items = database.deletion.rebuildable(kept, now, layout)
        if not dry_run:
            items = [item for item in items if database.deletion.remove(item, kept, datetime.now(UTC))]
    if not items:
        return "nothing to remove."
    lines = [f"{_bytes(item.size):>10}  {item.kind:<12} {_name(layout, item)}" for item in items]
    total = _bytes(sum(item.size for item in items))
    end = f"would free {total}; run it again without --dry-run." if dry_run else f"freed {total}."
    return "\n".join([*lines, f"{end} A fused model is made again by the run's `naruto run`."])


def promote_run(name: str, by: str, why: str, accept_warnings: str) -> str:
    """Make a run the champion; a sentence. Raises PromotionRefused."""
    settings = read_settings()
    layout = Layout(settings.root, settings.store)
    with open_database(settings.database_url) as database:
        run_id = database.runs.run(name).id
        database.ratings.promote(
            CHAMPION, run_id, by, why, datetime.now(UTC), {}, layout, accept_warnings=accept_warnings
        )
    return f"{run_id} is now the champion."


def _name(layout: Layout, item: Rebuildable) -> str:
    return item.run_id or layout.relative(item.path)


def _person() -> str:
    """Who types, e.g. "lea on gpu-1"."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user has no name
        user = "somebody"
    return f"{user} on {socket.gethostname()}"


def _bytes(size: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
