"""A real browser without a window, for pages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from guards import why_unchanged
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service

PACKAGES = ["chromium", "chromium-driver"]
OFFLINE = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """Debian's Chromium; skips, with the reason, where it cannot be had.

    With STITCHING_NEED_BROWSER=1 in the environment that is an error instead.
    """
    reason = _not_installed()
    if reason is None:
        try:
            driver = _started(tmp_path_factory.mktemp("browser"))
        except WebDriverException as error:
            reason = f"Chromium does not start: {error.msg}"
    if reason:
        if os.environ.get("STITCHING_NEED_BROWSER"):
            raise RuntimeError(reason)
        pytest.skip(f"no browser here: {reason}")
    yield driver
    driver.quit()


def _not_installed() -> str | None:
    """Install it if that can be done; else why not."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if all(programs):
        return None
    if reason := why_unchanged():
        return f"{' and '.join(PACKAGES)} would have to be installed, and {reason}"
    if not shutil.which("apt-get"):
        return f"{' and '.join(PACKAGES)} are not installed, and there is no apt-get"
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            return f"apt-get {command[0]} failed: {done.stderr.strip()[-300:]}"
    return None


def _started(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    no_window = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    for argument in (*no_window, *OFFLINE, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
