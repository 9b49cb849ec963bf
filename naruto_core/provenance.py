"""Which code is this? Recorded beside every number and every shipped file."""

import hashlib
import shutil
import subprocess
from pathlib import Path


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
