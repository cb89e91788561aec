"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tiny import write_tiny_dataset

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")


@pytest.fixture
def tiny_dataset(tmp_path: Path) -> Path:
    return write_tiny_dataset(tmp_path / "tiny")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """OpenVINO's threads do not survive a fork: a process that used it crashes once a loader forks its workers.

    So its tests run in a process of their own, which `test_openvino.py` starts.
    """
    if "OPENVINO_TESTS" in os.environ:
        return
    for item in items:
        if "openvino" in item.name and item.path.name != "test_openvino.py":
            item.add_marker(pytest.mark.skip(reason="run by test_openvino.py"))
