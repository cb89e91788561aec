"""Datasets in the layouts of other programs that are incomplete, ambiguous or malformed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from hostile.cases import EITHER, REFUSED, Case, Place
from hostile.material import volume, write_nifti

TABLE = "index\tname\n0\tbackground\n7\tbright\n"
IMAGE, LABEL = "sub-{n}/anat/sub-{n}_T1w.nii.gz", "derivatives/m/sub-{n}/anat/sub-{n}_dseg.nii.gz"


def bids(place: Place) -> Path:
    """Write a BIDS dataset of two subjects with a label table."""
    root = place.folder / "data"
    for n in (1, 2):
        array = volume(n)
        write_nifti(root / IMAGE.format(n=n), array)
        write_nifti(root / LABEL.format(n=n), np.where(array > 500, 7, 0).astype(np.uint8))
    (root / "dataset_description.json").write_text("{}")
    (root / "dseg.tsv").write_text(TABLE)
    return root


def _command(place: Place, root: object, name: str) -> list[object]:
    return place.check(root) if name == "check" else place.evaluate(root) if name == "evaluate" else place.train(root)


def _write(name: str, content: bytes | str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return edit


def _another_image(root: Path) -> None:
    write_nifti(root / "sub-1/anat/sub-1_FLAIR.nii.gz", volume(3))


def _another_label(root: Path) -> None:
    write_nifti(root / "derivatives/other/sub-1/anat/sub-1_dseg.nii.gz", (volume(1) > 500).astype(np.uint8))


def _other_grid(root: Path) -> None:
    path = root / LABEL.format(n=1)
    write_nifti(path, np.asarray(nib.load(path).dataobj), np.diag([3.0, 3, 3, 1]))


def _table_link(root: Path) -> None:
    (root / "dseg.tsv").unlink()
    (root / "dseg.tsv").symlink_to("dseg.tsv")


def _table_pipe(root: Path) -> None:
    (root / "dseg.tsv").unlink()
    os.mkfifo(root / "dseg.tsv")


_BIDS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "table in Latin-1": (_write("dseg.tsv", b"index\tname\n7\tM\xfcller\n"), ("dseg.tsv", "utf-8")),
    "table in UTF-16": (_write("dseg.tsv", TABLE.encode("utf-16")), ("dseg.tsv",)),
    "table with commas": (_write("dseg.tsv", TABLE.replace("\t", ",")), ("dseg.tsv",)),
    "empty table": (_write("dseg.tsv", ""), ("dseg.tsv",)),
    "index twice": (_write("dseg.tsv", f"{TABLE}7\tother\n"), ("dseg.tsv", "7")),
    "index with a fraction": (_write("dseg.tsv", TABLE.replace("7", "7.5")), ("dseg.tsv", "7.5")),
    "row without a name": (_write("dseg.tsv", TABLE.replace("bright", "")), ("dseg.tsv",)),
    "huge index": (_write("dseg.tsv", TABLE.replace("7", "9" * 400)), ("dseg.tsv",)),
    "huge table": (_write("dseg.tsv", TABLE + "1\ta\n" * 2_000_000), ("dseg.tsv",)),
    "other names": (_write("dseg.tsv", TABLE.replace("bright", "spleen")), ("dseg.tsv", "bright")),
    "value without a name": (_write("dseg.tsv", TABLE.replace("7", "5")), ("sub-1_dseg", "7")),
    "ignore has the value of a class": (_write("dseg.tsv", f"{TABLE}1\tignore\n"), ("dseg.tsv", "ignore")),
    "name with an escape sequence": (_write("dseg.tsv", TABLE.replace("bright", "\x1b[31mbright")), ("dseg.tsv",)),
    "two images": (_another_image, ("sub-1_T1w", "sub-1_FLAIR")),
    "sources that do not exist": (
        lambda root: (_another_image(root), _write("derivatives/m/sub-1/anat/sub-1_dseg.json", '{"Sources": ["bids::x"]}')(root))[1],
        ("sub-1_T1w", "sub-1_FLAIR"),
    ),
    "sources outside": (
        lambda root: (_another_image(root), _write("derivatives/m/sub-1/anat/sub-1_dseg.json", '{"Sources": ["/etc/passwd", "../../../../x", NaN]}')(root))[1],
        ("sub-1_T1w", "sub-1_FLAIR"),
    ),
    "two label maps": (_another_label, ("derivatives/m", "derivatives/other")),
    "label map on another grid": (_other_grid, ("sub-1",)),
    "image is missing": (lambda root: (root / IMAGE.format(n=1)).unlink(), ("sub-1_dseg",)),
    "image is damaged": (lambda root: (root / IMAGE.format(n=1)).write_bytes(b"x"), ("sub-1_T1w",)),
    "image is a dangling link": (
        lambda root: ((root / IMAGE.format(n=1)).unlink(), (root / IMAGE.format(n=1)).symlink_to("none"))[1],
        ("sub-1_T1w",),
    ),
}  # fmt: skip


def _bids() -> Iterator[Case]:
    for number, (name, (edit, names)) in enumerate(_BIDS.items()):
        for command in ("check", ("evaluate", "train")[number % 2]):
            build = lambda place, edit=edit, command=command: _built(place, bids, edit, command)
            yield Case("layout BIDS", f"{name}, {command}", build, REFUSED, names)
    for name, edit in (("table is a link to itself", _table_link), ("table is a pipe", _table_pipe)):
        build = lambda place, edit=edit: _built(place, bids, edit, "check")
        yield Case("layout BIDS", name, build, REFUSED)
    yield Case("layout BIDS", "cycle of links", lambda place: _built(place, bids, lambda root: (root / "sub-1" / "up").symlink_to(root), "check"), EITHER)  # fmt: skip


def _built(place: Place, make: Callable[[Place], Path], edit: Callable[[Path], object], command: str) -> list[object]:
    root = make(place)
    edit(root)
    return _command(place, root, command)


def _datalist(content: str, name: str = "list.json") -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        place.dataset()
        return place.file(f"data/{name}", content)

    return make


def _entries(**changes: Any) -> str:
    entries = [{"image": f"imagesTr/case_{n}.nii", "label": f"labelsTr/case_{n}.nii", "fold": n % 2} for n in range(4)]
    entries[1] |= changes
    return json.dumps({"labels": {"0": "background", "1": "bright"}, "training": entries})


_DATALISTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "fold is NaN": (_entries(fold=float("nan")), ("list.json",)),
    "fold is infinite": (_entries(fold=float("inf")), ("list.json",)),
    "fold is text": (_entries(fold="a"), ("list.json", "fold")),
    "image is a number": (_entries(image=7), ("list.json|image",)),
    "image is a folder": (_entries(image="imagesTr"), ("imagesTr",)),
    "image is outside": (_entries(image="/etc/passwd"), ("passwd",)),
    "image is above": (_entries(image="../../../../nowhere/a.nii"), ("a.nii",)),
    "image has a zero byte": (_entries(image="a\0.nii"), ("list.json|image|a",)),
    "image is an address": (_entries(image="https://example.org/a.nii"), ("a.nii",)),
    "label is the image": (_entries(label="imagesTr/case_1.nii"), ("case_1",)),
    "label is missing": (_entries(label="labelsTr/none.nii"), ("none.nii",)),
    "image twice": (_entries(image="imagesTr/case_0.nii"), ("case_0",)),
    "dataroot is missing": (json.dumps({"dataroot": "none", **json.loads(_entries())}), ("none",)),
    "dataroot is a number": (json.dumps({"dataroot": 7, **json.loads(_entries())}), ("dataroot",)),
    "not JSON": ("{", ("list.json",)),
    "key twice": ('{"training": [], "training": []}', ("list.json|training",)),
    "deep nesting": ("[" * 3000 + "]" * 3000, ("list.json",)),
    "training is a number": ('{"training": 7}', ("list.json|training",)),
    "VISTA3D labels with a gap": (
        json.dumps({**json.loads(_entries()), "labels": {}, "original_label_dict": {"1": "a", "3": 7}}),
        ("class|label|list.json",),
    ),
}  # fmt: skip


def _datalists() -> Iterator[Case]:
    for number, (name, (content, names)) in enumerate(_DATALISTS.items()):
        for command in ("check", ("evaluate", "train")[number % 2]):
            expect = EITHER if name == "VISTA3D labels with a gap" or name == "key twice" else REFUSED
            build = lambda place, content=content, command=command: _command(place, _datalist(content)(place), command)
            yield Case("layout datalist", f"{name}, {command}", build, expect, names if expect == REFUSED else ())
    inputs = {
        "input names no datalist": ("dataroot: data\n", ("input.yaml", "datalist")),
        "input names itself": ("datalist: input.yaml\ndataroot: data\n", ("input.yaml",)),
        "datalist is missing": ("datalist: none.json\ndataroot: data\n", ("none.json",)),
        "datalist is a list": ("datalist: [a, b]\ndataroot: data\n", ("input.yaml", "datalist")),
        "dataroot is missing": ("datalist: data/dataset.json\ndataroot: none\n", ("none",)),
        "datalist is a folder": ("datalist: data\ndataroot: data\n", ("data",)),
        "input is not UTF-8": (b"datalist: \xff\n", ("input.yaml",)),
    }
    for name, (content, names) in inputs.items():
        build = lambda place, content=content: (place.dataset(), place.check(place.file("input.yaml", content)))[1]
        yield Case("layout datalist", f"Auto3DSeg {name}", build, REFUSED, names)


def study(place: Place) -> Path:
    """Write a study of MONAI Label with two labeled images."""
    root = place.folder / "data"
    for n in (1, 2):
        write_nifti(root / f"case_{n}.nii.gz", volume(n))
        write_nifti(root / "labels" / "final" / f"case_{n}.nii.gz", (volume(n) > 500).astype(np.uint8))
    return root


_STUDIES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "label map without an image": (lambda root: (root / "case_1.nii.gz").unlink(), ("case_1",)),
    "label map is damaged": (_write("labels/final/case_1.nii.gz", b"x"), ("case_1",)),
    "images in two formats": (lambda root: write_nifti(root / "case_1.nii", volume(1)), ("case_1",)),
    "datastore is not JSON": (_write("datastore_v2.json", "{"), ("datastore_v2.json",)),
    "datastore with NaN": (_write("datastore_v2.json", '{"images_dir": NaN}'), ("datastore_v2.json",)),
    "images_dir is missing": (_write("datastore_v2.json", '{"images_dir": "none"}'), ("none",)),
    "images_dir is a number": (_write("datastore_v2.json", '{"images_dir": 7}'), ("datastore_v2.json",)),
    "datastore is a list": (_write("datastore_v2.json", "[]"), ("datastore_v2.json",)),
}


def _studies() -> Iterator[Case]:
    for name, (edit, names) in _STUDIES.items():
        for command in ("check", "evaluate"):
            build = lambda place, edit=edit, command=command: _built(place, study, edit, command)
            yield Case("layout MONAI Label", f"{name}, {command}", build, REFUSED, names)


def _mapping(dataset: Any, **more: Any) -> str:
    described = {
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "bright": 1}, "numTraining": 2, "file_ending": ".nii",
        "dataset": dataset,
    }  # fmt: skip
    return json.dumps(described | more)


def _pair(n: int, **changes: Any) -> dict[str, Any]:
    return {"images": [f"imagesTr/case_{n}.nii"], "label": f"labelsTr/case_{n}.nii"} | changes


_MAPPINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "is a list": (_mapping([1, 2]), ("dataset",)),
    "is empty": (_mapping({}), ("data",)),
    "case without images": (_mapping({"a": {"label": "labelsTr/case_0.nii"}}), ("a",)),
    "images is text": (_mapping({"a": _pair(0, images="imagesTr/case_0.nii"), "b": _pair(1, images=7)}), ("b",)),
    "too many channels": (_mapping({"a": _pair(0, images=["imagesTr/case_0.nii"] * 2), "b": _pair(1)}), ("a",)),
    "image is missing": (_mapping({"a": _pair(0), "b": _pair(1, images=["none.nii"])}), ("none.nii",)),
    "image outside": (_mapping({"a": _pair(0), "b": _pair(1, images=["/etc/passwd"])}), ("passwd",)),
    "unset variable": (_mapping({"a": _pair(0), "b": _pair(1, images=["$NOT_SET_AT_ALL/a.nii"])}), ("NOT_SET_AT_ALL",)),
    "name with a slash": (_mapping({"../a": _pair(0), "b": _pair(1)}), ("../a",)),
    "label twice": (_mapping({"a": _pair(0), "b": _pair(1, label="labelsTr/case_0.nii")}), ("case_0",)),
    "regions": (_mapping({"a": _pair(0)}, labels={"background": 0, "bright": [1, 2]}), ("bright",)),
    "label value NaN": (_mapping({"a": _pair(0)}, labels={"background": 0, "bright": float("nan")}), ("dataset.json",)),
}


def _mappings() -> Iterator[Case]:
    for number, (name, (content, names)) in enumerate(_MAPPINGS.items()):
        for command in ("check", ("evaluate", "train")[number % 2]):
            make = _datalist(content, "dataset.json")
            build = lambda place, make=make, command=command: _command(place, make(place).parent, command)
            yield Case("layout nnU-Net", f"{name}, {command}", build, EITHER if name == "is empty" else REFUSED, names)


def cases() -> Iterator[Case]:
    """Yield the cases of all layouts."""
    yield from _bids()
    yield from _datalists()
    yield from _studies()
    yield from _mappings()
