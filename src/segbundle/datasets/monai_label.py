"""List the cases of a study of MONAI Label: a folder of images, with label maps in `labels/final`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from segbundle.datasets.case import Case, path_problems
from segbundle.datasets.folders import log_once, some
from segbundle.errors import DataError
from segbundle.files.documents import read_json, shortened
from segbundle.io.scan_files import is_scan_file, label_stem, stem

_DATASTORE = "datastore_v2.json"
_STRICT: Any = {"strict": True, "extra": "allow"}
_FINAL, _ORIGINAL = "final", "original"


class _Datastore(TypedDict, total=False):
    """Keys of `datastore_v2.json` that are used."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]
    images_dir: str
    labels_dir: str


def is_study(folder: Path) -> bool:
    """Return whether a folder is a study of MONAI Label: it has `labels/final` or a `datastore_v2.json`.

    Args:
        folder: folder of a dataset.

    Example:
        >>> is_study(Path("/nowhere"))
        False
    """
    return (folder / _DATASTORE).is_file() or (folder / "labels" / _FINAL).is_dir()


def study_cases(folder: Path) -> tuple[list[Case], list[str]]:
    """Return the cases of a study of MONAI Label.

    As in MONAI Label, images and label maps are not searched in subfolders and are paired by their names. Only label
    maps in `labels/final`, which were submitted by a reader, are used; label maps in `labels/original` come from a
    model.

    Args:
        folder: folder of the study.

    Returns:
        the cases, and a message for each label map without an image

    Raises:
        DataError: `datastore_v2.json` is invalid, or a folder that it names does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for path in (Path(folder) / "a.nii.gz", Path(folder) / "labels" / "final" / "a.nii.gz"):
        ...         path.parent.mkdir(parents=True, exist_ok=True)
        ...         path.touch()
        ...     (case,), problems = study_cases(Path(folder))
        >>> case.name, case.label.parent.name, problems
        ('a', 'final', [])
    """
    store: _Datastore = read_json(folder / _DATASTORE, _Datastore) if (folder / _DATASTORE).is_file() else {}
    for key in ("images_dir", "labels_dir"):
        if key in store and not (folder / store[key]).is_dir():
            raise DataError(
                f"{folder / _DATASTORE}: {key} is {shortened(store[key])}, but this folder does not exist. Correct it."
            )
    images = _files(folder / store.get("images_dir", "."))
    labels_dir = folder / store.get("labels_dir", "labels")
    labels = {label_stem(path): path for path in _files(labels_dir / _FINAL)}
    cases = [_case(path, labels.get(stem(path))) for path in images]
    named = {case.name for case in cases}
    _log_originals(labels_dir, named - labels.keys())
    return cases, [
        f"{path}: has no image {name} in {folder}. Restore the image, or remove the label map."
        for name, path in labels.items()
        if name not in named
    ]


def _files(folder: Path) -> list[Path]:
    """Return the scan files of a folder, also links that are broken; subfolders are not searched."""
    return sorted(path for path in folder.iterdir() if is_scan_file(path)) if folder.is_dir() else []


def _case(image: Path, label: Path | None) -> Case:
    return Case(stem(image), (image,), label, problems=path_problems([image] if label is None else [image, label]))


def _log_originals(labels_dir: Path, unlabeled: set[str]) -> None:
    """Log that some unlabeled images have a label map that was not submitted."""
    found = sorted(unlabeled & {label_stem(path) for path in _files(labels_dir / _ORIGINAL)})
    if found:
        log_once(
            f"{labels_dir / _ORIGINAL}: {len(found)} label maps ({some(found)}) are not used because they were not "
            f"submitted; move them to {labels_dir / _FINAL} to use them",
            logging.WARNING,
        )
