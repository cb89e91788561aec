"""Cases that are preprocessed once and cached, in memory or in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import monai.data
import torch
from monai.utils import CommonKeys
from torch.utils.data import Dataset

import segbundle
from segbundle.config.from_settings import from_settings
from segbundle.distributed import barrier, local_world_size, rank, share_of_rank
from segbundle.errors import OutputError
from segbundle.files.atomic import atomic_write
from segbundle.files.hashing import add_contents
from segbundle.hardware.memory_usage import free_memory
from segbundle.io.scan_files import files_of
from segbundle.results.structures import Structure
from segbundle.terminal import counted

_logger = logging.getLogger(__name__)
_FORMAT = 4
"""Version of the cached content. A new version invalidates the files of earlier ones."""
_FREE_LINES = 20
"""Number of progress lines without a rate limit."""
_MEMORY_FRACTION = 0.5
"""Fraction of the free memory that cached cases may take."""


class CachedCases(monai.data.CacheDataset):
    """MONAI's `CacheDataset` with a memory limit, and with a progress bar on terminals only.

    The cache takes at most about half of the free memory. Cases that do not fit are loaded on every access. If a case
    cannot be loaded, all threads end before the error is raised. (In MONAI's class, the threads continue, and a thread
    that runs C++ code while Python exits aborts the process.)

    Args:
        data: datalist entries.
        transform: transforms of an entry. The results of the deterministic transforms before the first random one are
            cached.
        num_workers: number of threads that load cases (default 4).
        kwargs: other arguments of `monai.data.CacheDataset`, such as `cache_rate` and `copy_cache`.

    Raises:
        RuntimeError: a transform fails.

    Example:
        >>> cases = CachedCases([{"x": 1}, {"x": 2}], lambda case: {"x": 2 * case["x"]})
        >>> cases[1]
        {'x': 4}
    """

    def __init__(self, data: Sequence[Any], transform: Any, num_workers: int = 4, **kwargs: Any) -> None:
        super().__init__(data, transform, num_workers=num_workers, **kwargs)
        self.cache_num = len(self._cache)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted = range(self.cache_num) if indices is None else indices
        budget, cached = _MEMORY_FRACTION * free_memory(torch.device("cpu")), []
        with ThreadPoolExecutor(self.num_workers) as pool:
            futures = {index: pool.submit(self._load_cache_item, index) for index in wanted[: self.num_workers]}
            for index in counted(wanted, len(wanted), "loading cases", "case", free_lines=_FREE_LINES):
                cached.append(futures.pop(index).result())
                budget -= _size(cached[-1])
                if budget < 0:
                    _logger.info(
                        "%d of %d cases fit into memory; the others are loaded on every access",
                        len(cached), len(wanted),
                    )  # fmt: skip
                    break
                if (after := index + self.num_workers) in wanted:
                    futures[after] = pool.submit(self._load_cache_item, after)
        return cached


class PreparedCases(Dataset[dict[str, Any]]):
    """Dataset of the training cases, each prepared once by `segbundle.transforms.PrepareCase` and then cached.

    Without `cache_dir`, cases are cached in memory, up to half of the free memory. Cases beyond this limit are written
    to the folder `cache` in `output_dir`. With `cache_dir`, all cases are written there, and runs with the same cases
    and settings, such as the folds of a cross-validation, share the files. A resumed run reuses the files in these
    folders.

    The name of a file is a hash of all settings and of the content of the scan and the label map. A file is therefore
    never read for another case or other settings. Files are memory-mapped one case at a time, so that the memory
    footprint of an epoch does not depend on the number of cases.

    With several ranks, every rank must create the dataset. Each rank caches all cases, in its share of the memory. With
    `cache_dir`, each rank prepares a shard of the cases, waits for the other ranks, and reads their files.

    Args:
        data: datalist entries, the same on every rank.
        transform: callable that prepares an entry and returns a dict. The attribute `settings` of the transform
            contains the JSON values that determine the result, and is needed if cases are written to files.
        cache_dir: folder of the cache. Default: cases are cached in memory.
        output_dir: output folder of the run, for cases that do not fit into memory. Default: all cases stay in memory.
        num_workers: number of threads that prepare cases (default 4).

    Raises:
        OutputError: a case cannot be written.
        DataError: a case cannot be prepared.
        ConfigError: there are fewer cases than ranks.

    Example:
        >>> cases = PreparedCases([{"case": "a"}, {"case": "b"}], lambda entry: {"case": entry["case"].upper()})
        >>> len(cases), cases[1]
        (2, {'case': 'B'})
    """

    @from_settings
    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Any,
        cache_dir: str | None = None,
        output_dir: str | None = None,
        num_workers: int = 4,
    ) -> None:
        self.data = list(data)
        self.transform = transform
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.spill_dir = None if output_dir is None else Path(output_dir) / "cache"
        self._spilled = self.spill_dir if self.spill_dir is not None and self.spill_dir.is_dir() else None  # resumed
        self._lock = threading.Lock()
        self._budget = _MEMORY_FRACTION * free_memory(torch.device("cpu")) / local_world_size()
        self._written = 0
        own = share_of_rank(range(len(self.data)))
        others = sorted(set(range(len(self.data))) - set(own))
        self._cases: dict[int, dict[str, Any] | Path] = {}
        with ThreadPoolExecutor(max(num_workers, 1)) as pool:
            for indices in (own, others):
                cases = zip(indices, pool.map(self._prepared, indices), strict=True)
                for index, case in (
                    cases if rank() else counted(cases, len(indices), "preparing cases", "case", free_lines=_FREE_LINES)
                ):
                    self._cases[index] = case
                if self.cache_dir is not None:
                    barrier()
        files = sum(isinstance(case, Path) for case in self._cases.values())
        if files:
            folder = self.cache_dir or self.spill_dir
            _logger.info("prepared cases: %d files in %s, %d of them new", files, folder, self._written)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self._cases[index]
        return _mapped(case) if isinstance(case, Path) else case

    def structures(self) -> list[Structure]:
        """Return the measurements of the annotated foreground classes, one `Structure` per case and class."""
        names = self.transform.settings["class_names"]
        return [
            Structure(case["case"], name, **case["measures"][index])
            for case in map(self.__getitem__, range(len(self)))
            for index, name in enumerate(names)
            if index > 0 and case["annotated"][index]
        ]

    def _prepared(self, index: int) -> dict[str, Any] | Path:
        """Return a case that fits into memory, or the file with the prepared case."""
        if self.cache_dir is not None:
            path = self._path(self.cache_dir, index)
            return path if _is_readable(path) else self._write(path, self.transform(self.data[index]))
        if self._spilled and _is_readable(path := self._path(self._spilled, index)):
            return path
        case: dict[str, Any] = self.transform(self.data[index])
        size = _size(case)
        with self._lock:
            fits = size <= self._budget or self.spill_dir is None
            self._budget -= size if fits else 0
        if fits:
            return case
        assert self.spill_dir is not None
        return self._write(self._path(self.spill_dir, index), case)

    def _path(self, folder: Path, index: int) -> Path:
        entry = self.data[index]
        rest = {key: value for key, value in entry.items() if key not in (CommonKeys.IMAGE, CommonKeys.LABEL)}
        key = hashlib.blake2b(digest_size=16)
        key.update(json.dumps([_FORMAT, segbundle.__version__, self.transform.settings, rest], default=str).encode())
        for files in (entry[CommonKeys.IMAGE], entry[CommonKeys.LABEL]):
            for file in [files] if isinstance(files, (str, Path)) else files:
                for path in files_of(file):
                    add_contents(key, path)
        return folder / f"{key.hexdigest()}.pt"

    def _write(self, path: Path, case: dict[str, Any]) -> Path:
        try:
            with atomic_write(path) as partial:
                torch.save(case, partial)
        except RuntimeError as error:  # raised by torch if the disk is full
            raise OutputError(
                f"{path}: cannot be written ({error}); free some space, or set cache_dir to a folder on another disk."
            ) from error
        with self._lock:
            self._written += 1
        return path


def _mapped(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
    return case


def _is_readable(path: Path) -> bool:
    """Return whether a prepared case exists and can be read."""
    if not path.is_file():
        return False
    try:
        _mapped(path)
    except Exception:  # torch raises many types of errors for damaged files
        _logger.warning("%s: the cached case cannot be read, so the case is prepared again", path)
        return False
    return True


def _size(case: dict[Any, Any]) -> int:
    """Return the number of bytes of the tensors of a case."""
    values = [item for value in case.values() for item in (value if isinstance(value, list) else [value])]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
