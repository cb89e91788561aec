"""List the cases of a BIDS dataset: images and label maps are paired by the entities of their names."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segbundle.datasets.case import Case, with_problems
from segbundle.datasets.folders import Tree, list_tree, some
from segbundle.errors import DataError
from segbundle.files.documents import read_json
from segbundle.io.scan_files import is_scan_file, stem
from segbundle.terminal import escaped

_LABEL_SUFFIXES = ("dseg", "mask", "seg")
_LABEL_KEYS = ("seg", "label", "lesion")
"""Keys of last parts without a suffix, as in `sub-01_T1w_seg-manual` and `sub-01_T1w_label-lesion`."""
_OWN_SPACES = ("orig", "individual", "native", "scanner")
"""Values of `space` for the voxels of the image itself, besides the suffix of the image, as in `space-T1w`."""
_NOT_IMAGES = ("probseg", "xfm", "defacemask")
_OF_PROCESSING = {"desc"}
"""Entities of an image that its label map need not have: `desc-preproc` describes the processing of an image."""
_SOURCES = ("Sources", "RawSources")
"""Keys of the JSON file of a derivative that name the files it was made from."""
_URI = re.compile(r"^bids:[^:]*:/*")
_CHOICE = '{{"dataroot": "{root}", "bids": {{{choice}}}}}'


@dataclass(frozen=True)
class BidsFile:
    """File of a BIDS dataset, by the parts of its name.

    Attributes:
        path: path of the file.
        entities: values by key, such as `{"sub": "01", "ses": "1"}`.
        words: other parts of the name, the suffix last, such as `("T1w",)`.
        is_label: whether the file is a label map.
        pipeline: folder in `derivatives`; None (default) for a file outside of `derivatives`.

    Example:
        >>> file = BidsFile.of(Path("sub-01/anat/sub-01_run-2_T1w.nii.gz"))
        >>> file.entities, file.suffix, file.is_label
        ({'sub': '01', 'run': '2'}, 'T1w', False)
    """

    path: Path
    entities: dict[str, str]
    words: tuple[str, ...]
    is_label: bool
    pipeline: str | None = None

    @property
    def suffix(self) -> str:
        """Last part of the name; empty if the last part is an entity."""
        return self.words[-1] if self.words else ""

    @property
    def parts(self) -> frozenset[str]:
        """Parts of the name, between underscores."""
        return frozenset(stem(self.path).split("_"))

    @classmethod
    def of(cls, path: Path, pipeline: str | None = None) -> BidsFile:
        """Parse the name of a BIDS file into entities and other parts. The file is not opened.

        Args:
            path: path of the file, such as `sub-01/anat/sub-01_T1w.nii.gz`.
            pipeline: folder in `derivatives`; None (default) for a file outside of `derivatives`.
        """
        parts = stem(path).split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        words = tuple(part for part in parts if "-" not in part)
        last_key = parts[-1].partition("-")[0] if "-" in parts[-1] else None
        return cls(path, entities, words, parts[-1] in _LABEL_SUFFIXES or last_key in _LABEL_KEYS, pipeline)

    def fits(self, image: BidsFile) -> bool:
        """Return whether this label map can belong to an image, by their names.

        Args:
            image: image of the same dataset.
        """
        space, image_space = self.entities.get("space"), image.entities.get("space")
        is_own = space in (None, *_OWN_SPACES, image.suffix)
        if not is_own if image_space is None else image_space != space:
            return False
        modalities = [word for word in self.words if word not in _LABEL_SUFFIXES]
        needed = {key: value for key, value in image.entities.items() if key not in {*_OF_PROCESSING, "space"}}
        return needed.items() <= self.entities.items() and (not modalities or image.suffix in modalities)


def is_bids(folder: Path) -> bool:
    """Return whether a folder is a BIDS dataset: it has `dataset_description.json` and folders `sub-*`.

    Many datasets lack the description; a `derivatives` folder is accepted instead.

    Args:
        folder: folder of a dataset.

    Example:
        >>> is_bids(Path("/nowhere"))
        False
    """
    marked = (folder / "dataset_description.json").is_file() or (folder / "derivatives").is_dir()
    return marked and (any(folder.glob("sub-*")) or any(folder.glob("derivatives/*/sub-*")))


def bids_cases(root: Path, choice: Mapping[str, Any]) -> tuple[list[Case], list[str]]:
    """Return the cases of a BIDS dataset.

    A label map belongs to the image whose entities, such as `sub`, `ses` and `run`, are all in the name of the label
    map. If there are several such images, the label map belongs to the image with the most entities. `space` must be
    the same in both names, and so must the modality if the label map names one. If several images remain, `Sources` in
    the JSON file of the label map decides. Raw images without a label map are unlabeled cases, unless
    `choice["images"]` lists several channels.

    Args:
        root: folder of the dataset.
        choice: keys `images`, `label` and `derivatives` as in `BidsFilter`, which restrict the images and label maps to
            use; empty to use all.

    Returns:
        a pair: the cases, with a problem for each label map without an image and each file that cannot be opened; and
        one message for each label map that fits several images, and each image with several label maps

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("sub-01/anat/sub-01_T1w.nii", "derivatives/manual/sub-01/anat/sub-01_dseg.nii"):
        ...         (Path(folder) / name).parent.mkdir(parents=True)
        ...         (Path(folder) / name).touch()
        ...     (case,), problems = bids_cases(Path(folder), {})
        >>> case.name, case.label.name, problems
        ('sub-01_T1w', 'sub-01_dseg.nii', [])
    """
    tree = list_tree(root)
    images, labels = _chosen(_files(tree), choice)
    wanted = choice.get("images") or [None]
    of_images: defaultdict[tuple[Path, ...], list[BidsFile]] = defaultdict(list)
    messages, cases = list[str](), list[Case]()
    for label in labels:
        channels = [_best(label, [image for image in images if _has(image, part)]) for part in wanted]
        if any(len(found) > 1 for found in channels):
            channels = [_among(_sources(root, label.path), found) for found in channels]
        ambiguous = next((found for found in channels if len(found) > 1), None)
        if ambiguous:
            messages.append(_several_images(root, label, ambiguous))
        elif all(channels):
            of_images[tuple(found[0].path for found in channels)].append(label)
        else:
            cases.append(_without_image(label, [found for found in channels if found], wanted, channels))
    for paths, found in of_images.items():
        if len(found) > 1:
            messages.append(_several_labels(root, paths[0], found))
        cases.append(_case(paths, found[0].path))
    used = {path for paths in of_images for path in paths}
    if len(wanted) == 1:
        suffixes = {BidsFile.of(path).suffix for path in used}
        unlabeled = [image for image in images if image.path not in used and image.pipeline is None]
        cases += [_case((image.path,), None) for image in unlabeled if not suffixes or image.suffix in suffixes]
    good, lost = {*tree.files}, {path.path: path.reason for path in tree.lost}
    return [with_problems(case, good, lost) for case in cases], messages


def _files(tree: Tree) -> list[BidsFile]:
    """Return the volumes of subjects, also those that cannot be opened."""
    lost = [lost.path for lost in tree.lost if is_scan_file(lost.path)]
    found = []
    for path in (*tree.files, *lost):
        folders = path.relative_to(tree.root).parts[:-1]
        derived = folders[:1] == ("derivatives",)
        if (
            path.name.startswith("sub-")
            and "." not in stem(path)
            and (derived or (folders and folders[0].startswith("sub-")))
        ):
            pipeline = folders[1] if derived and len(folders) > 1 and not folders[1].startswith("sub-") else ""
            found.append(BidsFile.of(path, pipeline if derived else None))
    return found


def _chosen(files: Sequence[BidsFile], choice: Mapping[str, Any]) -> tuple[list[BidsFile], list[BidsFile]]:
    """Return the images and the label maps that a choice leaves."""
    wanted = choice.get("images") or [None]
    images = [file for file in files if not file.is_label and file.suffix not in _NOT_IMAGES]
    images = [file for file in images if any(_has(file, part) for part in wanted)]
    labels = [file for file in files if file.is_label and _has(file, choice.get("label"))]
    pipeline = choice.get("derivatives")
    return images, [file for file in labels if pipeline is None or file.pipeline == pipeline]


def _has(file: BidsFile, part: str | None) -> bool:
    """Return whether the name of a file has all parts of `part`, such as those of `ce-gad_T1w`."""
    return part is None or set(part.split("_")) <= file.parts


def _best(label: BidsFile, images: Iterable[BidsFile]) -> list[BidsFile]:
    """Return the images that fit a label map best: in a folder of the same name, raw, with the most entities."""
    fitting = [image for image in images if label.fits(image)]
    ranks = [
        (image.path.parent.name == label.path.parent.name, image.pipeline is None, len(image.entities))
        for image in fitting
    ]
    return [image for image, rank in zip(fitting, ranks, strict=True) if rank == max(ranks)]


def _among(sources: set[str], images: list[BidsFile]) -> list[BidsFile]:
    """Return the images that are sources of a label map; all images if this does not choose one."""
    found = [image for image in images if os.path.realpath(image.path) in sources]
    return found if len(found) == 1 else images


def _sources(root: Path, label: Path) -> set[str]:
    """Return the real paths in `Sources`, or the older `RawSources`, of the JSON file beside a label map.

    An entry is a URI, as `bids::sub-01/anat/sub-01_T1w.nii.gz` or `bids:raw:...`, or a path relative to the dataset or,
    in older files, to the folder of the subject. Files without valid entries have no sources.
    """
    file = label.with_name(f"{stem(label)}.json")
    try:
        content: Any = read_json(file) if file.is_file() else {}
    except DataError:
        return set()
    found = set[str]()
    for entry in (entry for key in _SOURCES for entry in _as_list(content, key)):
        relative = _URI.sub("", entry)
        derived = label.relative_to(root).parts[:2] if label.relative_to(root).parts[0] == "derivatives" else ()
        for folder in (root, root / label.name.partition("_")[0], root.joinpath(*derived)):
            found.add(os.path.realpath(folder / relative))
    return found


def _as_list(content: Any, key: str) -> list[str]:
    value = content.get(key) if isinstance(content, dict) else None
    return [entry for entry in (value if isinstance(value, list) else [value]) if isinstance(entry, str)]


def _case(paths: tuple[Path, ...], label: Path | None) -> Case:
    """Return a case named after its image, without the suffix if there are several."""
    name = stem(paths[0])
    return Case(name if len(paths) == 1 else name.rpartition("_")[0], paths, label, subject=name.partition("_")[0])


def _without_image(
    label: BidsFile, found: Sequence[Sequence[BidsFile]], wanted: Sequence[str | None], channels: Sequence[object]
) -> Case:
    missing = [part for part, images in zip(wanted, channels, strict=True) if not images and part is not None]
    what = f"image {' or '.join(missing)}" if missing else "image"
    names = "_".join(f"{key}-{value}" for key, value in label.entities.items())
    problem = (
        f"{escaped(label.path)}: has no {what} whose entities it has ({names}). Restore the image, correct the name, "
        "or remove the label map."
    )
    images = tuple(images[0].path for images in found) or (label.path,)
    return Case(stem(label.path), images, label.path, problems=(problem,))


def _several_images(root: Path, label: BidsFile, images: Sequence[BidsFile]) -> str:
    other = frozenset[str]().union(*(image.parts for image in images[1:]))
    example = "_".join(sorted(images[0].parts - other)) or images[0].suffix
    choice = f'"images": ["{example}"]'
    return (
        f"{escaped(label.path)}: fits {len(images)} images ({some([image.path.name for image in images])}). "
        f"Choose one: set dataset_dir to a JSON file with {_CHOICE.format(root=root, choice=choice)}; list several for "
        "channels."
    )


def _several_labels(root: Path, image: Path, labels: Sequence[BidsFile]) -> str:
    first, second = labels[0], labels[1]
    if first.pipeline != second.pipeline and first.pipeline:
        choice = f'"derivatives": "{first.pipeline}"'
    else:
        own = sorted(first.parts - second.parts) or sorted(first.parts)
        choice = f'"label": "{"_".join(own)}"'
    paths = some([label.path.relative_to(root) for label in labels])
    return (
        f"{escaped(image)}: has {len(labels)} label maps ({paths}). Choose one: set dataset_dir to a JSON file with "
        f"{_CHOICE.format(root=root, choice=choice)}."
    )
