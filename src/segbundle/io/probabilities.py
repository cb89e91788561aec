"""Write probability maps on the grid of a scan while they are computed."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from segbundle.files.atomic import atomic_write
from segbundle.io.scans import geometry_header

SCALE = 1 / 65535
"""Scale slope in the header: a probability is the stored integer times this value."""


class ProbabilityFile:
    """Memory-mapped 4D NIfTI file (X, Y, Z, num_classes) of class probabilities.

    Probabilities are stored as 16-bit integers with a scale factor, because NIfTI has no 16-bit floating point. The
    file is not compressed, so it can be filled in any order. The file appears at its path when the `with` block ends
    without an error.

    Args:
        path: output path, with the suffix `.nii`.
        reference: path of the scan whose geometry is written to the header.

    Raises:
        DataError: the scan cannot be read (raised in `array`).
        OutputError: the file cannot be written (raised in the `with` statement).

    Example:
        >>> import tempfile
        >>> import nibabel as nib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), f"{folder}/ct.nii")
        ...     with ProbabilityFile(f"{folder}/ct_prob.nii", f"{folder}/ct.nii") as file:
        ...         file.array(num_classes=2)[1] = 65535
        ...     probabilities = nib.load(f"{folder}/ct_prob.nii").get_fdata()
        >>> probabilities.shape, round(float(probabilities[..., 1].max()), 6)
        ((4, 3, 2, 2), 1.0)
    """

    def __init__(self, path: str | Path, reference: str | Path) -> None:
        self.path = Path(path)
        self.reference = Path(reference)
        self._stack = ExitStack()
        self._array: np.memmap | None = None

    def __enter__(self) -> ProbabilityFile:
        self._partial = self._stack.enter_context(atomic_write(self.path))
        return self

    def array(self, num_classes: int) -> np.ndarray:
        """Return the writable voxels of the file, uint16 (num_classes, X, Y, Z): probabilities times 65535.

        Call this method once, inside the `with` block. The array is initially zero, and must not be used after the
        block.

        Args:
            num_classes: number of classes, including the background.
        """
        header = geometry_header(self.reference, np.uint16, channels=(num_classes,))
        header.set_slope_inter(SCALE, 0)
        offset = header.single_vox_offset
        header["vox_offset"] = offset
        with self._partial.open("wb") as file:
            file.write(header.binaryblock)
        self._array = np.memmap(self._partial, header.get_data_dtype(), "r+", offset, header.get_data_shape(), "F")
        return self._array.transpose(3, 0, 1, 2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._array is not None:
            self._array.flush()
            self._array = None
        self._stack.__exit__(kind, error, traceback)
