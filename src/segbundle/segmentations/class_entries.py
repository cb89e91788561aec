"""Table of the classes of a label map: label value, name, color and code of each, for files of other programs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from segbundle.classes import Classes
from segbundle.errors import ConfigError, suggestion
from segbundle.segmentations.palette import Rgb, palette
from segbundle.segmentations.snomed import SIDES, ClassCode, Code, find_code

OWN_SCHEME = "99SEGBUNDLE"
"""Coding scheme of classes without another code: the code is the class name. DICOM reserves 99 for private schemes."""
_HEX = re.compile(r"(?:#|::)?([0-9a-fA-F]{6})")
"""Color in hexadecimal digits. MONAI replaces # by ::."""
_CODE_KEYS = ("scheme", "value", "meaning", "laterality")
MAX_CODE, MAX_MEANING = 16, 64
"""Maximum length of a code and of its meaning in DICOM."""


@dataclass(frozen=True)
class ClassEntry:
    """A foreground class of a label map.

    Attributes:
        label: label value, from 1.
        name: class name.
        color: red, green and blue, 0 to 255.
        code: codes of the class.
        algorithm: `AUTOMATIC` (default), `SEMIAUTOMATIC` or `MANUAL`, as DICOM describes how a segment was made.
        algorithm_name: name of the program (default `segbundle`).
        members: label values of the class if it overlaps with other classes; empty (default) for `label` only.

    Example:
        >>> ClassEntry(1, "liver", (230, 159, 0), find_code("liver")).hex_color
        '#e69f00'
    """

    label: int
    name: str
    color: Rgb
    code: ClassCode
    algorithm: str = "AUTOMATIC"
    algorithm_name: str = "segbundle"
    members: tuple[int, ...] = ()

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Return the mask of the class in a label map.

        Args:
            labels: label map of any shape.

        Returns:
            a bool array of the same shape, True for the voxels of the class
        """
        return np.isin(labels, self.members) if self.members else labels == self.label

    @property
    def hex_color(self) -> str:
        """Color as text, such as `#e69f00`."""
        return "#{:02x}{:02x}{:02x}".format(*self.color)


def class_table(
    class_names: Sequence[str],
    class_colors: Mapping[str, Any] | None = None,
    class_codes: Mapping[str, Any] | None = None,
    regions: Sequence[Sequence[int]] | None = None,
) -> list[ClassEntry]:
    """Return the foreground classes of a task with their colors and codes.

    Args:
        class_names: class names, background first.
        class_colors: color by class name: text such as `#aa3311`, or three numbers from 0 to 255. Default: None; see
            `colors_of` for classes without a color.
        class_codes: code by class name: a mapping with `scheme`, `value`, `meaning` and, optionally, `laterality`
            (left or right). Default: None; see `code_of` for classes without a code.
        regions: label values of each class, if classes overlap (see `segbundle.class_values.regions`). Default: None.

    Raises:
        ConfigError: a name is not that of a foreground class, or a color or code is not valid.

    Example:
        >>> table = class_table(["background", "liver", "lesion"], {"lesion": "#aa3311"})
        >>> [(entry.label, entry.color, entry.code.type.value) for entry in table]
        [(1, (230, 159, 0), '10200004'), (2, (170, 51, 17), 'lesion')]
    """
    names = Classes(class_names).names[1:]
    colors, codes = colors_of(class_names, class_colors), class_codes or {}
    _check_names("class_codes", codes, names)
    table = [
        ClassEntry(label, name, color, _read_code(name, codes[name]) if name in codes else code_of(name))
        for label, (name, color) in enumerate(zip(names, colors, strict=True), 1)
    ]
    return table if regions is None else [replace(entry, members=tuple(regions[entry.label])) for entry in table]


def colors_of(class_names: Sequence[str], class_colors: Mapping[str, Any] | None = None) -> list[Rgb]:
    """Return the color of each foreground class, the same in every file, page and viewer.

    Args:
        class_names: class names, background first.
        class_colors: see `class_table`. A class without a color has that of its label value in the palette, or the
            next unused color of the palette if another class was given it. Default: None.

    Raises:
        ConfigError: a name is not that of a foreground class, or a color is not valid.

    Example:
        >>> colors_of(["background", "liver", "lesion"], {"liver": [170, 51, 17]})
        [(170, 51, 17), (86, 180, 233)]
    """
    names = [str(name) for name in class_names[1:]]
    _check_names("class_colors", class_colors or {}, names)
    given = {str(name): _read_color(str(name), value) for name, value in (class_colors or {}).items()}
    colors = palette(2 * len(names))
    unused = (color for color in colors[len(names) :] if color not in given.values())
    defaults = [color if color not in given.values() else None for color in colors[: len(names)]]
    return [given.get(name) or color or next(unused) for name, color in zip(names, defaults, strict=True)]


def code_of(name: str) -> ClassCode:
    """Return the built-in code of a class, or its name in the scheme `99SEGBUNDLE`.

    A name longer than a code of DICOM (16 characters) is shortened and ends with a checksum.

    Args:
        name: class name.

    Example:
        >>> code_of("liver").type.scheme, code_of("anterior").type
        ('SCT', Code(value='anterior', meaning='anterior', scheme='99SEGBUNDLE'))
    """
    known = find_code(name)
    if known is not None:
        return known
    text = " ".join(name.split()).replace("\\", "/")
    return ClassCode(Code(_short_code(text), text[:MAX_MEANING], OWN_SCHEME))


def describe_classes(table: Sequence[ClassEntry]) -> list[dict[str, Any]]:
    """Return the classes as JSON values, for a file beside the label map.

    Args:
        table: classes.

    Returns:
        one mapping per class: `label`, `name`, `color`, and `code` with `scheme`, `value`, `meaning` and, for classes
        with a side, `laterality`

    Example:
        >>> describe_classes(class_table(["background", "spleen"]))[0]["code"]
        {'scheme': 'SCT', 'value': '78961009', 'meaning': 'Spleen'}
    """
    return [
        {"label": entry.label, "name": entry.name, "color": entry.hex_color, "code": _describe(entry.code)}
        for entry in table
    ]


def _describe(code: ClassCode) -> dict[str, str]:
    side = code.modifier or code.region_modifier
    laterality = {} if side is None else {"laterality": side.meaning.lower()}
    return {"scheme": code.type.scheme, "value": code.type.value, "meaning": code.type.meaning, **laterality}


def _short_code(text: str) -> str:
    if len(text) <= MAX_CODE:
        return text
    import zlib

    return f"{text[:8]}{zlib.crc32(text.encode()):08x}"


def _check_names(key: str, given: Any, names: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{key} is {given!r}; a mapping by class name is needed.")
    for name in given:
        if str(name) not in names:
            raise ConfigError(f"{key}: unknown class {name!r}{suggestion(str(name), names)}")


def _read_color(name: str, value: Any) -> Rgb:
    found = _HEX.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        value = list(bytes.fromhex(found[1]))
    if isinstance(value, Sequence) and len(value) == 3:
        red, green, blue = value
        if all(isinstance(part, int) and 0 <= part <= 255 for part in value):
            return red, green, blue
    raise ConfigError(
        f"class_colors: the color of {name!r} is {value!r}. Use text such as '#aa3311', or three numbers from 0 to 255."
    )


def _read_code(name: str, value: Any) -> ClassCode:
    given = {str(key): str(part) for key, part in value.items()} if isinstance(value, Mapping) else {}
    complete = all(given.get(key, "").strip() for key in _CODE_KEYS[:3])
    if not complete or set(given) - set(_CODE_KEYS) or given.get("laterality", "left") not in SIDES:
        raise ConfigError(
            f"class_codes: the code of {name!r} is {value!r}. Give scheme, value and meaning, for instance "
            '{scheme: SCT, value: "10200004", meaning: Liver}, and laterality (left or right) if it has one.'
        )
    if max(len(given["scheme"]), len(given["value"])) > MAX_CODE or len(given["meaning"]) > MAX_MEANING:
        raise ConfigError(
            f"class_codes: the code of {name!r} is too long. DICOM allows {MAX_CODE} characters for scheme and value, "
            f"and {MAX_MEANING} for the meaning."
        )
    kind = Code(given["value"], given["meaning"], given["scheme"])
    return ClassCode(kind, modifier=SIDES.get(given.get("laterality", "")))
