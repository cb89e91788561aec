"""Kinds of DICOM images: slices, or images that are not part of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SCOUTS = ("LOCALIZER", "SCOUT", "TOPOGRAM", "SURVEY", "SCANOSCOPE", "TOP")
"""Last words of ImageType values of localizers, such as `CT_SOM5 TOP`."""
_CROSS_SECTIONAL = tuple(
    f"1.2.840.10008.5.1.4.1.1.{number}" for number in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")
)
"""SOP classes of CT, MR and PET images, single and multi-frame."""


def not_a_volume(header: Any) -> str | None:
    """Return the kind of an image that is not part of a volume according to its header; None for any other image.

    Localizers, color images, images with a lookup table for values, and images whose BitsAllocated is not 8, 16 or 32
    are not part of a volume.

    Args:
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        >>> not_a_volume(header)
        'a localizer'
    """
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2").strip()
    if int(header.get("SamplesPerPixel") or 1) != 1 or not photometric.startswith("MONOCHROME"):
        return f"color images ({photometric})"
    kinds = [str(kind).upper().strip() for kind in several(header.get("ImageType"))]
    if any(kind.split()[-1:] == [scout] for kind in kinds for scout in _SCOUTS):
        return "a localizer"
    if header.get("ModalityLUTSequence"):
        return "images with a lookup table for values (ModalityLUTSequence)"
    if int(header.get("BitsAllocated") or 16) not in (8, 16, 32):
        return f"images of {header.BitsAllocated} bits per voxel"
    return None


def is_cross_sectional(header: Any) -> bool:
    """Return whether an image is an original CT, MR or PET slice, which needs a position, by SOP class and ImageType.

    Args:
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        >>> is_cross_sectional(header)
        True
    """
    kinds = [str(kind).upper() for kind in several(header.get("ImageType"))]
    return str(header.get("SOPClassUID") or "") in _CROSS_SECTIONAL and "DERIVED" not in kinds


def image_kind(header: Any) -> str:
    """Return the name of the SOP class of an image, or else its modality, with the number of frames if several.

    Args:
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.Modality = "CT"
        >>> image_kind(header)
        'CT'
    """
    name = str(getattr(header.get("SOPClassUID"), "name", "") or header.get("Modality") or "image")
    frames = num_frames(header)
    return f"{name} of {frames} frames" if frames > 1 else f"{name}"


def num_frames(header: Any) -> int:
    """Return the number of frames of an image, 1 for an image of one slice.

    Args:
        header: header of the file (pydicom).

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> num_frames(header)
        1
    """
    return int(header.get("NumberOfFrames") or 1)


def several(value: Any) -> Sequence[Any]:
    """Return the value or values of a header element as a tuple; an empty tuple for None.

    Args:
        value: text, a sequence of values, or None for a missing element.

    Example:
        >>> several("CT"), several(None)
        (('CT',), ())
    """
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)
