"""A disk that is full after so many kilobytes: a tmpfs of the process's own."""

import shutil
import subprocess
from pathlib import Path

import pytest


def on_a_small_disk(folder: Path, kilobytes: int) -> tuple[str, ...]:
    """What to put before a command so that `folder` is such a disk for it; the test is skipped where that cannot be."""
    mount = f'mount -t tmpfs -o size={kilobytes}k tmpfs {folder} && exec "$@"'
    command = ("unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this machine lets no test mount a small disk")
    return command
