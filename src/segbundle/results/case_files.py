"""Paths of the scan, the reference and the prediction of a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from segbundle.errors import OutputError
from segbundle.io.scan_files import is_volume_path


@dataclass(frozen=True)
class CaseFiles:
    """Paths of the scan, the reference and the prediction of a case.

    Attributes:
        image: path of the scan, or one path per channel.
        reference: path of the annotated label map; None if the case has no reference.
        prediction: path of the predicted label map.
        ignore_label: value of voxels of unknown class in the reference; None if there are no such voxels.
        label_values: loaded value by label value of the reference; None if it is loaded unchanged.

    Example:
        >>> files = CaseFiles(["ct.nii.gz", "pet.nii.gz"], None, "case_1_seg.nii.gz")
        >>> files.first_image
        'ct.nii.gz'
    """

    image: str | list[str]
    reference: str | None
    prediction: str
    ignore_label: int | None = None
    label_values: Mapping[int, int] | None = None

    @property
    def first_image(self) -> str:
        """Path of the scan, or of its first channel."""
        return self.image if isinstance(self.image, str) else self.image[0]

    @property
    def gone(self) -> str | None:
        """Path of the first file, scan or reference, that does not exist; None if all files exist."""
        images = [self.image] if isinstance(self.image, str) else self.image
        given = [*images, *([] if self.reference is None else [self.reference])]
        return next((path for path in given if not is_there(path)), None)

    def moved_to(self, dataset_dir: str | Path | None) -> CaseFiles:
        """Return the case with the paths of its scan and reference in another dataset folder.

        The longest ending of the old path that exists in the new folder is used: for `old/imagesTr/a.nii.gz`, this is
        `imagesTr/a.nii.gz`, or else `a.nii.gz`. If the case has a reference, the parent folder must match as well,
        because scan and label map may have the same file name. A file that is not found keeps its old path.

        Args:
            dataset_dir: new folder of the dataset; None returns the case unchanged.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     (Path(folder) / "a.nii.gz").touch()
            ...     moved = CaseFiles("old/imagesTr/a.nii.gz", None, "a_seg.nii.gz").moved_to(folder)
            ...     moved.image == str(Path(folder) / "a.nii.gz")
            True
        """
        if dataset_dir is None:
            return self
        folder, image, min_parts = Path(dataset_dir), self.image, 1 if self.reference is None else 2
        image = (
            _find_in(folder, image, min_parts)
            if isinstance(image, str)
            else [_find_in(folder, path, min_parts) for path in image]
        )
        reference = None if self.reference is None else _find_in(folder, self.reference, min_parts)
        return replace(self, image=image, reference=reference)


def is_there(path: str | Path) -> bool:
    """Return whether a file or folder exists; False if the path cannot be checked, for instance because of its length.

    Args:
        path: path of a file or folder.

    Example:
        >>> is_there("."), is_there("x" * 10_000)
        (True, False)
    """
    try:
        return Path(path).exists() or is_volume_path(Path(path))
    except OSError:
        return False


def _find_in(folder: Path, given: str, min_parts: int) -> str:
    """Return the file in a folder that shares the longest path ending (at least `min_parts`), else the given path."""
    parts = PurePath(given).parts
    endings = [parts[-count:] for count in range(len(parts) - 1, min_parts - 1, -1)]
    return next((str(path) for ending in endings if is_there(path := folder.joinpath(*ending))), given)


def refuse_if_moved(files: Mapping[str, CaseFiles], dataset_dir: str | Path | None, every: bool = False) -> None:
    """Raise an error if scans or references are missing.

    Call this function before writing a page, so that a page with slices is not replaced by a page without slices.

    Args:
        files: files by case.
        dataset_dir: folder of the scans that the user gave, for the message; None if the recorded paths are used.
        every: raise the error only if every case has a missing file. By default (False), one missing file is enough.

    Raises:
        OutputError: scans or references are missing. The message names the first missing file.

    Example:
        >>> refuse_if_moved({"a": CaseFiles("gone/a.nii.gz", None, "a_seg.nii.gz")}, None)
        Traceback (most recent call last):
        segbundle.errors.OutputError: gone/a.nii.gz does not exist. Give the folder of the scans with --dataset_dir.
    """
    missing = [path for case in files.values() if (path := case.gone)]
    if not missing or (every and len(missing) < len(files)):
        return
    if dataset_dir is None:
        raise OutputError(f"{missing[0]} does not exist. Give the folder of the scans with --dataset_dir.")
    name = "/".join(PurePath(missing[0]).parts[-2:])
    raise OutputError(f"{dataset_dir} does not contain {name}. Give the folder that the scans of the run are in now.")
