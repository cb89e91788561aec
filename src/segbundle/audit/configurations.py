"""Inspection of configurations: values that MONAI would evaluate, import or include."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbundle.audit.allowed_names import IMPORTS, MODULES
from segbundle.audit.call_arguments import argument_problem, has_address, makes_object
from segbundle.audit.entries import (
    Document,
    Entry,
    entries,
    included_candidates,
    included_file,
    is_inside,
    normalized,
    split_key,
)
from segbundle.audit.expressions import callable_problem, expression_problem, references
from segbundle.audit.findings import WHOLE_FILE, Finding, excerpt_of
from segbundle.audit.imports import import_problem, imported
from segbundle.audit.targets import callable_target_problem, downloads_by_default, target_problem

_ID = re.compile(r"[\w .+-]*(?:::[\w .+-]*)*")
_MODES = ("default", "callable")
_MAX_ALIASES = 8


def inspect_documents(documents: Iterable[Document]) -> Iterator[Finding]:
    """Yield a finding for each value of the configurations that is not known to be harmless.

    If configurations are nested too deeply to be inspected, a single finding is yielded.

    Args:
        documents: configurations that are merged or in the same folder; each may use the imports of the others.

    Example:
        >>> document = Document("task.yaml", {"loss": {"_target_": "os.system"}}, Path())
        >>> [finding.key for finding in inspect_documents([document])]
        ['loss#_target_']
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
    """Definitions that all configurations share.

    Attributes:
        modules: names that expressions may use, and their dotted names.
        ambiguous: names that are imported with two different meanings.
        sections: top-level keys that contain an import; their values are modules.
        definitions: all values of each top-level key.
        values: all values of each ID: the keys from the root to a value, joined with `::`.
        addresses: IDs of metadata that contain a URL (see `has_address`).
    """

    modules: Mapping[str, str]
    ambiguous: frozenset[str]
    sections: frozenset[str]
    definitions: Mapping[str, list[Any]]
    values: Mapping[str, list[Any]]
    addresses: frozenset[str]

    @classmethod
    def of(cls, documents: Iterable[Document]) -> _Shared:
        modules = dict(MODULES)
        ambiguous: set[str] = set()
        sections: set[str] = set()
        definitions: dict[str, list[Any]] = {}
        values: dict[str, list[Any]] = {}
        addresses: set[str] = set()
        for document in documents:
            for key, value in document.content.items() if isinstance(document.content, dict) else ():
                first, *inner = split_key(key, first=True)
                definitions.setdefault(first, []).append(key if inner else value)
            for entry in entries(document.content):
                values.setdefault("::".join(entry.keys), []).append(entry.value)
                if _lists_addresses(document.name) and isinstance(entry.value, str) and has_address(entry.value):
                    addresses.add("::".join(("_meta_", *entry.keys)))
                if not isinstance(entry.value, str) or not entry.value.startswith("$"):
                    continue
                found = imported(normalized(entry.value)[1:])
                if found is not None:
                    alias, name = found
                    if modules.setdefault(alias, name) != name:
                        ambiguous.add(alias)
                    sections.update(entry.keys[:1])
                    if Path(document.name).stem == "metadata":
                        sections.add("_meta_")  # MONAI's key for the content of this file
        for name in IMPORTS:  # without an import, the expression fails, as in MONAI's own template
            modules.setdefault(name, name)
        return cls(modules, frozenset(ambiguous), frozenset(sections), definitions, values, frozenset(addresses))

    def contains_module(self, reference: str) -> bool:
        """Return whether an ID refers to a value that contains modules."""
        first = reference.partition("::")[0]
        return first in self.sections or (first == "" and bool(self.sections))

    def contains_address(self, reference: str) -> bool:
        """Return whether metadata at or below an ID contains a URL that may lead to another computer.

        Args:
            reference: ID with keys separated by `::`, such as `_meta_::license`; empty for all metadata.
        """
        below = f"{reference}::" if reference else ""
        return any(address == reference or address.startswith(below) for address in self.addresses)

    def may_be_called(self, reference: str, aliases: int = _MAX_ALIASES) -> bool:
        """Return whether an ID refers only to objects, lambdas and components that are known to be harmless to call.

        Args:
            reference: ID with keys separated by `::`.
            aliases: maximum number of references to follow.
        """
        values = self.values.get(reference, [])
        return bool(values) and all(self._is_callable(value, aliases) for value in values)

    def _is_callable(self, value: Any, aliases: int) -> bool:
        if isinstance(value, str):
            if re.fullmatch(r"@\w+(?:(?:#|::)\w+)*", value) and aliases > 0:
                return self.may_be_called(normalized(value[1:]), aliases - 1)
            return value.startswith("$lambda ")
        if isinstance(value, dict) and _mode(value.get("_mode_")) == "callable":
            return isinstance(value.get("_target_"), str)  # inspected elsewhere, for any arguments
        return makes_object(value)

    def _is_defined(self, reference: str) -> bool:
        return normalized(reference[1:]) in self.values

    def resolved_values(self, value: Any) -> list[Any]:
        """Return all values that a reference may refer to, directly or indirectly, or else the value itself."""
        values, seen = [value], set()
        for each in values:
            if isinstance(each, str) and re.fullmatch(r"@\w+(?:(?:#|::)\w+)*", each) and each not in seen:
                seen.add(each)
                reference = normalized(each[1:])
                values += self.values.get(reference, [])
                values += self.definitions.get(reference, []) if reference not in self.values else []
        found = [each for each in values if not (isinstance(each, str) and each in seen and self._is_defined(each))]
        return found or [value]


class _Inspection:
    """Inspection of a single document."""

    def __init__(self, document: Document, shared: _Shared) -> None:
        self.document = document
        self.shared = shared

    def findings(self) -> Iterator[Finding]:
        for entry in entries(self.document.content):
            problem = self._problem(entry)
            if problem is not None:
                yield Finding(self.document.name, entry.name, problem, excerpt_of(entry.value))

    def _problem(self, entry: Entry) -> str | None:
        if entry.argument == "_target_":
            return self._target_problem(entry)
        if entry.argument == "_mode_" and entry.value is not None:
            mode = _mode(entry.value)
            if mode not in _MODES:
                return "_mode_ is neither default nor callable; debug opens a debugger"
            known = mode == "default" or (entry.parent is not None and "_target_" in entry.parent)
            return None if known else "makes a component callable that is defined elsewhere"
        if entry.argument == "_debug_" and entry.value is not False:
            return "opens a debugger"
        if not isinstance(entry.value, list):  # items of a list are inspected separately
            for value in self.shared.resolved_values(entry.value):
                problem = argument_problem(entry.argument, value)
                if problem is not None:
                    return f"{entry.argument} {problem}"
        return self._text_problem(entry) if isinstance(entry.value, str) and self.document.is_evaluated else None

    def _target_problem(self, entry: Entry) -> str | None:
        if not isinstance(entry.value, str):
            return "_target_ is not text"
        if entry.value[:1] in ("@", "%"):
            return "_target_ is known only when the configuration runs"
        if not entry.value.startswith("$"):
            problem = target_problem(entry.value)
            if problem is None and (entry.parent is None or _mode(entry.parent.get("_mode_")) != "default"):
                problem = callable_target_problem(entry.value)
            if problem is None and entry.parent and downloads_by_default(entry.value, list(map(str, entry.parent))):
                problem = "downloads weights unless pretrained is false"
        elif entry.text is None:
            problem = "has references that cannot be followed"
        else:
            problem = callable_problem(entry.text[1:], self.shared.modules, self.shared.may_be_called)
        return f"_target_ {problem}" if problem else None

    def _text_problem(self, entry: Entry) -> str | None:
        text = entry.text
        if text is None:
            return "has references that cannot be followed"
        if any(self.shared.contains_module(reference) for reference in references(text)):
            return "uses a module as a value"
        if self._names_server(entry, text):
            return "names a server"
        if not text.startswith(("$", "%")):
            return None
        if not entry.is_plain and (text.startswith("%") or text != normalized(entry.value)):
            return "has a reference through a key that is not a plain name"
        if text.startswith("%"):
            return self._macro_problem(text)
        found = imported(text[1:])
        if found is None:
            problem = expression_problem(text[1:], self.shared.modules, self.shared.may_be_called)
        elif entry.in_component:
            problem = "passes a module to a component"
        elif found[0] in self.shared.ambiguous:
            problem = f"imports {found[0]}, a name with a different meaning elsewhere"
        else:
            problem = import_problem(*found)
        return f"expression {problem}" if problem else None

    def _names_server(self, entry: Entry, text: str) -> bool:
        if any(self.shared.contains_address(reference) for reference in references(text)):
            return True
        if text.startswith("%"):
            path = included_file(text)
            if path is None:
                return self.shared.contains_address(text[1:])
            return _lists_addresses(path) and bool(self.shared.addresses)
        return not _lists_addresses(self.document.name) and "_desc_" not in entry.keys and has_address(text)

    def _macro_problem(self, text: str) -> str | None:
        path = included_file(text)
        reference = text[1:]
        if path is not None:
            files = included_candidates(path, self.document.folder)
            if not files:
                return "includes a file that does not exist"
            if not all(is_inside(file, self.document.folder) for file in files):
                return "includes a file outside its folder"
            reference = text.rpartition(path)[2].removeprefix("::")
        elif not _ID.fullmatch(reference):
            return "includes something that is not part of the configuration"
        return "uses a module as a value" if self.shared.contains_module(reference) else None


def _lists_addresses(name: str) -> bool:
    """Return whether a file may contain addresses that MONAI does not access: sources, papers, locations of weights."""
    return Path(name).stem.lower() in ("metadata", "large_files")


def _mode(value: Any) -> str:
    return "default" if value is None else value.strip().lower() if isinstance(value, str) else "unknown"
