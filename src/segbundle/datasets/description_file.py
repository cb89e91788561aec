"""Find the file that describes a dataset, and the folder that its paths are relative to."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from segbundle.errors import DataError
from segbundle.files.documents import read_json, read_yaml, shortened
from segbundle.terminal import escaped

FILE_NAME = "dataset.json"
_JSON, _YAML = (".json",), (".yaml", ".yml")
_LARGEST_SEARCHED = 20_000_000
"""Size in bytes above which a file of a folder is not examined for a list of cases."""


class DescriptionFile(NamedTuple):
    """File that describes a dataset: `dataset.json` of a folder, a datalist, or the datalist of an Auto3DSeg input.

    Attributes:
        path: path of the file, which may not exist.
        root: folder that relative paths in the file refer to, unless the file has the key `dataroot`.
        input: the Auto3DSeg input that names the datalist and its `dataroot`; None (default) without one.

    Example:
        >>> DescriptionFile(Path("data/dataset.json"), Path("data")).folder
        PosixPath('data')
    """

    path: Path
    root: Path
    input: Path | None = None

    @property
    def folder(self) -> Path:
        """Folder of the file, where `splits_final.json` is looked up."""
        return self.path.parent


def find_description(dataset_dir: str | Path) -> DescriptionFile:
    """Return the file that describes a dataset.

    Args:
        dataset_dir: folder of the dataset; or a datalist (.json); or an input of Auto3DSeg (.json or .yaml) with the
            keys `datalist` and `dataroot`. The paths in such an input are relative to its own folder, or else to the
            working directory.

    Raises:
        DataError: `dataset_dir` does not exist, or is neither a folder nor a file that describes a dataset.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "folds.json").write_text('{"training": []}')
        ...     _ = (Path(folder) / "input.json").write_text('{"datalist": "folds.json", "dataroot": "/data"}')
        ...     file = find_description(Path(folder) / "input.json")
        >>> file.path.name, file.root
        ('folds.json', PosixPath('/data'))
    """
    given = Path(dataset_dir)
    if given.is_dir():
        return DescriptionFile(given / FILE_NAME, given)
    if not given.exists():
        raise DataError(f"{escaped(given)}: no such folder; set dataset_dir to the dataset's folder.")
    if not is_description(given) or not given.is_file():
        raise DataError(
            f"{escaped(given)}: is a file, not a folder; set dataset_dir to the dataset's folder, or to a datalist "
            "(.json)."
        )
    content: Any = read_json(given) if given.suffix.lower() in _JSON else read_yaml(given)
    if isinstance(content, Mapping) and "datalist" in content:
        return _of_input(given, content)
    if given.suffix.lower() in _YAML:
        raise DataError(f"{given}: has no key `datalist`, so it is not an input of Auto3DSeg. Use a .json datalist.")
    return DescriptionFile(given, given.parent)


def is_description(path: Path) -> bool:
    """Return whether a file can describe a dataset, by its suffix.

    Args:
        path: path of a file.

    Example:
        >>> is_description(Path("folds.json")), is_description(Path("ct.nii.gz"))
        (True, False)
    """
    return path.suffix.lower() in (*_JSON, *_YAML)


def _of_input(path: Path, content: Mapping[str, Any]) -> DescriptionFile:
    """Return the datalist and the data folder that an Auto3DSeg input names."""
    for key in ("datalist", "dataroot"):
        if not isinstance(content.get(key, "."), str):
            raise DataError(f"{path}: {key} is {shortened(content[key])}; it must be a path.")
    datalist = _resolved(path, content["datalist"])
    if not datalist.is_file():
        raise DataError(f"{path}: datalist is {content['datalist']}, but {escaped(datalist)} does not exist.")
    root = _resolved(path, content["dataroot"]) if content.get("dataroot") else datalist.parent
    return DescriptionFile(datalist, root, path)


def _resolved(file: Path, written: str) -> Path:
    """Return a path of a file: relative to its folder, or to the working directory if only that exists."""
    beside, here = file.parent / written, Path(written)
    return here if os.path.lexists(here) and not os.path.lexists(beside) else beside


def root_of(file: DescriptionFile, description: Mapping[str, Any]) -> Path:
    """Return the folder that paths of a description are relative to: its `dataroot`, or else the root of the file.

    Args:
        file: file of the description.
        description: content of the file.

    Raises:
        DataError: the folder `dataroot` does not exist.

    Example:
        >>> root_of(DescriptionFile(Path("lists/a.json"), Path("lists")), {"training": []})
        PosixPath('lists')
    """
    written = description.get("dataroot")
    if not written or file.input is not None:
        root, origin = file.root, file.input
    else:
        root, origin = _resolved(file.path, written), file.path
    if origin is not None and not root.is_dir():
        raise DataError(f"{origin}: dataroot is {escaped(root)}, but this is not a folder. Correct the path.")
    return root


def datalists_in(folder: Path) -> list[Path]:
    """Return the JSON files of a folder that list training cases, sorted; subfolders are not searched.

    Args:
        folder: existing folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "folds.json").write_text('{"training": [{"image": "a.nii"}]}')
        ...     [path.name for path in datalists_in(Path(folder))]
        ['folds.json']
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name != FILE_NAME and path.is_file() and path.stat().st_size <= _LARGEST_SEARCHED:
            try:
                content: Any = read_json(path)
            except DataError:
                continue
            training = content.get("training") if isinstance(content, dict) else None
            if isinstance(training, list) and training and isinstance(training[0], dict) and "image" in training[0]:
                found.append(path)
    return found
