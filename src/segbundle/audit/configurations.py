"""Find what MONAI would evaluate, import or include in a configuration, and what of this is not harmless."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbundle.audit.allowed_names import IMPORTS, MODULES
from segbundle.audit.call_arguments import argument_problem, holds_address, makes_object
from segbundle.audit.expressions import callable_problem, expression_problem, references
from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of
from segbundle.audit.imports import MAX_LENGTH, import_problem, imported
from segbundle.audit.targets import callable_target_problem, downloads_by_default, target_problem
from segbundle.errors import ConfigError
from segbundle.files.documents import read_json, read_yaml

SUFFIXES = (".json", ".yaml", ".yml")
MAX_JSON_BYTES = 20_000_000
_RELATIVE = re.compile(r"[@%](?:::)+")
_MACRO_FILE = re.compile(r"(.*\.(?:json|yaml|yml))(?=::.*|$)", re.IGNORECASE)
_ID = re.compile(r"[\w .+-]*(?:::[\w .+-]*)*")
_MODES = ("default", "callable")
_MAX_ALIASES = 8


@dataclass(frozen=True)
class Document:
    """A configuration that was read.

    Args:
        name: for findings.
        content: plain values.
        folder: where files that it includes must lie.
        is_evaluated: whether MONAI evaluates its text; text from the command line is not evaluated.
    """

    name: str
    content: Any
    folder: Path
    is_evaluated: bool = True


@dataclass(frozen=True)
class _Place:
    """A value in a document.

    Args:
        keys: path of keys to it, as MONAI splits them.
        value: plain.
        in_component: whether a mapping on this path has a `_target_`.
        holder: the mapping that has the value, or None if it may be merged into a mapping of another file.
    """

    keys: tuple[str, ...]
    value: Any
    in_component: bool
    holder: Mapping[Any, Any] | None = None

    @property
    def name(self) -> str:
        return "#".join(self.keys) or WHOLE_FILE

    @property
    def is_plain(self) -> bool:
        """Whether all keys are plain names or positions, which change nothing when inserted into a reference."""
        return all(re.fullmatch(r"\w+", key) for key in self.keys)

    @property
    def text(self) -> str | None:
        """The value, which is text, with references made absolute as in MONAI; None if that is impossible."""
        text = _normalized(self.value)
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
        """The last key that is not a position in a list."""
        return next((key for key in reversed(self.keys) if not key.isdigit()), "")


def read_document(path: Path) -> Any:
    """Return the content of a JSON or YAML file.

    Raises:
        ConfigError: it cannot be parsed, or is too large.
    """
    if path.suffix.lower() == ".json":
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigError(f"{path}: has more than {MAX_JSON_BYTES:,} bytes, the limit for a JSON file.")
        return read_json(path, error=ConfigError)
    return read_yaml(path)


def included_file(text: str) -> str | None:
    """Return the path of the file that a macro includes, or None if it includes a part of its own configuration.

    Args:
        text: begins with `%`.

    Example:
        >>> included_file("%shared/networks.yaml::unet"), included_file("%train#handlers")
        ('shared/networks.yaml', None)
    """
    found = _MACRO_FILE.findall(_normalized(text[1:]))
    return found[0] if found else None


def included_files(document: Document) -> Iterator[Path]:
    """Yield the files that a configuration includes, if they exist and are in its folder."""
    for place in _places(document.content):
        if isinstance(place.value, str) and place.value.startswith("%"):
            path = included_file(place.text or "")
            for file in _candidates(path, document.folder) if path else ():
                if _lies_in(file, document.folder) and file.is_file():
                    yield file


def inspect_documents(documents: Iterable[Document]) -> Iterator[Finding]:
    """Yield what is not harmless in configurations that are merged or in one folder.

    Args:
        documents: all of them, since one may use what another one defines.
    """
    documents = list(documents)
    try:
        shared = _Shared.of(documents)
        for document in documents:
            yield from _Inspection(document, shared).findings()
    except RecursionError:
        names = ", ".join(document.name for document in documents)
        yield Finding(names, WHOLE_FILE, "is nested too deeply to be read", "")


@dataclass(frozen=True)
class _Shared:
    """What configurations define for each other.

    Args:
        modules: names that expressions may use, and the dotted names that they stand for.
        disputed: names with two meanings.
        sections: first keys that contain an import, whose values are modules.
        definitions: all values of each first key in the configurations.
        values: all values of each id; keys in ids are separated by `::`.
        addresses: ids of metadata, where MONAI puts them, that contain an address.
    """

    modules: Mapping[str, str]
    disputed: frozenset[str]
    sections: frozenset[str]
    definitions: Mapping[str, list[Any]]
    values: Mapping[str, list[Any]]
    addresses: frozenset[str]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> _Shared:
        modules = dict(MODULES)
        disputed: set[str] = set()
        sections: set[str] = set()
        definitions: dict[str, list[Any]] = {}
        values: dict[str, list[Any]] = {}
        addresses: set[str] = set()
        for document in documents:
            for key, value in document.content.items() if isinstance(document.content, dict) else ():
                first, *inner = _split(key, first=True)
                definitions.setdefault(first, []).append(key if inner else value)
            for place in _places(document.content):
                values.setdefault("::".join(place.keys), []).append(place.value)
                if _quotes(document.name) and isinstance(place.value, str) and holds_address(place.value):
                    addresses.add("::".join(("_meta_", *place.keys)))
                if not isinstance(place.value, str) or not place.value.startswith("$"):
                    continue
                found = imported(_normalized(place.value)[1:])
                if found is not None:
                    alias, name = found
                    if modules.setdefault(alias, name) != name:
                        disputed.add(alias)
                    sections.update(place.keys[:1])
                    if Path(document.name).stem == "metadata":
                        sections.add("_meta_")  # where MONAI puts what is in that file
        for name in IMPORTS:  # where nothing imports it, the expression fails, as MONAI's own template does
            modules.setdefault(name, name)
        return cls(modules, frozenset(disputed), frozenset(sections), definitions, values, frozenset(addresses))

    def hold_module(self, reference: str) -> bool:
        """Return whether an id refers to modules, or to everything."""
        first = reference.partition("::")[0]
        return first in self.sections or (first == "" and bool(self.sections))

    def hold_address(self, reference: str) -> bool:
        """Return whether an id refers to metadata that contains an address."""
        below = f"{reference}::" if reference else ""
        return any(address == reference or address.startswith(below) for address in self.addresses)

    def may_be_called(self, reference: str, aliases: int = _MAX_ALIASES) -> bool:
        """Return whether an id refers only to objects, lambdas and components that are known to be callable.

        Args:
            reference: the id, separated by `::`.
            aliases: maximum number of references to follow.
        """
        values = self.values.get(reference, [])
        return bool(values) and all(self._is_callable(value, aliases) for value in values)

    def _is_callable(self, value: Any, aliases: int) -> bool:
        if isinstance(value, str):
            if re.fullmatch(r"@\w+(?:(?:#|::)\w+)*", value) and aliases > 0:
                return self.may_be_called(_normalized(value[1:]), aliases - 1)
            return value.startswith("$lambda ")
        if isinstance(value, dict) and _mode(value.get("_mode_")) == "callable":
            return isinstance(value.get("_target_"), str)  # which was judged with any argument
        return makes_object(value)

    def _is_defined(self, reference: str) -> bool:
        return _normalized(reference[1:]) in self.values

    def meanings(self, value: Any) -> list[Any]:
        """Return all values that a reference may stand for, directly or through others, or else the value itself."""
        meant, seen = [value], set()
        for one in meant:
            if isinstance(one, str) and re.fullmatch(r"@\w+(?:(?:#|::)\w+)*", one) and one not in seen:
                seen.add(one)
                reference = _normalized(one[1:])
                meant += self.values.get(reference, [])
                meant += self.definitions.get(reference, []) if reference not in self.values else []
        found = [one for one in meant if not (isinstance(one, str) and one in seen and self._is_defined(one))]
        return found or [value]


class _Inspection:
    """The walk through one document."""

    def __init__(self, document: Document, shared: _Shared) -> None:
        self.document = document
        self.shared = shared

    def findings(self) -> Iterator[Finding]:
        for place in _places(self.document.content):
            what = self._problem(place)
            if what is not None:
                yield Finding(self.document.name, place.name, what, excerpt_of(place.value))

    def _problem(self, place: _Place) -> str | None:
        if place.argument == "_target_":
            return self._target_problem(place)
        if place.argument == "_mode_" and place.value is not None:
            mode = _mode(place.value)
            if mode not in _MODES:
                return "a _mode_ that is neither default nor callable; debug opens a debugger"
            known = mode == "default" or (place.holder is not None and "_target_" in place.holder)
            return None if known else "makes a component callable that is defined elsewhere"
        if place.argument == "_debug_" and place.value is not False:
            return "opens a debugger"
        if not isinstance(place.value, list):  # its entries are judged one by one
            for value in self.shared.meanings(place.value):
                problem = argument_problem(place.argument, value)
                if problem is not None:
                    return f"{place.argument} {problem}"
        return self._text_problem(place) if isinstance(place.value, str) and self.document.is_evaluated else None

    def _target_problem(self, place: _Place) -> str | None:
        if not isinstance(place.value, str):
            return "_target_ is not text"
        if place.value[:1] in ("@", "%"):
            return "_target_ is known only when the configuration runs"
        if not place.value.startswith("$"):
            problem = target_problem(place.value)
            if problem is None and (place.holder is None or _mode(place.holder.get("_mode_")) != "default"):
                problem = callable_target_problem(place.value)
            if problem is None and place.holder and downloads_by_default(place.value, list(map(str, place.holder))):
                problem = "downloads weights unless pretrained is false"
        elif place.text is None:
            problem = "has references that cannot be followed"
        else:
            problem = callable_problem(place.text[1:], self.shared.modules, self.shared.may_be_called)
        return f"_target_ {problem}" if problem else None

    def _text_problem(self, place: _Place) -> str | None:
        text = place.text
        if text is None:
            return "has references that cannot be followed"
        if any(self.shared.hold_module(reference) for reference in references(text)):
            return "uses a module as a value"
        if self._names_server(place, text):
            return "names a server"
        if not text.startswith(("$", "%")):
            return None
        if not place.is_plain and (text.startswith("%") or text != _normalized(place.value)):
            return "has a reference through a key that is not a plain name"
        if text.startswith("%"):
            return self._macro_problem(text)
        found = imported(text[1:])
        if found is None:
            problem = expression_problem(text[1:], self.shared.modules, self.shared.may_be_called)
        elif place.in_component:
            problem = "passes a module to a component"
        elif found[0] in self.shared.disputed:
            problem = f"imports {found[0]}, a name with another meaning elsewhere"
        else:
            problem = import_problem(*found)
        return f"expression {problem}" if problem else None

    def _names_server(self, place: _Place, text: str) -> bool:
        if any(self.shared.hold_address(reference) for reference in references(text)):
            return True
        if text.startswith("%"):
            path = included_file(text)
            return self.shared.hold_address(text[1:]) if path is None else _quotes(path) and bool(self.shared.addresses)
        return not _quotes(self.document.name) and "_desc_" not in place.keys and holds_address(text)

    def _macro_problem(self, text: str) -> str | None:
        path = included_file(text)
        ids = text[1:]
        if path is not None:
            files = _candidates(path, self.document.folder)
            if not files:
                return "includes a file that does not exist"
            if not all(_lies_in(file, self.document.folder) for file in files):
                return "includes a file outside its folder"
            ids = text.rpartition(path)[2].removeprefix("::")
        elif not _ID.fullmatch(ids):
            return "includes something that is not part of the configuration"
        return "uses a module as a value" if self.shared.hold_module(ids) else None


def _quotes(name: str) -> bool:
    """Return whether a file quotes addresses that MONAI does not use: sources, papers and locations of weights."""
    return Path(name).stem.lower() in ("metadata", "large_files")


def _candidates(path: str, folder: Path) -> list[Path]:
    """Return the files that a macro may include: from the working directory, as in MONAI, or from the folder."""
    return [file for file in dict.fromkeys((Path(path), folder / path)) if os.path.lexists(file)]


def _lies_in(file: Path, folder: Path) -> bool:
    return real_path(file).is_relative_to(real_path(folder))


def real_path(path: Path) -> Path:
    """Return a path without links; one that runs in circles stays as it is."""
    return Path(os.path.realpath(path))


def _normalized(text: str) -> str:
    return text.replace("#", "::")


def _mode(value: Any) -> str:
    return "default" if value is None else value.strip().lower() if isinstance(value, str) else "unknown"


def _places(
    content: Any,
    keys: tuple[str, ...] = (),
    in_component: bool = False,
    holder: Mapping[Any, Any] | None = None,
    is_merged: bool = True,
) -> Iterator[_Place]:
    """Yield every value of a configuration, and text keys that MONAI would evaluate if they were values.

    Args:
        content: the configuration, or a value within it.
        keys: path of keys to it.
        in_component: see `_Place`.
        holder: see `_Place`.
        is_merged: whether keys of `content` are merged with those of other files, as those of the first level are.
    """
    yield _Place(keys, content, in_component, holder)
    if isinstance(content, Mapping):
        in_component = in_component or "_target_" in content
        for key, value in content.items():
            added = _split(key, first=not keys)
            inner = (*keys, *added)
            if isinstance(key, str) and key[:1] in ("$", "%"):
                yield _Place(inner, key, in_component)
            is_whole = len(added) == 1 and not is_merged
            merged = not keys and str(key).startswith("+")
            yield from _places(value, inner, in_component, content if is_whole else None, merged)
    elif isinstance(content, (list, tuple, set, frozenset)):
        for index, value in enumerate(content):
            yield from _places(value, (*keys, str(index)), in_component, None, False)


def _split(key: Any, first: bool) -> list[str]:
    """Return a key as MONAI splits it; a first key may begin with `+`, which extends the existing value."""
    text = str(key)
    return _normalized(text.removeprefix("+") if first else text).split("::")
