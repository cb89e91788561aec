"""Configurations as MONAI reads them: documents, their entries, and the files that they include."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbundle.audit.findings import WHOLE_FILE
from segbundle.audit.imports import MAX_LENGTH
from segbundle.errors import ConfigError
from segbundle.files.documents import read_json, read_yaml

SUFFIXES = (".json", ".yaml", ".yml")
MAX_JSON_BYTES = 20_000_000
_RELATIVE = re.compile(r"[@%](?:::)+")
_MACRO_FILE = re.compile(r"(.*\.(?:json|yaml|yml))(?=::.*|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """Configuration that was read from a file or a command line.

    Attributes:
        name: file name in findings.
        content: plain values, usually a mapping.
        folder: folder that must contain all included files.
        is_evaluated: whether MONAI evaluates text in the document (default True). Pass False for a command line.

    Example:
        >>> Document("task.yaml", {"max_epochs": 3}, Path("configs")).content
        {'max_epochs': 3}
    """

    name: str
    content: Any
    folder: Path
    is_evaluated: bool = True


@dataclass(frozen=True)
class Entry:
    """Value in a document, with the keys that lead to it.

    Attributes:
        keys: keys from the root to the value, as MONAI splits them.
        value: plain value.
        in_component: whether the value lies inside a component, that is, a mapping with a `_target_`.
        parent: mapping that directly contains the value under a key without `#` or `::`. None (default) for other
            values, and if another file may add keys to the mapping.
    """

    keys: tuple[str, ...]
    value: Any
    in_component: bool
    parent: Mapping[Any, Any] | None = None

    @property
    def name(self) -> str:
        """Keys joined with `#`, as in findings; `WHOLE_FILE` for the document itself."""
        return "#".join(self.keys) or WHOLE_FILE

    @property
    def is_plain(self) -> bool:
        """Whether all keys are plain names or positions, so that MONAI can insert them into a reference unchanged."""
        return all(re.fullmatch(r"\w+", key) for key in self.keys)

    @property
    def text(self) -> str | None:
        """Text of the value with absolute references, as in MONAI; None if too long or if a reference is invalid."""
        text = normalized(self.value)
        if len(text) + len(self.name) > MAX_LENGTH and text.startswith(("$", "@", "%")):
            return None
        for prefix in sorted(set(_RELATIVE.findall(text)), reverse=True):
            levels = prefix.count("::")
            if levels > len(self.keys):
                return None
            text = text.replace(prefix, prefix[0] + "".join(f"{key}::" for key in self.keys[:-levels]))
        return text

    @property
    def argument(self) -> str:
        """Last key that is not a position in a list."""
        return next((key for key in reversed(self.keys) if not key.isdigit()), "")


def read_document(path: Path) -> Any:
    """Return the content of a JSON or YAML file as plain values.

    Args:
        path: path of the file; a file without the suffix `.json` is read as YAML.

    Raises:
        ConfigError: the file cannot be read or parsed, or is too large.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "task.yaml"
        ...     _ = path.write_text("max_epochs: 3")
        ...     read_document(path)
        {'max_epochs': 3}
    """
    if path.suffix.lower() == ".json":
        if path.is_file() and path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: has more than {MAX_JSON_BYTES:,} bytes, the limit for a JSON file. Shorten it.")
        return read_json(path, error=ConfigError)
    return read_yaml(path)


def included_file(text: str) -> str | None:
    """Return the path of the file that a macro includes, or None if the macro refers to its own configuration.

    Args:
        text: macro, with the leading `%`.

    Example:
        >>> included_file("%shared/networks.yaml::unet"), included_file("%train#handlers")
        ('shared/networks.yaml', None)
    """
    found = _MACRO_FILE.findall(normalized(text[1:]))
    return found[0] if found else None


def included_files(document: Document) -> Iterator[Path]:
    """Yield the files that a configuration includes, if they exist and are inside its folder.

    Args:
        document: configuration.

    Example:
        >>> list(included_files(Document("task.yaml", {"x": "%missing.yaml::y"}, Path())))
        []
    """
    for entry in entries(document.content):
        if isinstance(entry.value, str) and entry.value.startswith("%"):
            path = included_file(entry.text or "")
            for file in included_candidates(path, document.folder) if path else ():
                if is_inside(file, document.folder) and file.is_file():
                    yield file


def entries(
    content: Any,
    keys: tuple[str, ...] = (),
    in_component: bool = False,
    parent: Mapping[Any, Any] | None = None,
    is_merged: bool = True,
) -> Iterator[Entry]:
    """Yield an `Entry` for every value of a configuration, at any depth, and for every key that MONAI would evaluate.

    To walk a whole configuration, pass only `content`. The other arguments describe where `content` lies in it.

    Args:
        content: configuration, or a value within it.
        keys: keys from the root to `content`. Default: (), for a whole configuration.
        in_component: whether `content` lies inside a component, that is, a mapping with a `_target_`. Default: False.
        parent: mapping that directly contains `content`. Default: None, for a whole configuration, for an element of a
            list, for a value whose key contains `#`, and for a mapping to which another file may add keys.
        is_merged: whether other files may add keys to `content`, as they can at the top level. Default: True.

    Example:
        >>> [entry.name for entry in entries({"loss": {"_target_": "DiceLoss"}})][-1]
        'loss#_target_'
    """
    yield Entry(keys, content, in_component, parent)
    if isinstance(content, Mapping):
        in_component = in_component or "_target_" in content
        for key, value in content.items():
            added = split_key(key, first=not keys)
            inner = (*keys, *added)
            if isinstance(key, str) and key[:1] in ("$", "%"):
                yield Entry(inner, key, in_component)
            is_whole = len(added) == 1 and not is_merged
            merged = not keys and str(key).startswith("+")
            yield from entries(value, inner, in_component, content if is_whole else None, merged)
    elif isinstance(content, (list, tuple, set, frozenset)):
        for index, value in enumerate(content):
            yield from entries(value, (*keys, str(index)), in_component, None, False)


def split_key(key: Any, first: bool) -> list[str]:
    """Return the parts of a key, split at `#` and `::` as in MONAI.

    Args:
        key: key of a mapping; converted to text.
        first: whether the key is at the top level. The leading `+` of such a key, which makes MONAI extend an existing
            value, is removed.

    Example:
        >>> split_key("+train#handlers", first=True)
        ['train', 'handlers']
    """
    text = str(key)
    return normalized(text.removeprefix("+") if first else text).split("::")


def normalized(text: str) -> str:
    """Return a text with every `#` replaced by `::`, as MONAI does with IDs and references.

    Args:
        text: ID, that is, the keys from the root of a configuration to a value, joined with `#` or `::`; or text that
            contains references to IDs.

    Example:
        >>> normalized("@train#trainer")
        '@train::trainer'
    """
    return text.replace("#", "::")


def included_candidates(path: str, folder: Path) -> list[Path]:
    """Return the existing files that a macro may include; a broken link counts as existing.

    MONAI reads the path relative to the working directory. The folder of the configuration is tried as well.

    Args:
        path: path in the macro, see `included_file`.
        folder: folder of the configuration.

    Example:
        >>> included_candidates("networks.yaml", Path("/nowhere"))
        []
    """
    return [file for file in dict.fromkeys((Path(path), folder / path)) if os.path.lexists(file)]


def is_inside(file: Path, folder: Path) -> bool:
    """Return whether a file is in a folder or its subfolders, with links resolved.

    Args:
        file: path of the file.
        folder: path of the folder.

    Example:
        >>> is_inside(Path("/a/b/../../c"), Path("/a"))
        False
    """
    return real_path(file).is_relative_to(real_path(folder))


def real_path(path: Path) -> Path:
    """Return the absolute path with symbolic links resolved. A circular link is not resolved, and raises no error.

    Args:
        path: any path.

    Example:
        >>> real_path(Path("/nowhere/../x"))
        PosixPath('/x')
    """
    return Path(os.path.realpath(path))
