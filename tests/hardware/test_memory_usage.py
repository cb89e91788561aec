"""Free memory of the machine, of the control groups of this process, and of devices."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segbundle.hardware import memory_usage as machine


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Write control groups to a folder; this process is in `a/b`, and the machine has 2,000 free bytes."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    own = tmp_path / "own"
    own.write_text("4:memory,cpu:/a/b\n0::/a/b\n")
    monkeypatch.setattr(machine, "_OWN_GROUPS", own)
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=2000))
    return tmp_path


def write_group(folder, names, limit, used, kinds):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, (limit, used, kinds), strict=True):
        (folder / name).write_text(content)


@pytest.mark.parametrize("inside", ["", "a", "a/b"])
def test_group_memory_excludes_page_cache(groups, inside):
    assert machine.available_memory() == 2000
    write_group(groups / inside, machine._VERSION_2, "1000\n", "900\n", "anon 10\ninactive_file 50\n")
    assert machine.available_memory() == 150
    write_group(groups / "memory" / inside, machine._VERSION_1, "1000", "950", "total_inactive_file 70")
    assert machine.available_memory() == 120
    write_group(groups / "memory" / inside, machine._VERSION_1, "1000", "1950", "total_inactive_file 70")
    assert machine.available_memory() == 0
    (groups / "memory" / inside / "memory.limit_in_bytes").unlink()
    (groups / inside / "memory.max").write_text("max\n")
    assert machine.available_memory() == 2000


def test_machine_memory_without_control_groups(groups, monkeypatch):
    monkeypatch.setattr(machine, "_OWN_GROUPS", groups / "nothing")
    assert machine.available_memory() == 2000


def test_swap_space_of_group(groups):
    free = machine.available_swap()
    assert free >= 0
    (groups / "a").mkdir()
    (groups / "a" / "memory.swap.max").write_text("0")
    (groups / "a" / "memory.swap.current").write_text("0")
    assert machine.available_swap() == 0


def test_freed_memory_is_reusable():
    assert machine.reusable_memory() >= 0
    kept = [np.ones(1000) for _ in range(10_000)]
    del kept[::2]
    assert machine.reusable_memory() > 0


def test_has_room_for_half_of_free_memory(monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 100)
    assert machine.has_room(50, torch.device("cpu"))
    assert not machine.has_room(51, torch.device("cpu"))


def test_free_memory_of_this_machine():
    assert 0 < machine.free_memory(torch.device("cpu")) < 1e15
