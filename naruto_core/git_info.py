"""Identity of code, models and data, which is recorded with every score and every published file."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def code_commit() -> str:
    """The git commit of this checkout; "" without git or without a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    result = subprocess.run(  # noqa: S603 (fixed arguments)
        [git, "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return result.stdout.strip()


# Folders whose modules scores depend on; those of their subfolders are named apart.
SCORING_CODE = (
    "naruto_core", "naruto_core/dataset", "naruto_core/mini", "naruto_core/mini/pretraining", "naruto_core/report",
    "naruto_core/scoring", "tasks",
)  # fmt: skip


def training_code_digest() -> str:
    """A digest of the training code: a checkpoint of other code cannot be resumed, because numbers may differ."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "training").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def scoring_code_digest() -> str:
    """A digest of all code that scores depend on (`SCORING_CODE`): a result of other code is not used again."""
    digest = hashlib.sha256()
    for folder in SCORING_CODE:
        for path in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def is_hub_id(name: str, revision: str | None) -> bool:
    """Whether `name` of a model or dataset is a hub id: it has a revision, and is no folder on this machine."""
    return bool(revision) and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def public_name(name: str, revision: str | None) -> str:
    """`name` of a model or dataset for publication: of a local path only the last part, "" if that means nothing."""
    if name.startswith(("package:", "world:")) or is_hub_id(name, revision):
        return name
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    return "" if last.strip(".").startswith("~") or not last.strip(".") else last
