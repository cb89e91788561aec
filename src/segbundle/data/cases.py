"""Which scans there are: cases from a Decathlon `dataset.json`, from nnU-Net's raw layout, or from plain folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from segbundle.classes import Classes
from segbundle.data.description import check_class_names, described_labels, read_description
from segbundle.data.scan_files import SUFFIXES, is_dicom_file, is_dicom_folder, is_scan_file, stem
from segbundle.errors import ConfigError, DataError, suggestion

_LISTS = ("training", "validation", "test", "testing")
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
        """The case as an entry of a MONAI datalist: `case`, `image`, and with a label map `label` and `annotated`."""
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
        ConfigError: a `data_list_key` that the dataset does not have.
    """
    cases = list_cases(dataset_dir, data_list_key)
    if not cases:
        raise DataError(
            f"{dataset_dir}: has no case under {data_list_key!r}. A dataset needs a dataset.json with a "
            f"{data_list_key!r} list, or scans in imagesTr with label maps of the same name in labelsTr."
        )
    for message in name_problems(cases):
        raise DataError(message)
    return cases


def list_cases(dataset_dir: str | Path, data_list_key: str) -> list[Case]:
    """As `load_cases`, but the list may be empty and names may appear twice."""
    folder = Path(dataset_dir)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; set dataset_dir to the dataset's folder.")
    description = read_description(folder)
    lists = [key for key, value in description.items() if isinstance(value, list) and key in _LISTS]
    if isinstance(description.get(data_list_key), list):
        cases = [_listed_case(folder, entry, data_list_key) for entry in description[data_list_key]]
    elif data_list_key in ("training", "test"):
        channels = description.get("channel_names") or description.get("modality") or [None]
        cases = _cases_in_folders(folder, "Ts" if data_list_key == "test" else "Tr", len(channels))
    else:
        known = sorted({*lists, "training", "test"})
        raise ConfigError(f"data_list_key: {folder} has no list {data_list_key!r}{suggestion(data_list_key, known)}")
    return sorted(cases, key=lambda case: case.name)


def name_problems(cases: Iterable[Case]) -> list[str]:
    """A message for every name that more than one case has, as results of one would replace those of another, and for
    every path that is no text, and could stand in no result."""
    by_name: dict[str, list[Case]] = {}
    unreadable = []
    for case in cases:
        by_name.setdefault(case.name, []).append(case)
        for path in (*case.image, *([] if case.label is None else [case.label])):
            told = str(path).encode("utf-8", "backslashreplace").decode()
            if told != str(path):
                unreadable.append(f"{told}: its name is not in UTF-8; rename it.")
    return unreadable + [
        f"two cases are named {name!r}: {same[0].image[0]} and {same[1].image[0]}; rename one of the files."
        for name, same in by_name.items()
        if len(same) > 1
    ]


def labelled_data(
    dataset_dir: str | Path,
    class_names: Sequence[str],
    section: str = "all",
    fold: int | None = None,
    num_folds: int = 5,
    split_seed: int = 0,
    data_list_key: str = "training",
) -> list[dict[str, Any]]:
    """MONAI datalist of the labelled cases to train on, to validate on, or to evaluate.

    Args:
        dataset_dir: as in `load_cases`.
        class_names: the task's classes, the background first.
        section: `training` for all cases outside `fold`, `validation` for those of `fold`, `all` for both.
        fold: which fold is held out, in [0, num_folds); None puts every case into both sections.
        num_folds: into how many parts the cases are split.
        split_seed: decides the split. The same cases and seed give the same split everywhere.
        data_list_key: which list of the dataset, `training` or `test`.

    Returns:
        entries with `case`, `image`, `label` and `annotated` (one bool per class), and `ignore_label` where the
        dataset has one, sorted by name.

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
        held_out = fold_names([case.name for case in cases], fold, num_folds, split_seed)
        cases = [case for case in cases if (case.name in held_out) == (section == "validation")]
    ignore_label = described_labels(Path(dataset_dir)).ignore_label
    unknown = {} if ignore_label is None else {"ignore_label": ignore_label}
    return [{**case.item(class_names), **unknown} for case in cases]


def fold_names(names: Iterable[str], fold: int, num_folds: int, split_seed: int = 0) -> set[str]:
    """The names of the cases that one fold holds out.

    Names are sorted and shuffled by `split_seed`, then dealt out in turn, so fold sizes differ by one at most and every
    case is held out exactly once.

    Raises:
        ConfigError: `fold` is outside [0, num_folds), or there are more folds than cases.
    """
    ordered = sorted(names)
    if not 0 <= fold < num_folds:
        raise ConfigError(f"fold is {fold}, and must lie in [0, num_folds) with num_folds {num_folds}.")
    if not 2 <= num_folds <= len(ordered):
        raise ConfigError(f"num_folds is {num_folds}, and must lie between 2 and the number of cases, {len(ordered)}.")
    order = np.random.RandomState(split_seed).permutation(len(ordered))
    return {ordered[index] for index in order[fold::num_folds]}


def find_scans(scans: str | Path | Sequence[str | Path], num_channels: int = 1) -> list[dict[str, Any]]:
    """MONAI datalist of scans to run inference on.

    Args:
        scans: a scan file; a folder that is searched with its subfolders, in which a folder of DICOM files counts
            as one scan, named after its path, as are files that share their name with another; a dataset's folder
            (its `test` list, or `imagesTs`, or else every training image); or a list of any of these. In folders, label
            maps that inference wrote are passed over: `x_seg.nii.gz` or `x_prob.nii` beside `x.nii.gz` or beside a
            `predictions.json`.
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
        cases += _scans_of(path, num_channels)
    if not cases:
        raise DataError(f"{', '.join(map(str, paths))}: holds no scan (.nii, .nii.gz, .nrrd, .mha, .mhd or DICOM).")
    for message in name_problems(cases):
        raise DataError(message)
    return [Case(case.name, case.image).item([]) for case in sorted(cases, key=lambda case: case.name)]


def _scans_of(path: Path, num_channels: int) -> list[Case]:
    """The scans that one path given by a user means."""
    if path.is_file() and is_dicom_file(path):
        raise DataError(f"{path}: is one slice of a DICOM series; name its folder.")
    if path.is_file():
        return [Case(stem(path), (path,))]
    if is_dicom_folder(path):
        return [Case(path.resolve().name, (path,))]
    if read_description(path).get("test"):
        return load_cases(path, "test")
    for images in (path / "imagesTs", path / "imagesTr"):
        if images.is_dir():
            return _named_apart(_scans_below(images, images, num_channels), images)
    return _named_apart(_scans_below(path, path, num_channels), path)


def _named_apart(cases: list[Case], root: Path) -> list[Case]:
    """Files of one name in different folders, as in `patient_1/ct.nii.gz`, named after their way from the root."""
    count = Counter(case.name for case in cases)
    return [
        replace(case, name="_".join((*case.image[0].parent.relative_to(root).parts, case.name)))
        if count[case.name] > 1 and not is_dicom_folder(case.image[0])
        else case
        for case in cases
    ]


def _scans_below(root: Path, folder: Path, num_channels: int) -> list[Case]:
    """Every scan in a folder tree; DICOM folders are named after their way from the root."""
    files = [file for file in _scan_files(folder) if not _is_prediction(file)]
    found = _group_channels(files, num_channels)
    for child in sorted(child for child in folder.iterdir() if child.is_dir()):
        if is_dicom_folder(child):
            found.append(Case("_".join(child.relative_to(root).parts), (child,)))
        else:
            found += _scans_below(root, child, num_channels)
    return found


def _is_prediction(file: Path) -> bool:
    """Whether a file is a label map, or probabilities, that inference wrote, judging by what lies beside it."""
    name, _, kind = stem(file).rpartition("_")
    if kind not in ("seg", "prob"):
        return False
    scans = (file.with_name(name + suffix) for suffix in SUFFIXES)
    return (file.parent / "predictions.json").exists() or any(scan.exists() for scan in scans)


def _scan_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and is_scan_file(file))


def _case_of_channel(file: Path) -> str | None:
    """`case` of a file called `case_0000.nii.gz`, None for other names."""
    match = _CHANNEL.match(stem(file))
    return match["case"] if match is not None else None


def _group_channels(files: list[Path], num_channels: int) -> list[Case]:
    """Cases from files without label maps: the number of channels tells whether four digits are a channel."""
    if num_channels == 1 and not all(stem(file).endswith("_0000") for file in files):
        return [Case(stem(file), (file,)) for file in files]
    single = [Case(stem(file), (file,)) for file in files if _case_of_channel(file) is None]
    return single + _join_channels([file for file in files if _case_of_channel(file) is not None], num_channels)


def _join_channels(files: list[Path], num_channels: int) -> list[Case]:
    """Cases from channel files `case_0000`, `case_0001`, ...

    A channel that is missing is put in its place all the same, so that reading the case names the file.
    """
    cases: dict[str, dict[int, Path]] = {}
    for file in files:
        name, channel = _case_of_channel(file) or "", int(stem(file)[-4:])
        by_channel = cases.setdefault(name, {})
        if channel in by_channel:
            raise DataError(f"{by_channel[channel]} and {file}: are the same channel of one case; remove one of them.")
        by_channel[channel] = file
    return [Case(name, _complete(name, by_channel, num_channels)) for name, by_channel in cases.items()]


def _complete(name: str, by_channel: dict[int, Path], num_channels: int) -> tuple[Path, ...]:
    """The files of channels 0, 1, ... of a case: those found, and the names that missing ones would have."""
    example = next(iter(by_channel.values()))
    suffix = example.name[len(name) + len("_0000") :]
    count = max(num_channels, max(by_channel) + 1)
    return tuple(by_channel.get(c, example.with_name(f"{name}_{c:04d}{suffix}")) for c in range(count))


def _cases_in_folders(folder: Path, section: str, num_channels: int) -> list[Case]:
    """Cases of `images<section>`, with their label maps in `labels<section>` where there are any.

    The label maps' names tell which files are channels of one case.
    """
    images, labels = folder / f"images{section}", folder / f"labels{section}"
    if not images.is_dir():
        return []
    files = _scan_files(images)
    series = [Case(child.name, (child,)) for child in sorted(images.iterdir()) if is_dicom_folder(child)]
    label_maps = _scan_files(labels) if labels.is_dir() else []
    names = {stem(label) for label in label_maps}
    whole = [file for file in files if stem(file) in names]
    channels = [file for file in files if file not in whole and _case_of_channel(file) in names]
    others = [file for file in files if file not in whole and file not in channels]
    cases = [Case(stem(file), (file,)) for file in whole] + series
    cases += _join_channels(channels, num_channels) + _group_channels(others, num_channels)
    labelled = []
    for label in label_maps:
        same = [case for case in cases if case.name == stem(label)]
        labelled += [Case(case.name, case.image, label) for case in same] or [
            Case(stem(label), (images / label.name,), label)  # reading it will say that the image is missing
        ]
    return labelled + [case for case in cases if case.name not in names]


def _listed_case(folder: Path, entry: Any, key: str) -> Case:
    """A case from an entry of `dataset.json`: `{"image": ..., "label": ..., "annotated": [...]}` or a path."""
    if isinstance(entry, str):
        entry = {"image": entry}
    if not isinstance(entry, dict) or "image" not in entry:
        raise DataError(f"{folder / 'dataset.json'}: an entry of {key!r} has no `image`: {entry!r}.")
    annotated = entry.get("annotated")
    if annotated is not None and not (isinstance(annotated, list) and all(isinstance(a, str) for a in annotated)):
        raise DataError(f"{folder / 'dataset.json'}: `annotated` must be a list of class names, found {annotated!r}.")
    misspelt = get_close_matches("annotated", [name for name in entry if name != "annotated"], n=1, cutoff=0.7)
    if misspelt:
        raise DataError(
            f"{folder / 'dataset.json'}: an entry of {key!r} has {misspelt[0]!r}: did you mean 'annotated'?"
        )
    image = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    paths = tuple(folder / part for part in image)
    label = folder / entry["label"] if entry.get("label") else None
    name = stem(paths[0])
    match = _CHANNEL.match(name)
    if match is not None and (len(paths) > 1 or (label is not None and stem(label) == match["case"])):
        name = match["case"]
    return Case(name, paths, label, None if annotated is None else tuple(annotated))
