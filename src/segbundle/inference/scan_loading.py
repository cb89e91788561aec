"""Load scans in the background. A scan that cannot be loaded becomes an item with an error message."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import monai.data

from segbundle.errors import describe
from segbundle.inference.scan_records import ScanRecords, source_of
from segbundle.io.read_ahead import reader


class ScanDataset(monai.data.Dataset):
    """MONAI dataset of scans. For a scan that cannot be loaded, it returns an item with an error message.

    A scan that cannot be loaded has the items `case` and `error`. Every item also has `source`, the path of the scan,
    and `loading_seconds`.

    Args:
        data: datalist entries with `case` and `image`. An entry with `error` is not read and fails with that message.
        transform: transform that loads and preprocesses an entry. Default: None (entries are returned unchanged).

    Example:
        >>> item = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])[0]
        >>> item["case"], item["error"]
        ('a', 'a.nii.gz: no such file.')
    """

    def __init__(self, data: Sequence[dict[str, Any]], transform: Callable[..., Any] | None = None) -> None:
        super().__init__(data, transform)

    def _transform(self, index: int) -> Any:
        started = time.monotonic()
        entry = self.data[index]
        try:
            item = dict(entry) if "error" in entry else super()._transform(index)
        except Exception as error:
            item = {"error": describe(error)}
        if "error" in item:
            item = {"case": entry["case"], "error": item["error"]}
        seconds = time.monotonic() - started + item.pop("early_seconds", 0.0)
        return {**item, "source": source_of(entry["image"]), "loading_seconds": seconds}


class ScanLoader(monai.data.DataLoader):
    """Data loader of one scan per batch that loads the next scan in a background thread.

    Args:
        dataset: dataset of scans.
        kwargs: arguments of `monai.data.DataLoader`. The default of `batch_size` is 1, that of `num_workers` 0.

    Example:
        >>> entry = {"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}
        >>> [batch["case"] for batch in ScanLoader(ScanDataset([entry, entry]))]
        [['a'], ['a']]
    """

    def __init__(self, dataset: ScanDataset, **kwargs: Any) -> None:
        super().__init__(dataset, **{"batch_size": 1, "num_workers": 0, **kwargs})
        self._begun: tuple[Iterator[Any], Future[Any]] | None = None

    def begin(self) -> None:
        """Start to load the first scan."""
        batches = super().__iter__()
        self._begun = batches, reader.submit(next, batches, None)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches in order. The next batch is loaded while the caller uses the current batch."""
        if self._begun is None:
            self.begin()
        assert self._begun is not None
        (batches, following), self._begun = self._begun, None
        while (batch := following.result()) is not None:
            following = reader.submit(next, batches, None)
            yield batch
            del batch  # a scan less in memory while the next is awaited


def start_reading(dataloader: ScanLoader, records: ScanRecords) -> None:
    """Remove finished scans from a dataset, and start to load the first remaining scan in the background.

    Workflows call this function early, so that the scan is loaded while the network is prepared.

    Args:
        dataloader: loader of the scans.
        records: records of the run; they determine which scans remain (see `ScanRecords.remaining`).

    Raises:
        OutputError: see `ScanRecords.remaining`.

    Example:
        >>> import tempfile
        >>> data = ScanDataset([{"case": "a", "image": "a.nii.gz", "error": "a.nii.gz: no such file."}])
        >>> loader = ScanLoader(data)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     start_reading(loader, ScanRecords(folder))
        >>> next(iter(loader))["case"]
        ['a']
    """
    dataset: Any = dataloader.dataset
    dataset.data = records.remaining(dataset.data)
    dataloader.begin()
