"""Whether there is a browser for tests (Debian: apt install chromium-driver)."""

from __future__ import annotations

import shutil

import pytest

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium and chromedriver"
)
CHROMIUMS_OWN = ("chrome:", "chrome-untrusted:")
"""Addresses that the tab asks for which chromium opens by itself."""
