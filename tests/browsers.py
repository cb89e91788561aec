"""Mark for tests that need chromium (Debian: apt install chromium-driver)."""

from __future__ import annotations

import shutil

import pytest

needs_chromium = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium and chromedriver"
)
CHROMIUMS_OWN = ("chrome:", "chrome-untrusted:")
"""Addresses that chromium requests for its own start page."""
