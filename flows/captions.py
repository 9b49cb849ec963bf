"""What `naruto captions` and `naruto recaption` show: findings and figures for programs, lines for people."""

from dataclasses import asdict
from pathlib import Path

from flows.listings import Listing, columns
from flows.profiles import choose_recipe
from naruto_core.artifacts import Layout
from naruto_core.dataset.caption_audit import CaptionSummary
from naruto_core.domain import DatasetVersion
from naruto_core.settings import read_settings
from tasks.captions import check_captions
from tasks.recaption import recaption_dataset

_SHOWN = 60  # signs of a caption in the terminal; programs get it whole


def list_caption_findings(dataset: str, profile: str, *, words_only: bool = False) -> Listing:
    """The summary of a dataset's captions and every finding; raises NotRecorded for a dataset that is not there."""
    audit = check_captions(dataset, choose_recipe(profile), words_only=words_only)
    layout = Layout(read_settings().root)
    files = {p.sha256: layout.relative(layout.picture(p.sha256, p.suffix)) for p in audit.pictures}
    rows = [asdict(finding) | {"file": files[finding.sha256]} for finding in audit.findings]
    told = f"{audit.length}\n{_told(audit.dataset, audit.summary)}"
    if rows:
        lines = [["kind", "caption", "picture", "detail"]]
        lines += [[f.kind, _short(f.caption), files[f.sha256], f.detail] for f in audit.findings]
        told = f"{columns(lines)}\n\n{told}"
    found = {"dataset": audit.dataset.id, "source": audit.dataset.source}
    return Listing(found | {"summary": asdict(audit.summary), "findings": rows}, told)


def recaption(
    dataset: str, profile: str, model: str, revision: str | None, folder: Path | None, *, only_flagged: bool
) -> str:
    """Recaption a dataset; what came of it and how to train on it, in words."""
    recipe = choose_recipe(profile)
    made = recaption_dataset(dataset, model, revision, folder, recipe, only_flagged=only_flagged)
    held_out = made.version.n_reference
    same = "" if held_out == recipe.dataset.hold_out else f" --set dataset.hold_out={held_out}"
    return (
        f"{made.n} of {made.version.n_kept} captions of {made.before.id} written anew by {made.captioner}: "
        f"dataset {made.version.id}\ntrain on it with  naruto run --recipe {profile} --dataset {made.folder}{same}"
    )


def _told(dataset: DatasetVersion, summary: CaptionSummary) -> str:
    counts = ", ".join(f"{kind} {count}" for kind, count in summary.counts.items() if count)
    lines = [
        f"dataset {dataset.id} ({dataset.source}): {summary.flagged} of {summary.n} captions have a finding "
        f"({summary.share:.1%})" + (f": {counts}" if counts else "")
    ]
    if summary.median_similarity is not None:
        lines.append(f"median cosine of picture and caption {summary.median_similarity:.3f}, by {summary.extractor}")
    return "\n".join(lines)


def _short(caption: str) -> str:
    caption = " ".join(caption.split())
    return caption if len(caption) <= _SHOWN else f"{caption[: _SHOWN - 1]}…"
