"""Configuration files, and what a command line lays over them, as one configuration for MONAI."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from segbundle.documents import read_json, read_yaml
from segbundle.errors import ConfigError
from segbundle.literals import protect, protect_text

SUFFIXES = (".yaml", ".yml", ".json")


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the keys and values of a configuration file.

    Args:
        path: of a JSON file if its name ends in .json, else of a YAML file.

    Raises:
        ConfigError: see `read_yaml` and `read_json`.
    """
    path = Path(path)
    known = path.stat() if path.is_file() else None
    return copy.deepcopy(_read(path, known and (known.st_mtime_ns, known.st_size)))


@lru_cache(maxsize=32)
def _read(path: Path, version: tuple[int, int] | None) -> dict[str, Any]:
    if path.suffix.lower() == ".json":
        return read_json(path, dict[str, Any], ConfigError)
    return read_yaml(path)


def workflow_file(configs: Path, name: str) -> Path:
    """Return the file of a bundle's workflow: `name` with the first suffix of `SUFFIXES` that exists."""
    paths = [configs / f"{name}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def merged_config(files: Sequence[str | Path], overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return one configuration from files and values laid over each other, by MONAI's rules.

    Args:
        files: later ones are laid over earlier ones. `#` and `::` in a key go one level down, `+` extends.
        overrides: values of a command line, which are data: nothing of them is evaluated.

    Raises:
        ConfigError: a file that cannot be read (see `read_config`), one that a macro (`%FILE`) names included; or a
            key below something that does not exist.
    """
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    parser = ConfigParser(config={})
    for path in files:
        for key, value in read_config(path).items():
            if not key.strip("+#:"):
                raise ConfigError(f"{path}: key {key!r} is no name.")
            with _naming(f"{path}: key {key!r}"):
                merge_kv(parser, key, protect_text(value))
    for text in texts(parser.get()):
        if text.startswith("%") and (path := ConfigParser.split_path_id(text[1:])[0]):
            read_config(path)
    for key, value in (overrides or {}).items():
        with _naming(f"--{key}"):
            parser[key] = protect(value)
    config: dict[str, Any] = parser.get()
    for key in ("initialize", "run", "finalize"):
        if key in config and not isinstance(config[key], (list, str)):
            raise ConfigError(f"config key {key!r} is {config[key]!r}; a list of components or expressions is needed.")
    return config


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the key in the errors that MONAI raises when it cannot set one."""
    try:
        yield
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise ConfigError(f"{name} cannot be set: the configuration has nothing of that name to set it in.") from error


def texts(config: Any) -> Iterator[str]:
    """Yield every text in a configuration, keys left out."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list, tuple)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from texts(value)
