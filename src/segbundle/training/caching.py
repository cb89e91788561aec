"""Cases preprocessed once: kept in memory, or in files that are mapped into it."""

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
from segbundle.distributed import barrier, local_world_size, rank, share_of_rank
from segbundle.errors import OutputError
from segbundle.files.atomic import written_whole
from segbundle.files.hashing import add_contents
from segbundle.hardware.device_memory import free_memory
from segbundle.io.scan_files import files_of
from segbundle.results.structures import Structure
from segbundle.terminal import counted

_logger = logging.getLogger(__name__)
_FORMAT = 4
"""Raised when what prepared cases hold changes, so that files of an earlier version are not read."""
_FREE_LINES = 20
"""Cases that are counted in the log however fast they are."""
_SHARE = 0.5
"""The part of the free memory that cases may take."""


class CachedCases(monai.data.CacheDataset):
    """MONAI's `CacheDataset`, filled with a progress bar on terminals only, and only while there is memory.

    What no longer fits into half of the free memory is loaded whenever it is used. The class also waits for its threads
    when a case cannot be loaded. MONAI's leaves them behind, and a thread that is still at work in C++ when Python
    exits aborts the program instead of letting it end with its error.

    Args:
        data, transform, cache_rate, copy_cache and others: as in `monai.data.CacheDataset`.
        num_workers: threads that load cases.
    """

    def __init__(self, data: Sequence[Any], transform: Any, num_workers: int = 4, **kwargs: Any) -> None:
        super().__init__(data, transform, num_workers=num_workers, **kwargs)
        self.cache_num = len(self._cache)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list[Any]:
        wanted = range(self.cache_num) if indices is None else indices
        room, kept = _SHARE * free_memory(torch.device("cpu")), []
        with ThreadPoolExecutor(self.num_workers) as pool:
            coming = {index: pool.submit(self._load_cache_item, index) for index in wanted[: self.num_workers]}
            for index in counted(wanted, len(wanted), "loading cases", "case", free_lines=_FREE_LINES):
                kept.append(coming.pop(index).result())
                room -= _size(kept[-1])
                if room < 0:
                    _logger.info("%d of %d cases fit into memory; others are loaded each time", len(kept), len(wanted))
                    break
                if (after := index + self.num_workers) in wanted:
                    coming[after] = pool.submit(self._load_cache_item, after)
        return kept


class PreparedCases(Dataset[dict[str, Any]]):
    """Training cases, each prepared once (`segbundle.transforms.PrepareCase`).

    Without `cache_dir` they are kept in memory as long as they take no more than half of what is free, and further
    ones are written to `output_dir`. With `cache_dir` all of them are written there, and runs whose cases and settings
    are the same, such as the folds of a cross-validation, find them there. A resumed run finds its own in either.
    A file's name is a hash of the contents of the case's files and of all settings, so that none is ever read for other
    ones. Files are mapped into memory case by case: an epoch takes no more of it, however many cases there are.

    Args:
        data: datalist entries.
        transform: prepares an entry; its `settings`, JSON values, decide the result.
        cache_dir: where all prepared cases are kept; None for memory.
        output_dir: its folder `cache` keeps those that do not fit into memory.
        num_workers: threads that prepare cases.

    Of several processes each keeps all cases in its part of the memory or, with `cache_dir`, prepares its share.

    Raises:
        OutputError: a case cannot be written.
        Others: what the transform raises for a case.
    """

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
        self._spilled = self.spill_dir if self.spill_dir is not None and self.spill_dir.is_dir() else None  # earlier
        self._lock = threading.Lock()
        self._room = _SHARE * free_memory(torch.device("cpu")) / local_world_size()
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
            _logger.info("prepared cases: %d in %s, %d of them new", files, folder, self._written)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        case = self._cases[index]
        return _mapped(case) if isinstance(case, Path) else case

    def structures(self) -> list[Structure]:
        """What was measured of every class in every case that it was annotated in, the background left out."""
        names = self.transform.settings["class_names"]
        return [
            Structure(case["case"], name, **case["measures"][index])
            for case in map(self.__getitem__, range(len(self)))
            for index, name in enumerate(names)
            if index > 0 and case["annotated"][index]
        ]

    def _prepared(self, index: int) -> dict[str, Any] | Path:
        """A case in memory, or the file that holds it."""
        if self.cache_dir is not None:
            path = self._path(self.cache_dir, index)
            return path if _is_whole(path) else self._write(path, self.transform(self.data[index]))
        if self._spilled and _is_whole(path := self._path(self._spilled, index)):
            return path
        case: dict[str, Any] = self.transform(self.data[index])
        size = _size(case)
        with self._lock:
            fits = size <= self._room or self.spill_dir is None
            self._room -= size if fits else 0
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
            with written_whole(path) as partial:
                torch.save(case, partial)
        except RuntimeError as error:  # torch's own writer reports a full disk this way
            raise OutputError(
                f"{path}: a prepared case cannot be written ({error}); check the free space, or set cache_dir."
            ) from error
        with self._lock:
            self._written += 1
        return path


def _mapped(path: Path) -> dict[str, Any]:
    case: dict[str, Any] = torch.load(path, mmap=True, weights_only=True)
    return case


def _is_whole(path: Path) -> bool:
    """Whether a file is there and can be read."""
    if not path.is_file():
        return False
    try:
        _mapped(path)
    except Exception:  # torch raises many kinds for damaged files
        _logger.warning("%s: is damaged, and made anew", path)
        return False
    return True


def _size(case: dict[Any, Any]) -> int:
    """Bytes of a case's tensors."""
    values = [one for value in case.values() for one in (value if isinstance(value, list) else [value])]
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))
