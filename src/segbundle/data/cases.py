"""Which scans there are: cases from a Decathlon `dataset.json`, from nnU-Net's raw layout, or from plain folders."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.classes import Classes, suggestion
from segbundle.data.scans import is_dicom_folder, is_scan_file, stem
from segbundle.errors import ConfigError, DataError

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})$")


@dataclass(frozen=True)
class Case:
    """One scan and what is known about it.

    Attributes:
        name: unique in its dataset; the file name without its ending.
        image: one file (or DICOM folder), or one file per channel.
        label: the label map's file, or None.
        annotated: names of the classes somebody looked for; None means all of them.
    """

    name: str
    image: tuple[Path, ...]
    label: Path | None = None
    annotated: tuple[str, ...] | None = None

    def item(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The case as an entry of a MONAI datalist: `case`, `image`, `label` (if any) and `annotated`."""
        image = [str(path) for path in self.image]
        entry: dict[str, Any] = {"case": self.name, "image": image[0] if len(image) == 1 else image}
        if self.label is not None:
            entry["label"] = str(self.label)
            entry["annotated"] = _annotated_mask(self, class_names)
        return entry


def _annotated_mask(case: Case, class_names: Sequence[str]) -> list[bool]:
    try:
        return Classes(class_names).annotated_mask(case.annotated)
    except ConfigError as error:
        raise DataError(f"case {case.name}: its `annotated` list in dataset.json is wrong: {error}") from error


def load_cases(dataset_dir: str | Path, data_list_key: str = "training") -> list[Case]:
    """Every case of one section of a dataset, sorted by name.

    Args:
        dataset_dir: a folder with a Decathlon `dataset.json`, in nnU-Net's raw layout (a `dataset.json` without
            lists, `case_0000.nii.gz` channels), or just with `imagesTr` and `labelsTr`.
        data_list_key: `training` (imagesTr) or `test` (imagesTs), or another list's key in `dataset.json`.

    Raises:
        DataError: no such folder, a `dataset.json` that cannot be used, no case at all, or two cases of one name.
    """
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set dataset_dir to the dataset's folder.")
    description = read_description(folder)
    if data_list_key in description:
        cases = [_listed_case(folder, entry, data_list_key) for entry in description[data_list_key]]
    else:
        cases = _cases_in_folders(folder, "Ts" if data_list_key == "test" else "Tr")
    if not cases:
        raise DataError(
            f"{folder}: has no case under {data_list_key!r}. A dataset needs a dataset.json with a "
            f"{data_list_key!r} list, or scans in imagesTr with label maps of the same name in labelsTr."
        )
    return _unique(cases)


def read_description(folder: Path) -> dict[str, Any]:
    """The content of a dataset's `dataset.json`, or an empty dict where there is none.

    Raises:
        DataError: the file is not valid JSON, or not a JSON object.
    """
    path = folder / "dataset.json"
    if not path.exists():
        return {}
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}).") from error
    if not isinstance(description, dict):
        raise DataError(f"{path}: must hold a JSON object, found a {type(description).__name__}.")
    return description


def described_class_names(folder: Path) -> list[str] | None:
    """Class names by label value as `dataset.json` gives them, or None where it does not.

    Understands Decathlon's `{"0": "background", "1": "liver"}` and nnU-Net's `{"background": 0, "liver": 1}`.

    Raises:
        DataError: values that are not 0, 1, 2, ... (nnU-Net's region-based labels among them).
    """
    labels = read_description(folder).get("labels")
    if not labels:
        return None
    try:
        if all(str(key).isdigit() for key in labels):
            by_value = {int(value): str(name) for value, name in labels.items()}
        else:
            by_value = {int(value): str(name) for name, value in labels.items()}
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{folder / 'dataset.json'}: `labels` must give each class one integer; "
            "label regions (lists of integers) are not supported."
        ) from error
    if sorted(by_value) != list(range(len(by_value))):
        raise DataError(
            f"{folder / 'dataset.json'}: label values are {sorted(by_value)}, and must be 0, 1, 2, ... without a gap."
        )
    return [by_value[value] for value in range(len(by_value))]


def check_class_names(dataset_dir: str | Path, class_names: Sequence[str]) -> None:
    """Refuse a task whose `class_names` contradict the dataset's own, upper and lower case aside.

    Raises:
        DataError: another number of classes, or another name at some label value.
    """
    described = described_class_names(Path(dataset_dir))
    if described is None or [n.lower() for n in described] == [n.lower() for n in class_names]:
        return
    raise DataError(
        f"{Path(dataset_dir) / 'dataset.json'}: its labels are {described}, the task's class_names are "
        f"{list(class_names)}; correct whichever is wrong."
    )


def labelled_data(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    section: str = "all",
    fold: int | None = None,
    num_folds: int = 5,
    seed: int | None = 0,
    data_list_key: str = "training",
) -> list[dict[str, Any]]:
    """MONAI datalist of the labelled cases to train on, to validate on, or to evaluate.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first.
        section: `training` for all cases outside `fold`, `validation` for those of `fold`, `all` for both.
        fold: which fold is held out, in [0, num_folds); None puts every case into both sections.
        num_folds: into how many parts the cases are split.
        seed: decides the split; None counts as 0. The same cases and seed give the same split everywhere.
        data_list_key: which list of the dataset, `training` or `test`.

    Returns:
        entries with `case`, `image`, `label` and `annotated` (one bool per class), sorted by name.

    Raises:
        DataError: no labelled case, or names in `annotated` or `dataset.json` that are no classes of the task.
        ConfigError: an impossible fold.
    """
    check_class_names(dataset_dir, class_names)
    cases = [case for case in load_cases(dataset_dir, data_list_key) if case.label is not None]
    if not cases:
        raise DataError(f"{dataset_dir}: no case under {data_list_key!r} has a label map.")
    if section not in ("training", "validation", "all"):
        raise ConfigError(f"section is {section!r}{suggestion(section, ('training', 'validation', 'all'))}")
    if section != "all" and fold is not None:
        held_out = fold_names([case.name for case in cases], fold, num_folds, seed)
        cases = [case for case in cases if (case.name in held_out) == (section == "validation")]
    return [case.item(class_names) for case in cases]


def fold_names(names: Iterable[str], fold: int, num_folds: int, seed: int | None = 0) -> set[str]:
    """The names of the cases that one fold holds out.

    Names are sorted and shuffled by `seed`, then dealt out in turn, so fold sizes differ by one at most and every
    case is held out exactly once.

    Raises:
        ConfigError: `fold` is outside [0, num_folds), or there are more folds than cases.
    """
    ordered = sorted(names)
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold is {fold}, and must lie in [0, num_folds) with num_folds {num_folds}.")
    if not 2 <= num_folds <= len(ordered):
        raise ConfigError(f"num_folds is {num_folds}, and must lie between 2 and the number of cases, {len(ordered)}.")
    order = np.random.RandomState(seed or 0).permutation(len(ordered))
    return {ordered[index] for index in order[fold::num_folds]}


def find_scans(scans: str | Path | Sequence[str | Path], num_channels: int = 1) -> list[dict[str, Any]]:
    """MONAI datalist of scans to run inference on.

    Args:
        scans: a scan file; a folder that is searched with its subfolders, in which a folder of DICOM files counts
            as one scan; a dataset's folder (its `test` list, or `imagesTs`, or else every training image); or a
            list of any of these.
        num_channels: with more than one, files `case_0000`, `case_0001`, ... are the channels of one case; with
            one, the ending `_0000` is dropped where every file has it.

    Returns:
        entries with `case` and `image`, sorted by name.

    Raises:
        DataError: a path that does not exist, no scan found, or two scans of one name.
    """
    paths = [scans] if isinstance(scans, (str, Path)) else list(scans)
    cases: list[Case] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder.")
        cases += _scans_below(path, num_channels)
    if not cases:
        raise DataError(f"{', '.join(map(str, paths))}: holds no scan (.nii, .nii.gz, .nrrd, .mha, .mhd or DICOM).")
    return [Case(case.name, case.image).item([]) for case in _unique(cases)]


def _scans_below(path: Path, num_channels: int) -> list[Case]:
    if path.is_file():
        return [Case(stem(path), (path,))]
    if is_dicom_folder(path):
        return [Case(path.resolve().name, (path,))]
    if read_description(path).get("test"):
        return load_cases(path, "test")
    for images in ("imagesTs", "imagesTr"):
        if (path / images).is_dir():
            return _group_channels(_scan_files(path / images), num_channels)
    found = _group_channels(_scan_files(path), num_channels)
    for folder in sorted(child for child in path.iterdir() if child.is_dir()):
        found += _scans_below(folder, num_channels)
    return found


def _scan_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and is_scan_file(file))


def _group_channels(files: list[Path], num_channels: int) -> list[Case]:
    """Cases from files, with nnU-Net's channel files joined where every case has just the channels asked for."""
    channels: dict[str, dict[int, Path]] = {}
    for file in files:
        match = _CHANNEL.match(stem(file))
        if match is None:
            return [Case(stem(file), (file,)) for file in files]
        channels.setdefault(match["case"], {})[int(match["channel"])] = file
    if any(sorted(found) != list(range(num_channels)) for found in channels.values()):
        return [Case(stem(file), (file,)) for file in files]
    return [Case(name, tuple(found[c] for c in sorted(found))) for name, found in channels.items()]


def _cases_in_folders(folder: Path, section: str) -> list[Case]:
    """Cases of `images<section>` and `labels<section>`; the labels' names tell which files are channels."""
    images, labels = folder / f"images{section}", folder / f"labels{section}"
    if not images.is_dir():
        return []
    files = _scan_files(images) + sorted(child for child in images.iterdir() if is_dicom_folder(child))
    by_name = {stem(file) if file.is_file() else file.name: file for file in files}
    if not labels.is_dir():
        return _group_channels(files, 1)
    cases = []
    for label in _scan_files(labels):
        name = stem(label)
        channels = sorted(n for n in by_name if (m := _CHANNEL.match(n)) is not None and m["case"] == name)
        if name not in by_name and not channels:
            raise DataError(f"{label}: has no image of the same name in {images}.")
        parts = [name] if name in by_name else channels
        cases.append(Case(name, tuple(by_name[part] for part in parts), label))
    return cases


def _listed_case(folder: Path, entry: Any, key: str) -> Case:
    """A case from an entry of `dataset.json`: `{"image": ..., "label": ..., "annotated": [...]}` or a path."""
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or "image" not in entry:
        raise DataError(f"{folder / 'dataset.json'}: an entry of {key!r} has no `image`: {entry!r}.")
    image = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    paths = tuple(folder / part for part in image)
    label = folder / entry["label"] if entry.get("label") else None
    annotated = tuple(entry["annotated"]) if entry.get("annotated") is not None else None
    name = stem(paths[0])
    match = _CHANNEL.match(name)
    if match is not None and (len(paths) > 1 or (label is not None and stem(label) == match["case"])):
        name = match["case"]
    return Case(name, paths, label, annotated)


def _unique(cases: list[Case]) -> list[Case]:
    """The cases sorted by name; refused if two share one, since the second's results would replace the first's."""
    name, count = Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        where = [str(case.image[0]) for case in cases if case.name == name]
        raise DataError(f"two cases are named {name!r}: {where[0]} and {where[1]}; rename one of the files.")
    return sorted(cases, key=lambda case: case.name)
