"""Fixtures that all tests share."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tiny import write_tiny_dataset

logging.raiseExceptions = False  # as in the command: handlers of earlier tests may write to closed streams
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "tiny")


BELTS = {
    "bundle": "e2e", "hostile": "e2e", "test_server.py": "e2e", "test_examples.py": "e2e", "test_site.py": "e2e",
    "test_page_in_browser.py": "browser", "test_viewer_in_browser.py": "browser",
    "test_in_own_process.py": "slow", "test_lazy_imports.py": "slow", "test_all_reduce.py": "slow",
    "test_cuda.py": "cuda",
}  # fmt: skip
"""Marker of all tests in a folder or a file; `make test-fast` leaves these tests out."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of `BELTS`."""
    for name in (item.path.parent.name, item.path.name):
        if name in BELTS:
            item.add_marker(BELTS[name])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of OpenVINO and `torch.compile`; `test_in_own_process.py` runs them in a separate process.

    The threads of OpenVINO do not survive a fork, so a process that used it crashes when a loader forks its workers.
    `torch.compile` reads files in the encoding of the process, and SimpleITK sets this encoding to ASCII.
    """
    if "OPENVINO_TESTS" in os.environ:
        return
    for item in items:
        compiled = "openvino" in item.name or "compile" in item.name
        if compiled and item.path.parent.name == "inference" and item.path.name != "test_in_own_process.py":
            item.add_marker(pytest.mark.skip(reason="run by test_in_own_process.py"))
