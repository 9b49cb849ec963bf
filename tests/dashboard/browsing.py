"""A real browser, driven by Playwright: Debian's chromium, which is installed where it is missing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def chromium() -> str:
    """The path of the browser; skips the test, with the reason, where it is missing and cannot be installed."""
    installed = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if installed:
        return installed
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
        chrome = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chrome
        chrome.close()
