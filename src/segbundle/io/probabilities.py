"""Class probabilities on a scan's voxels, written while they are computed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from segbundle.files.atomic import written_whole
from segbundle.io.scans import geometry_header, read_geometry

SCALE = 1 / 65535
"""What a stored integer has to be multiplied with; the header says so."""


class ProbabilityFile:
    """A 4D NIfTI file (X, Y, Z, num_classes) of 16-bit integers with a scale factor, mapped into memory.

    NIfTI has no 16-bit floating point; these integers are as small and, near 1, more exact. The file is not compressed,
    so that it can be filled in any order, and appears when the block ends well.

    Args:
        path: where to write, ending in `.nii`.
        reference: the scan whose geometry the header takes.
    """

    def __init__(self, path: str | Path, reference: str | Path) -> None:
        self.path = Path(path)
        self.reference = Path(reference)
        self._stack = ExitStack()
        self._array: np.memmap | None = None

    def __enter__(self) -> ProbabilityFile:
        self._partial = self._stack.enter_context(written_whole(self.path))
        return self

    def array(self, num_classes: int) -> np.ndarray:
        """The file's content to be filled, uint16 (num_classes, X, Y, Z): probabilities times 65535."""
        shape = (*read_geometry(self.reference).shape, num_classes)
        header = geometry_header(self.reference, shape, np.uint16)
        header.set_slope_inter(SCALE, 0)
        offset = header.single_vox_offset
        header["vox_offset"] = offset
        with self._partial.open("wb") as file:
            file.write(header.binaryblock)
        self._array = np.memmap(self._partial, header.get_data_dtype(), "r+", offset, shape, "F")
        return self._array.transpose(3, 0, 1, 2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._array is not None:
            self._array.flush()
            self._array = None
        self._stack.__exit__(kind, error, traceback)
