"""What a command line says, as values; nothing heavy is imported for it."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError

_NULLABLE = frozenset({"cache_dir", "ckpt_path", "mlflow_uri"})
TEXT_KEYS = frozenset({*_NULLABLE, "bundle_root", "data_list_key", "dataset_dir", "output_dir"})
"""Keys whose values are text, however much they look like numbers: folders, files, addresses, names."""
NAME_LISTS = frozenset({"class_names", "largest_component"})
"""Keys whose values may be lists of names."""
_CONSTANTS: dict[str, bool | float | None] = {
    "true": True,
    "false": False,
    "null": None,
    "none": None,
    ".nan": math.nan,
}
_CONSTANTS |= {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf}
_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_NAME = re.compile(rf"\s*({_QUOTED.pattern}|[^,]*)\s*(?:,|$)")


def default_bundle() -> Path:
    """The bundle that comes with the project, in a checkout or an installed package."""
    package = Path(__file__).parents[1]
    installed = package / "_bundle"
    return installed if installed.is_dir() else package.parents[1] / "bundle"


def split_overrides(words: list[str], switches: Collection[str] = ()) -> tuple[list[str], dict[str, Any]]:
    """Tell plain words from `--key value` pairs; a key without a value is true.

    Values are read as Fire reads them, those of `TEXT_KEYS` as they are. Words after a `--` are plain.

    Args:
        words: of the command line.
        switches: keys that are true or false, and so take no other word for their value.

    Raises:
        ConfigError: an option with a single dash, which no config key is, or without a name.
    """
    plain: list[str] = []
    pairs: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return plain + rest, pairs
        if word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            if not key.strip("#:"):
                raise ConfigError(f"unknown option {word!r}; config keys are given as --key value.")
            if equals:
                pairs[key] = _value(key, text)
                continue
            pairs[key] = True
            if rest and not rest[0].startswith("--"):
                value = _value(key, rest[0])
                if key not in switches or not isinstance(value, str):
                    pairs[key] = value
                    rest.pop(0)
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(f"unknown option {word!r}; config keys are given as --key value, other words after --.")
        else:
            plain.append(word)
    return plain, pairs


def switches_of(defaults: Mapping[str, Any]) -> set[str]:
    """Return the keys that are true or false."""
    return {key for key, value in defaults.items() if isinstance(value, bool)}


def join_switches(words: list[str], names: Collection[str]) -> list[str]:
    """Return a command line in which options without a value have none: `--resume true` becomes `--resume`.

    Words after a `--` stay as they are, and so does the `--`, which the command line's parser would remove.

    Args:
        words: of the command line.
        names: of the options that take no value, for instance `--resume`.
    """
    end = words.index("--") if "--" in words else len(words)
    joined: list[str] = []
    rest = words[:end]
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if name in names and not equals and rest and rest[0].lower() in ("true", "false"):
            equals, text = "=", rest.pop(0)
        if name not in names or (equals and text.lower() not in ("true", "false")):
            joined.append(word)
        elif not equals or text.lower() == "true":
            joined.append(name)
    return [*joined, *(["--"] if end < len(words) else []), *words[end:]]


def refuse_missing_values(overrides: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse keys that were given without a value, or as true, and are no switches.

    Raises:
        ConfigError: such a key.
    """
    for key, value in overrides.items():
        if value is True and key in defaults and not isinstance(defaults[key], bool):
            raise ConfigError(f"--{key} needs a value; its default is {defaults[key]!r}.")


def _value(key: str, text: str) -> Any:
    """The value of a key, as its text on the command line says."""
    name = re.split("#|::", key)[-1]
    if name in TEXT_KEYS:
        return None if name in _NULLABLE and text.lower() in ("null", "none") else text
    if name in NAME_LISTS and text.strip().startswith("[") and text.strip().endswith("]"):
        return _names(text.strip()[1:-1])
    if "#" in _QUOTED.sub("", text):  # where Fire takes the rest for a comment
        return text
    return _constant(_parsed(text))


def _parsed(text: str) -> Any:
    from fire.parser import DefaultParseValue

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            value = DefaultParseValue(text)
    except (TypeError, RecursionError, MemoryError):
        return text
    return value if _is_plain(value) else text


def _is_plain(value: Any) -> bool:
    """Whether YAML has such a value: no bytes, sets or complex numbers."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _constant(value: Any) -> Any:
    """YAML's spelling of what Fire reads as words, and lists for its tuples."""
    if isinstance(value, dict):
        return {key: _constant(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_constant(one) for one in value]
    return _CONSTANTS.get(value, value) if isinstance(value, str) else value


def _names(text: str) -> list[str]:
    """The entries of a list of names, quoted or not, none of which is taken for a number or a constant."""
    names = [match[1].strip() for match in _NAME.finditer(text) if match[0]] if text.strip() else []
    return [re.sub(r"\\(.)", r"\1", name[1:-1]) if _QUOTED.fullmatch(name) else name for name in names]
