"""Check that concatenations are complete: DICOM images that are divided into several multi-frame files."""

from __future__ import annotations

from collections.abc import Sequence

from segbundle.io.dicom_headers import DicomImage


def missing_files(images: Sequence[DicomImage]) -> str:
    """Return how many files an incomplete concatenation has, such as `2 of 3 files`; empty if none is incomplete.

    The number of files is InConcatenationTotalNumber. If this is missing, which DICOM permits, it is the highest
    InConcatenationNumber, so the absence of the last file is not noticed.

    Args:
        images: headers of the files of a series.

    Example:
        >>> missing_files([])
        ''
    """
    files: dict[str, list[DicomImage]] = {}
    for image in images:
        if image.concatenation and image.part:
            files.setdefault(image.concatenation, []).append(image)
    for own in files.values():
        numbers = {image.part for image in own}
        total = max(*numbers, *(image.num_parts for image in own))
        if len(numbers) < total:
            return f"{len(numbers)} of {total} files"
    return ""
