"""A real browser, driven by Playwright: Debian's chromium, fetched where it is missing and may be."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """Where the browser is; the test is skipped, with the reason, where there is none and none can be installed."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found:
        return found
    if not (shutil.which("apt-get") and os.geteuid() == 0):
        pytest.skip("no Chromium here, and this user cannot install Debian's: apt-get install chromium")
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", *command], capture_output=True, timeout=240, check=False)
        if done.returncode:
            pytest.skip(f"Chromium could not be installed: {done.stderr.decode(errors='replace')[-200:]}")
    return shutil.which("chromium") or ""


@contextmanager
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()
