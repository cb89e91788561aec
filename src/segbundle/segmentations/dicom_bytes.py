"""Encoding of DICOM elements by hand, for thousands of frames or contours; pydicom takes a millisecond for each."""

from __future__ import annotations

import struct
from typing import Any

UTF_8 = "ISO_IR 192"
"""Character set of written files, for class names in any language."""
_ITEM = (0xFFFE, 0xE000)


def encode(dataset: Any, implicit: bool) -> bytes:
    r"""Encode the elements of a dataset in Little Endian, with text in UTF-8, without file meta information.

    Args:
        dataset: dataset (pydicom).
        implicit: whether to use Implicit VR instead of Explicit VR.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> dataset = Dataset()
        >>> dataset.Modality = "CT"
        >>> encode(dataset, implicit=True)
        b'\x08\x00`\x00\x02\x00\x00\x00CT'
    """
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset, parent_encoding=UTF_8)  # by default Latin-1
    return buffer.getvalue()


def item(content: bytes) -> bytes:
    """Encode an item of a sequence with its explicit length, in Little Endian.

    Args:
        content: encoded elements of the item.

    Example:
        >>> len(item(bytes(10)))
        18
    """
    return struct.pack("<HHI", *_ITEM, len(content)) + content


def implicit_element(tag: tuple[int, int], value: bytes) -> bytes:
    r"""Encode an element in Implicit VR Little Endian, padded with a space to an even length.

    Args:
        tag: group and element number.
        value: encoded value.

    Example:
        >>> implicit_element((8, 0x60), b"CT ")
        b'\x08\x00`\x00\x04\x00\x00\x00CT  '
    """
    value += b" " * (len(value) % 2)
    return struct.pack("<HHI", *tag, len(value)) + value


def explicit_start(tag: tuple[int, int], kind: bytes, length: int) -> bytes:
    """Encode the start of an element (tag, VR and a length of 32 bits) in Explicit VR Little Endian.

    Args:
        tag: group and element number.
        kind: value representation, such as `SQ` or `OB`.
        length: number of bytes of the value.

    Example:
        >>> len(explicit_start((0x7FE0, 0x10), b"OB", 100))
        12
    """
    return struct.pack("<HH2sHI", *tag, kind, 0, length)
