"""What a command line and task YAMLs say, as values; nothing heavy is imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError


def default_bundle() -> Path:
    """The bundle that comes with the project, in a checkout or an installed package."""
    package = Path(__file__).parent
    installed = package / "_bundle"
    return installed if installed.is_dir() else package.parents[1] / "bundle"


def split_overrides(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Tell plain words from `--key value` pairs; a key without a value is true. Values are read as Fire reads them.

    Raises:
        ConfigError: an option with a single dash, which no config key is.
    """
    from fire.parser import DefaultParseValue

    plain: list[str] = []
    pairs: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            if not equals:
                value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
            pairs[key] = _constant(DefaultParseValue(value))
        elif word.startswith("-") and len(word) > 1:
            raise ConfigError(f"unknown option {word!r}; config keys are given as --key value.")
        else:
            plain.append(word)
    return plain, pairs


def refuse_missing_values(overrides: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse keys that were given without a value, or as true, and are no switches.

    Raises:
        ConfigError: such a key.
    """
    for key, value in overrides.items():
        if value is True and key in defaults and not isinstance(defaults[key], bool):
            raise ConfigError(f"--{key} needs a value; its default is {defaults[key]!r}.")


def _constant(value: Any) -> Any:
    """YAML's spelling of what Fire reads as words."""
    return (
        {"true": True, "false": False, "null": None, "none": None}.get(value, value)
        if isinstance(value, str)
        else value
    )
