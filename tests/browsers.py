"""A headless chromium for tests, where there is one (Debian: apt install chromium-driver)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium and chromedriver"
)
_FLAGS = (
    "headless", "no-sandbox", "disable-background-networking", "disable-dev-shm-usage",
    "use-gl=angle", "use-angle=swiftshader", "enable-unsafe-swiftshader",  # WebGL without a GPU
)  # fmt: skip


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """Selenium's driver of a browser with a profile of its own; it ends with the context."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*_FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        driver.get("about:blank")  # the first tab shows chromium's own page
        yield driver
    finally:
        driver.quit()
