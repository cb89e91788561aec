"""Read the folds that a dataset defines: `fold` keys, a `validation` list, or nnU-Net's `splits_final.json`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from typing_extensions import TypedDict

from segbundle.datasets.case import Case
from segbundle.datasets.description import other_spellings
from segbundle.datasets.description_file import DescriptionFile
from segbundle.datasets.folders import log_once, some
from segbundle.datasets.folds import Split
from segbundle.errors import DataError
from segbundle.files.documents import read_json
from segbundle.files.run_files import SPLITS
from segbundle.terminal import escaped

_SPLIT_FILES = frozenset(
    f"{name}{ending}"
    for name in ("splitsfinal", "splitfinal", "finalsplits", "splits", "split", "folds")
    for ending in ("json", "pkl", "pickle", "yaml", "yml")
)
"""Files with folds from other programs, in lower case; nnU-Net v1 writes `splits_final.pkl`."""


class _Fold(TypedDict):
    train: list[str]
    val: list[str]


def given_split(file: DescriptionFile, training: Sequence[Case], validation: Sequence[Case]) -> Split | None:
    """Return the folds that a dataset defines, or None for a random split.

    A dataset defines folds by `fold` keys in its training list (as in MONAI), by a `validation` list, or by nnU-Net's
    `splits_final.json` next to the description of the dataset.

    Args:
        file: file that describes the dataset.
        training: labeled cases of the training list.
        validation: labeled cases of the `validation` list; may be empty.

    Raises:
        DataError: the dataset defines folds in several ways or in an unsupported file, or the folds contradict each
            other or the cases.

    Example:
        >>> cases = [Case("a", (Path("a.nii"),), fold=0), Case("b", (Path("b.nii"),), fold=1)]
        >>> given_split(DescriptionFile(Path("/nowhere/folds.json"), Path("/nowhere")), cases, []).folds[0]
        (frozenset({'b'}), frozenset({'a'}))
    """
    path = file.folder / SPLITS
    _refuse_other_files(file)
    found = {
        f"the `fold` keys of {file.path.name}": any(case.fold is not None for case in (*training, *validation)),
        f"the `validation` list of {file.path.name}": bool(validation),
        SPLITS: os.path.lexists(path),
    }
    given = [origin for origin, present in found.items() if present]
    if len(given) > 1:
        raise DataError(f"{file.folder}: {' and '.join(given)} both define folds. Remove one of them.")
    if given == [SPLITS]:
        return read_splits(path, [case.name for case in training])
    if validation:
        held_out = frozenset(case.name for case in validation)
        return Split(given[0], ((frozenset(case.name for case in training), held_out),))
    return Split(given[0], tuple(_folds_by_key(file.path, training))) if given else None


def _refuse_other_files(file: DescriptionFile) -> None:
    """Raise an error if the dataset has folds in an unsupported file and no `splits_final.json`."""
    folder = file.folder
    present = [path.name for path in folder.iterdir() if path != file.path] if folder.is_dir() else []
    for name in other_spellings(present, _SPLIT_FILES, SPLITS):
        if os.path.lexists(folder / SPLITS):
            log_once(f"{escaped(folder / name)}: is not used; folds come from {SPLITS}", logging.WARNING)
        else:
            raise DataError(
                f"{escaped(folder / name)}: is not used: did you mean {SPLITS}? Convert it to the format of nnU-Net "
                'v2, [{"train": [names], "val": [names]}, ...], or move it away.'
            )


def _folds_by_key(path: Path, cases: Sequence[Case]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    without = [case.name for case in cases if case.fold is None]
    if without:
        raise DataError(
            f"{path}: {len(without)} of {len(cases)} labeled cases have no `fold` "
            f"({some(without)}), but the others have one. Add `fold` to every case."
        )
    numbers = sorted({case.fold for case in cases if case.fold is not None})
    if numbers != list(range(len(numbers))) or len(numbers) < 2:
        raise DataError(
            f"{path}: the `fold` keys are {some(numbers)}; they must be 0, 1, 2, ... without a gap, "
            "for at least two folds."
        )
    names = frozenset(case.name for case in cases)
    for number in numbers:
        held_out = frozenset(case.name for case in cases if case.fold == number)
        yield names - held_out, held_out


def read_splits(path: Path, names: Iterable[str]) -> Split:
    """Read folds from a file in the format of nnU-Net's `splits_final.json`.

    Args:
        path: path of the file.
        names: names of the labeled cases of the dataset. A fold does not use the cases that it does not name, and a
            warning about them is logged.

    Raises:
        DataError: the file cannot be read, has no folds, names an unknown case, or has a fold without training or
            validation cases, or with a case in both.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "splits_final.json"
        ...     _ = path.write_text('[{"train": ["a"], "val": ["b"]}]')
        ...     read_splits(path, ["a", "b"]).folds
        ((frozenset({'a'}), frozenset({'b'})),)
    """
    return Split(path.name, tuple(_folds_in(path, set(names))))


def _folds_in(path: Path, names: set[str]) -> Iterable[tuple[frozenset[str], frozenset[str]]]:
    folds: list[_Fold] = read_json(path, list[_Fold])
    if not folds:
        raise DataError(f"{path}: contains no folds. Remove the file, or write folds as nnU-Net does.")
    never = sorted(names.difference(*(fold["val"] for fold in folds)))
    if never and len(folds) > 1:
        log_once(
            f"{path}: {len(never)} of {len(names)} labeled cases ({some(never)}) are in no validation fold, so a "
            "cross-validation never scores them",
            logging.WARNING,
        )
    for number, fold in enumerate(folds):
        training, held_out = frozenset(fold["train"]), frozenset(fold["val"])
        unknown = sorted((training | held_out) - names)
        if unknown:
            raise DataError(
                f"{path}: fold {number} names {len(unknown)} case(s) that are not labeled cases of the dataset "
                f"({some(unknown)}). Correct the names, or remove the file."
            )
        both = sorted(training & held_out)
        if both:
            raise DataError(f"{path}: fold {number} has {some(both)} in both `train` and `val`. Remove them from one.")
        if not training or not held_out:
            raise DataError(f"{path}: fold {number} has no cases in `{'train' if held_out else 'val'}`. Add cases.")
        left = sorted(names - training - held_out)
        if left:
            log_once(
                f"{path}: fold {number} does not use {len(left)} of {len(names)} labeled cases ({some(left)})",
                logging.WARNING,
            )
        yield training, held_out
