"""Parsing of command-line keys and values. This module does not import large packages."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError

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
    """Return the folder of the project's bundle, in a checkout or an installed package.

    Example:
        >>> (default_bundle() / "configs" / "train.yaml").is_file()
        True
    """
    return _included("bundle")


def default_configs() -> Path:
    """Return the folder of the project's task files, in a checkout or an installed package.

    Example:
        >>> (default_configs() / "phantom.yaml").is_file()
        True
    """
    return _included("configs")


def _included(name: str) -> Path:
    package = Path(__file__).parents[1]
    installed = package / f"_{name}"
    return installed if installed.is_dir() else package.parents[1] / name


def task_file(path: Path) -> Path:
    """Return the path of a task file, which may be one of the project's own.

    If `path` is `configs/NAME.yaml` and does not exist in the working directory, the path of the project's task file of
    that name is returned. Any other path is returned unchanged.

    Args:
        path: path of a task file, as given on the command line.

    Example:
        >>> task_file(Path("configs/phantom.yaml")).is_file(), task_file(Path("other/phantom.yaml")).is_file()
        (True, False)
    """
    own = default_configs() / path.name
    return own if path.parent == Path("configs") and own.is_file() and not path.exists() else path


def split_overrides(words: list[str], switches: Collection[str] = ()) -> tuple[list[str], dict[str, Any]]:
    """Split a command line into plain words and `--key value` pairs. A key without a value is True.

    Values are parsed as in Python Fire. YAML's constants, such as `true`, `null` and `.inf`, are converted, and tuples
    become lists. Values of `TEXT_KEYS`, entries of lists of names, and values with a `#` remain text. Words after a
    `--` are plain.

    Args:
        words: words of the command line.
        switches: boolean keys. If the word after such a key is a number, a boolean, null, a list or a mapping, this
            word is the value of the key. Any other word after the key is a plain word. Default: none.

    Returns:
        the plain words in their order, and the values by key

    Raises:
        ConfigError: an option begins with a single dash or has no name.

    Example:
        >>> split_overrides(["train", "--max_epochs", "3", "--resume"])
        (['train'], {'max_epochs': 3, 'resume': True})
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
                raise ConfigError(f"unknown option {word!r}; pass config keys as --key value.")
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
            raise ConfigError(f"unknown option {word!r}; pass config keys as --key value, and other words after --.")
        else:
            plain.append(word)
    return plain, pairs


def switches_of(defaults: Mapping[str, Any]) -> set[str]:
    """Return the keys of a configuration whose default is true or false.

    Args:
        defaults: default values by key.

    Example:
        >>> switches_of({"amp": True, "max_epochs": 3})
        {'amp'}
    """
    return {key for key, value in defaults.items() if isinstance(value, bool)}


def join_switches(words: list[str], names: Collection[str]) -> list[str]:
    """Return a command line without the values of boolean options: `--resume true` becomes `--resume`.

    `--resume false` is removed. Words after a `--` are not changed. The `--` is kept, because the command-line parser
    would remove it.

    Args:
        words: words of the command line.
        names: names of the boolean options, for instance `--resume`.

    Example:
        >>> join_switches(["--resume", "true", "--fold", "1"], {"--resume"})
        ['--resume', '--fold', '1']
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
    """Raise an error if a key that is not boolean was given without a value, such as `--fold` instead of `--fold 1`.

    Args:
        overrides: values by key, from `split_overrides`. A key without a value is True.
        defaults: default values by key.

    Raises:
        ConfigError: a value is missing.

    Example:
        >>> refuse_missing_values({"fold": 1}, {"fold": 0})
        >>> refuse_missing_values({"fold": True}, {"fold": 0})
        Traceback (most recent call last):
        ...
        segbundle.errors.ConfigError: --fold needs a value; its default is 0.
    """
    for key, value in overrides.items():
        if value is True and key in defaults and not isinstance(defaults[key], bool):
            raise ConfigError(f"--{key} needs a value; its default is {defaults[key]!r}.")


def _value(key: str, text: str) -> Any:
    """Return the value of a key, parsed from its text on the command line."""
    from segbundle.config.settings import BY_KEY, NAME_LISTS, TEXT_KEYS, WORD_LISTS  # `--help` needs no settings

    name = re.split("#|::", key)[-1]
    if name in TEXT_KEYS:
        return None if text.lower() in ("null", "none") and BY_KEY[name].kind.accepts(None) else text
    is_list = text.strip().startswith("[") and text.strip().endswith("]")
    if name in WORD_LISTS and "," in text and not is_list:  # commas may belong to a name
        return text
    if name in NAME_LISTS | WORD_LISTS and is_list:
        return split_names(text.strip()[1:-1])
    if "#" in _QUOTED.sub("", text):  # Fire would treat the rest as a comment
        return text
    return _convert_constants(_parsed(text))


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
    """Return whether YAML can represent a value. Bytes, sets and complex numbers are not supported."""
    if isinstance(value, dict):
        return all(map(_is_plain, [*value, *value.values()]))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _convert_constants(value: Any) -> Any:
    """Return a value with YAML constants converted from words, and tuples converted to lists."""
    if isinstance(value, dict):
        return {key: _convert_constants(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_convert_constants(item) for item in value]
    return _CONSTANTS.get(value, value) if isinstance(value, str) else value


def split_names(text: str) -> list[str]:
    """Return the entries of a comma-separated list of names as text, without their quotes.

    Args:
        text: names separated by commas, without brackets; a name with a comma is quoted.

    Example:
        >>> split_names("MR, 'thorax, 3 mm', 2")
        ['MR', 'thorax, 3 mm', '2']
    """
    names = [match[1].strip() for match in _NAME.finditer(text) if match[0]] if text.strip() else []
    return [re.sub(r"\\(.)", r"\1", name[1:-1]) if _QUOTED.fullmatch(name) else name for name in names]
