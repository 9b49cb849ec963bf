"""Which code, model and data is this? Recorded beside every number and every shipped file."""

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def code_commit() -> str:
    """The git commit of this checkout; "" where there is no git or no checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    found = subprocess.run(  # noqa: S603 (fixed arguments)
        [git, "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return found.stdout.strip()


def training_code() -> str:
    """A digest of the code that training's numbers come from: another one cannot go on from a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted((Path(__file__).parent / "training").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_hub_id(name: str, revision: str | None) -> bool:
    """Whether `name` of a model or dataset is the hub's: such a one is pinned to a revision, and is no folder here."""
    return bool(revision) and _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def public_name(name: str, revision: str | None) -> str:
    """`name` of a model or dataset as strangers may read it: of a path its last part only, "" if that says nothing."""
    if name.startswith(("package:", "world:")) or is_hub_id(name, revision):
        return name
    last = re.split(r"[\\/]", name.rstrip("\\/"))[-1]
    return "" if last.strip(".").startswith("~") or not last.strip(".") else last
