import threading

import pytest

from segbundle.inference.scan_loading import ScanDataset, ScanLoader, start_reading
from segbundle.inference.scan_records import ScanRecords


class Reading:
    """Transform that records which scans were loaded, and by which threads."""

    def __init__(self):
        self.loaded, self.threads = [], set()
        self.finished = threading.Semaphore(0)

    def __call__(self, entry):
        self.loaded.append(entry["case"])
        self.threads.add(threading.current_thread())
        self.finished.release()
        return entry


@pytest.fixture
def reading():
    return Reading()


@pytest.fixture
def loader(reading):
    return ScanLoader(ScanDataset([{"case": case, "image": f"{case}.nii"} for case in "abcd"], reading))


def test_one_scan_is_loaded_ahead(loader, reading):
    batches = iter(loader)
    assert next(batches)["case"] == ["a"]
    reading.finished.acquire(), reading.finished.acquire()  # a and b, while a is used
    assert reading.loaded == ["a", "b"]
    assert next(batches)["case"] == ["b"]
    reading.finished.acquire()
    assert reading.loaded == ["a", "b", "c"]


def test_all_scans_are_loaded_in_order_by_one_thread(loader, reading):
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]
    assert [thread.name for thread in reading.threads] == ["reading"]
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]  # another iteration starts again


def test_first_scan_is_loaded_before_the_iteration(loader, reading, tmp_path):
    start_reading(loader, ScanRecords(tmp_path))
    assert reading.finished.acquire(timeout=60)
    assert reading.loaded == ["a"]
    assert [batch["case"] for batch in loader] == [["a"], ["b"], ["c"], ["d"]]
    assert reading.loaded == [*"abcd"]


def test_finished_scans_are_not_loaded(loader, reading, tmp_path):
    records = ScanRecords(tmp_path)
    records.remaining = lambda data: data[2:]
    start_reading(loader, records)
    assert len(loader) == 2
    assert [batch["case"] for batch in loader] == [["c"], ["d"]]
    assert reading.loaded == [*"cd"]


def test_loader_without_scans(tmp_path):
    loader = ScanLoader(ScanDataset([]))
    start_reading(loader, ScanRecords(tmp_path))
    assert len(loader) == 0 and list(loader) == []


def test_loader_accepts_processes(loader):
    data = ScanDataset(loader.dataset.data)
    assert [batch["case"] for batch in ScanLoader(data, num_workers=1)] == [["a"], ["b"], ["c"], ["d"]]
