"""Which code is this? Recorded beside every number and every shipped file."""

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
