"""Safe reading of JSON and YAML files from untrusted sources, and validation with a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from segbundle.errors import ConfigError, DataError, SegbundleError

T = TypeVar("T")
MAX_YAML_BYTES = 1_000_000
MAX_YAML_NODES = 100_000
"""Maximum number of keys, values and list entries of a YAML file after alias expansion."""
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_HALF_CHARACTER = re.compile(r"\\u[dD][89a-fA-F]")
"""Half of a surrogate pair. A string with a single half cannot be encoded or written to a file."""
_SHOWN_PROBLEMS = 3
_SHOWN_CHARACTERS = 60


def read_json(path: str | Path, schema: type[T] | Any = Any, error: type[SegbundleError] = DataError) -> T:
    """Return the content of a JSON file, validated with a schema.

    Args:
        path: UTF-8 file, with or without a byte order mark.
        schema: any type that pydantic validates, such as a model, a `TypedDict` or `list[str]`. Default: any value.
        error: class of the exception to raise (default `DataError`).

    Returns:
        the content, converted to the types of `schema`

    Raises:
        SegbundleError: the file is missing, unreadable, not JSON, or does not match the schema. The exception is of
            class `error`; its message names the file, the key, and the value.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "sizes.json"
        ...     _ = path.write_text('{"liver": 3}')
        ...     read_json(path, dict[str, int])
        {'liver': 3}
    """
    path = Path(path)
    text = _read_text(path, error)
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
        if _HALF_CHARACTER.search(text):
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as problem:
        raise error(f"{path}: is not valid JSON ({_one_line(problem)}). Correct it, or write it again.") from problem
    return validate(content, schema, str(path), error)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Values are plain, never Python objects. `1e-3` is a number, as in YAML 1.2.

    Args:
        path: UTF-8 file of at most 1 MB and, after alias expansion, at most 100,000 nodes.

    Raises:
        ConfigError: the file is missing, unreadable, too large, not YAML, or not a mapping.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "task.yaml"
        ...     _ = path.write_text("learning_rate: 1e-3")
        ...     read_yaml(path)
        {'learning_rate': 0.001}
    """
    import yaml

    path = Path(path)
    text = _read_text(path, ConfigError, MAX_YAML_BYTES)
    try:
        loader = _loader()(text)
        loader.source = path
        node = loader.get_single_node()
        _check_expansion(path, node)
        content = None if node is None else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as problem:
        if isinstance(problem, SegbundleError):
            raise
        raise ConfigError(f"{path}: is not valid YAML ({_one_line(problem)}). Correct it.") from problem
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must contain keys and values, for instance `max_epochs: 100`.")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: key {key!r} is not text. Put it in quotes.")
    return content


def validate(content: Any, schema: type[T] | Any, source: str, error: type[SegbundleError] = DataError) -> T:
    """Validate plain values with a schema, and return them converted to the types of the schema.

    Args:
        content: parsed JSON or YAML (dicts, lists, strings, numbers, booleans, None).
        schema: any type that pydantic validates, see `read_json`.
        source: origin of the content for messages, for instance the path of a file.
        error: class of the exception to raise (default `DataError`).

    Raises:
        SegbundleError: the content does not match the schema. The exception is of class `error`; its message lists the
            first three problems with their keys and values.

    Example:
        >>> validate({"training": [{"image": 3}]}, dict[str, list[dict[str, str]]], "dataset.json")
        Traceback (most recent call last):
        ...
        segbundle.errors.DataError: dataset.json: training[0].image is 3: input should be a valid string.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _adapter(cast(Hashable, schema)).validate_python(content))
    except ValidationError as problem:
        found = problem.errors(include_url=False)
        shown = [_described_problem(entry) for entry in found[:_SHOWN_PROBLEMS]]
        left = len(found) - _SHOWN_PROBLEMS
        more = f" {left} more problem{'s' if left > 1 else ''}." if left > 0 else ""
        raise error(f"{source}: {'; '.join(shown)}.{more}") from problem


@lru_cache(maxsize=64)
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _described_problem(problem: Mapping[str, Any]) -> str:
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    reason = str(problem["msg"]).removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if problem["type"] == "missing":
        return f"{place} is missing"
    return f"{place or 'the content'} is {shortened(problem['input'])}: {reason.rstrip('.')}"


def shortened(value: Any) -> str:
    """Return the `repr` of a value; if it has more than 60 characters, the first 60 and `...`.

    Args:
        value: any object.

    Example:
        >>> shortened([1, 2])
        '[1, 2]'
    """
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _read_text(path: Path, error: type[SegbundleError], most_bytes: int | None = None) -> str:
    if not path.is_file():
        raise error(f"{path}: no such file. Check the path.")
    try:
        size = path.stat().st_size
        if most_bytes is not None and size > most_bytes:
            raise error(f"{path}: has {size:,} bytes, more than the limit of {most_bytes:,}. Shorten it.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{path}: is not UTF-8 text (byte {problem.start} is 0x{problem.object[problem.start]:02x}). "
            "Save it as UTF-8."
        ) from problem
    except OSError as problem:
        raise error(f"{path}: cannot be read ({problem.strerror}). Check its permissions and the disk.") from problem


def _one_line(problem: BaseException) -> str:
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(problem).split())[:300]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, but JSON does not allow it")


def _without_base_60(pattern: re.Pattern[str]) -> re.Pattern[str]:
    """Return a pattern of YAML 1.1's numbers that does not match those of base 60, such as 1:30 for 90."""
    return re.compile(f"(?!.*:)(?:{pattern.pattern})", pattern.flags)


@lru_cache(maxsize=1)
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # the C loader crashes on deeply nested lists
        """PyYAML's safe loader, with `1e-3` as a number and errors for duplicate keys and too many nodes."""

        source: Path
        num_nodes = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.num_nodes += 1
            if self.num_nodes > MAX_YAML_NODES:
                raise ConfigError(f"{self.source}: contains more than {MAX_YAML_NODES:,} values. Shorten it.")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
                if key is not None and key != "<<" and key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} is given twice", key_node.start_mark
                    )
                seen.add(key)
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [
            (tag, _without_base_60(pattern) if tag.endswith((":int", ":float")) else pattern) for tag, pattern in known
        ]
        for first, known in Loader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    return Loader


def _check_expansion(path: Path, root: Any) -> None:
    """Raise an error for YAML whose aliases refer to themselves or expand to too many nodes."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: Any) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise ConfigError(f"{path}: an alias refers to itself (*name inside the value of &name). Remove the alias.")
        open_nodes.add(id(node))
        parts = node.value if isinstance(node.value, list) else []
        children = [child for part in parts for child in (part if isinstance(part, tuple) else (part,))]
        sizes[id(node)] = total = 1 + sum(map(size, children))
        open_nodes.discard(id(node))
        return total

    if root is not None and size(root) > MAX_YAML_NODES:
        raise ConfigError(
            f"{path}: contains {size(root):,} values after the expansion of YAML aliases (*name), more than "
            f"{MAX_YAML_NODES:,}. Remove values or aliases."
        )
