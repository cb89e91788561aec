"""Cases kept in memory, preprocessed once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import monai.data
from tqdm import tqdm


class CachedCases(monai.data.CacheDataset):
    """MONAI's `CacheDataset`, filled with a progress bar on terminals only.

    It also waits for its threads when a case cannot be loaded. MONAI's leaves them behind, and a thread that is still
    at work in C++ when Python exits aborts the program instead of letting it end with its error.

    Args:
        data, transform, cache_rate, copy_cache and others: as in `monai.data.CacheDataset`.
        num_workers: threads that load cases.
    """

    def __init__(self, data: Sequence[Any], transform: Any, num_workers: int = 4, **kwargs: Any) -> None:
        super().__init__(data, transform, num_workers=num_workers, **kwargs)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted = range(self.cache_num) if indices is None else indices
        with ThreadPoolExecutor(self.num_workers) as pool:
            loaded = pool.map(self._load_cache_item, wanted)
            return list(tqdm(loaded, total=len(wanted), desc="loading cases", unit="case", disable=None))
