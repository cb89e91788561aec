"""DICOM exports and label files for `segbundle import` and `segbundle convert` that are damaged or contradict themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from exports import write_segments
from hostile.cases import ACCEPTED, EITHER, PARTIAL, REFUSED, Case, Place
from hostile.material import AFFINE, write_nifti
from hostile.scans_dicom import VOXELS, series

Edit = Callable[[Any], None]
LABELS = (VOXELS > 500).astype(np.uint8)


def export(place: Place, edit: Callable[[Path], None], kind: str = "rtstruct") -> Path:
    """Write an export of two patients with a segmentation each, and damage the first."""
    folder = place.folder / "export"
    for number, name in ((1, "p1"), (2, "p2")):
        ct = series(folder / name / "ct", number=number)
        write_segments(ct, "seg", LABELS, ["bright"], kind)
    edit(folder / "p1")
    return folder


def other_case_imported(place: Place) -> str | None:
    """Return the problem of the case of the valid patient, or None."""
    described = json.loads((place.output / "dataset.json").read_text())
    if len(described["training"]) != 1:
        return f"{len(described['training'])} cases instead of 1"
    label = nib.load(place.output / described["training"][0]["label"])
    found, wanted = int((np.asarray(label.dataobj) > 0).sum()), int(LABELS.sum())
    return None if found == wanted else f"{found} voxels instead of {wanted}"


def _edited(edit: Edit, name: str = "seg_rtstruct.dcm") -> Callable[[Path], None]:
    """Return a function that edits the segmentation of a patient."""

    def change(folder: Path) -> None:
        from pydicom import dcmread

        (path,) = folder.rglob(name)
        dataset = dcmread(path)
        edit(dataset)
        dataset.save_as(path)

    return change


def _cut(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (path,) = folder.rglob(name)
        path.write_bytes(path.read_bytes()[:size])

    return change


def _rewritten(change: Any) -> Callable[[Path], None]:
    return lambda folder: (series(folder / "ct", change), None)[1]


def _without_pixels(ds: Any, k: int) -> None:
    if k == 3:
        del ds.PixelData


def _two_patients(ds: Any, k: int) -> None:
    ds.PatientID = "1" if k > 7 else "0"


def _contour(points: Sequence[float], kind: str = "CLOSED_PLANAR") -> Edit:
    def edit(ds: Any) -> None:
        item = ds.ROIContourSequence[0].ContourSequence[0]
        item.ContourData, item.ContourGeometricType = [f"{value:g}" for value in points], kind
        item.NumberOfContourPoints = len(points) // 3

    return edit


def _other_series(ds: Any) -> None:
    frame = ds.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5"


def _other_series_of_seg(ds: Any) -> None:
    ds.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3.4.5"


def _other_frame(ds: Any) -> None:
    for group in ds.PerFrameFunctionalGroupsSequence:
        group.PlanePositionSequence[0].ImagePositionPatient = [500, 500, 500]


def _no_segments(ds: Any) -> None:
    del ds.SegmentSequence


def _no_contours(ds: Any) -> None:
    del ds.ROIContourSequence


def _no_structures(ds: Any) -> None:
    del ds.StructureSetROISequence


def _nan(ds: Any) -> None:
    ds.ROIContourSequence[0].ContourSequence[0].ContourData = ["nan"] * 9


def _twice(ds: Any) -> None:
    from copy import deepcopy

    again = deepcopy(ds.StructureSetROISequence[0])
    again.ROINumber = 9
    ds.StructureSetROISequence.append(again)
    contours = deepcopy(ds.ROIContourSequence[0])
    contours.ReferencedROINumber = 9
    ds.ROIContourSequence.append(contours)


def _control_name(ds: Any) -> None:
    ds.StructureSetROISequence[0].ROIName = "bright\x1b[31m"


def _linked(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "ct" / "up").symlink_to(folder.parent)


def _dangling(folder: Path) -> None:
    (folder / "ct" / "IM9999.dcm").symlink_to("nowhere.dcm")


def _pipe(folder: Path) -> None:
    os.mkfifo(folder / "ct" / "IM9999.dcm")


_DAMAGED_SERIES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated slice": (_cut("IM0003.dcm", 900), ("p1",)),
    "truncated header": (_cut("IM0003.dcm", 200), ("p1",)),
    "empty slice": (_cut("IM0003.dcm", 0), ("p1",)),
    "missing slice": (lambda folder: (folder / "ct" / "IM0003.dcm").unlink(), ("p1",)),
    "missing pixel data": (_rewritten(_without_pixels), ("p1",)),
    "two patients in a series": (_rewritten(_two_patients), ("patient",)),
    "dangling slice": (_dangling, ("IM9999.dcm",)),
    "pipe as slice": (_pipe, ("IM9999.dcm",)),
}
_DAMAGED_RTSTRUCT: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "RTSTRUCT of another series": (_other_series, ("seg_rtstruct.dcm", "series")),
    "contour of four numbers": (_contour([0, 0, 30, 5]), ("seg_rtstruct.dcm",)),
    "contour between slices": (_contour([0, 0, 31, 5, 0, 31, 5, 5, 31]), ("seg_rtstruct.dcm",)),
    "contour outside": (_contour([0, 0, 900, 5, 0, 900, 5, 5, 900]), ("seg_rtstruct.dcm",)),
    "contour across slices": (_contour([0, 0, 30, 5, 0, 40, 5, 5, 50]), ("seg_rtstruct.dcm",)),
    "contour with NaN": (_nan, ("seg_rtstruct.dcm",)),
    "structures missing": (_no_structures, ("seg_rtstruct.dcm",)),
    "structure twice": (_twice, ("bright",)),
    "name with an escape sequence": (_control_name, ("seg_rtstruct.dcm",)),
}
_SKIPPED_CONTOURS: dict[str, Edit] = {
    "open contour": _contour([0, 0, 30, 5, 0, 30, 5, 5, 30], "OPEN_PLANAR"),
    "contour of two points": _contour([0, 0, 30, 5, 0, 30]),
    "contour without points": _contour([]),
}
"""Contours that are skipped with a warning; those in other slices are read."""
_DAMAGED_SEG: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "SEG of another series": (_other_series_of_seg, ("seg_seg.dcm", "series")),
    "SEG elsewhere": (_other_frame, ("seg_seg.dcm",)),
    "SEG without segments": (_no_segments, ("seg_seg.dcm",)),
}


def _import(place: Place, folder: object, *words: object) -> list[object]:
    return ["import", folder, place.output, *words]


def _imports() -> Iterator[Case]:
    def case(name: str, edit: Callable[[Path], None], names: tuple[str, ...], kind: str = "rtstruct") -> Case:
        build = lambda place: _import(place, export(place, edit, kind))
        return Case("import", name, build, PARTIAL, names, other_case_imported)

    for name, (edit, names) in _DAMAGED_SERIES.items():
        yield case(name, edit, names)
    for name, (change, names) in _DAMAGED_RTSTRUCT.items():
        yield case(name, _edited(change), names)
    for name, change in _SKIPPED_CONTOURS.items():
        build = lambda place, change=change: _import(place, export(place, _edited(change)))
        yield Case("import", name, build, ACCEPTED, right=_both_imported, reason="skipped with a warning")
    for name, (change, names) in _DAMAGED_SEG.items():
        yield case(name, _edited(change, "seg_seg.dcm"), names, "dicom_seg")
    yield case("truncated RTSTRUCT", _cut("seg_rtstruct.dcm", 1200), ("seg_rtstruct.dcm",))
    yield case("truncated SEG", _cut("seg_seg.dcm", 1200), ("seg_seg.dcm",), "dicom_seg")
    build = lambda place: _import(place, export(place, _linked))
    yield Case("import", "cycle of links", build, ACCEPTED, right=_both_imported, reason="each folder is read once")
    build = lambda place: _import(place, export(place, _edited(_no_contours)))
    yield Case("import", "structures without contours", build, ACCEPTED, right=other_case_imported, reason="a structure without contours is not annotated")  # fmt: skip
    yield Case("import", "output is the export", lambda place: ["import", export(place, lambda folder: None), place.folder / "export"], REFUSED, ("export",))  # fmt: skip
    yield Case(
        "import", "export is a file", lambda place: _import(place, place.file("a.dcm", b"x")), REFUSED, ("a.dcm",)
    )
    yield Case("import", "no such export", lambda place: _import(place, place.folder / "none"), REFUSED, ("none",))
    yield Case("import", "export without DICOM", lambda place: _import(place, place.copied(place.material.scan.parent, "nifti")), REFUSED, ("nifti",))  # fmt: skip
    yield Case("import", "output is a file", _into_file, REFUSED, ("out",))
    yield Case("import", "output is not writable", _into_proc, REFUSED, ("/proc",))
    yield Case("import", "one class twice", lambda place: _import(place, export(place, lambda folder: None), "--class_names", "[background, bright, bright]"), REFUSED, ("bright",))  # fmt: skip
    yield Case("import", "no segment is a class", lambda place: _import(place, export(place, lambda folder: None), "--class_names", "[background, spleen]"), REFUSED, ("bright|segment|class_names",))  # fmt: skip
    yield Case("import", "no series is selected", lambda place: _import(place, export(place, lambda folder: None), "--series", "PT"), REFUSED, ("series|selected|imported",))  # fmt: skip


def _both_imported(place: Place) -> str | None:
    number = len(json.loads((place.output / "dataset.json").read_text())["training"])
    return None if number == 2 else f"{number} cases instead of 2"


def _into_file(place: Place) -> list[object]:
    place.file("out", "mine")
    return _import(place, export(place, lambda folder: None))


def _into_proc(place: Place) -> list[object]:
    return ["import", export(place, lambda folder: None), "/proc/segbundle_out"]


def _convert(place: Place, source: object, output: str, *words: object) -> list[object]:
    place.output.mkdir(exist_ok=True)
    return ["convert", source, place.output / output, *words]


def _label(
    place: Place, name: str = "label.nii.gz", array: np.ndarray | None = None, affine: np.ndarray = AFFINE
) -> Path:
    return write_nifti(place.folder / name, LABELS if array is None else array, affine)


def _sheared() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 2] = 0.4
    return affine


def _segment_file(edit: Callable[[Path], None], kind: str = "rtstruct") -> Callable[[Place], Path]:
    def make(place: Place) -> Path:
        folder = export(place, edit, kind) / "p1"
        (path,) = folder.rglob("seg_rtstruct.dcm" if kind == "rtstruct" else "seg_seg.dcm")
        return path

    return make


def _conversions() -> Iterator[Case]:
    def case(
        name: str, build: Callable[[Place], list[object]], *names: str, expect: str = REFUSED, right: Any = None
    ) -> Case:
        return Case("convert", name, build, expect, names, right)

    names = ("--class_names", "[background, bright]")
    yield case("no such input", lambda place: _convert(place, "none.nii.gz", "a.nii.gz"), "none.nii.gz")
    yield case("folder without a scan", lambda place: _convert(place, place.file("folder/a.txt", "x").parent, "a.nii.gz"), "folder")  # fmt: skip
    yield case("text as scan", lambda place: _convert(place, place.file("a.nii.gz", "text"), "b.nii.gz"), "a.nii.gz")
    yield case("unknown suffix", lambda place: _convert(place, place.material.scan, "a.png"), "a.png")
    yield case("scan as NRRD", lambda place: _convert(place, place.material.scan, "a.seg.nrrd"), "class|integers|value")
    yield case("scan as RTSTRUCT", lambda place: _convert(place, place.material.scan, "a.dcm", "--output_format", "rtstruct"), "--like")  # fmt: skip
    yield case("output is the input", lambda place: ["convert", path := _label(place), path], "label.nii.gz")
    yield case("output is a link to the input", _to_link, "link.nii.gz|label.nii.gz")
    yield case("output exists", lambda place: (place.file("out/a.nii.gz", "mine"), _convert(place, _label(place), "a.nii.gz"))[1], "a.nii.gz")  # fmt: skip
    yield case("output is a folder", lambda place: (place.file("out/a.nii.gz/mine", ""), _convert(place, _label(place), "a.nii.gz"))[1], "a.nii.gz")  # fmt: skip
    yield case("output is not writable", lambda place: ["convert", _label(place), "/proc/a.nii.gz"], "/proc")
    yield case(
        "name of the output is too long", lambda place: _convert(place, _label(place), "a" * 260 + ".nii.gz"), "aaa"
    )
    yield case("labels with fractions", lambda place: _convert(place, _label(place, array=LABELS * np.float32(0.5)), "a.seg.nrrd", *names), "label.nii.gz", "integers")  # fmt: skip
    yield case("labels with NaN", lambda place: _convert(place, _label(place, array=np.where(LABELS > 0, np.nan, 0).astype(np.float32)), "a.seg.nrrd", *names), "label.nii.gz")  # fmt: skip
    yield case("more labels than classes", lambda place: _convert(place, _label(place, array=LABELS * np.uint8(7)), "a.seg.nrrd", *names), "7")  # fmt: skip
    yield case("negative labels", lambda place: _convert(place, _label(place, array=-LABELS.astype(np.int16)), "a.seg.nrrd", *names), "-1")  # fmt: skip
    yield case("large labels as NIfTI", lambda place: _convert(place, _label(place, array=LABELS.astype(np.int32) * 70000), "a.nii.gz", "--labels"), "70000")  # fmt: skip
    yield case("vectors as label map", lambda place: _convert(place, _label(place, array=np.stack([LABELS] * 3, -1)), "a.seg.nrrd", *names), "label.nii.gz")  # fmt: skip
    yield case("no class names for NRRD", lambda place: _convert(place, _label(place), "a.seg.nrrd"), "class")
    yield case("label map of another grid", lambda place: _convert(place, _label(place), "a.dcm", "--like", series(place.folder / "ct"), *names), "label.nii.gz|ct")  # fmt: skip
    yield case("sheared grid as NRRD", lambda place: _convert(place, _label(place, affine=_sheared()), "a.seg.nrrd", *names), "label.nii.gz", expect=EITHER, right=_sheared_kept)  # fmt: skip
    yield case("sheared grid like a series", lambda place: _convert(place, _label(place, affine=_sheared()), "a.dcm", "--like", series(place.folder / "ct"), *names), "label.nii.gz|ct")  # fmt: skip
    yield case("like is not DICOM", lambda place: _convert(place, _label(place), "a.dcm", "--like", place.material.scan, *names), "good.nii")  # fmt: skip
    yield case(
        "like is missing", lambda place: _convert(place, _label(place), "a.nii.gz", "--like", "none.nii"), "none.nii"
    )
    yield case("two patients in the series", lambda place: _convert(place, series(place.folder / "ct", _two_patients), "a.nii.gz"), "ct", "patient")  # fmt: skip
    yield case("series without pixels", lambda place: _convert(place, series(place.folder / "ct", _without_pixels), "a.nii.gz"), "ct")  # fmt: skip
    for name, (change, texts) in _DAMAGED_RTSTRUCT.items():
        make = _segment_file(_edited(change))
        yield case(f"RTSTRUCT: {name}", lambda place, make=make: _convert(place, make(place), "a.nii.gz"), *texts)
    for name, change in _SKIPPED_CONTOURS.items():
        make = _segment_file(_edited(change))
        yield case(
            f"RTSTRUCT: {name}",
            lambda place, make=make: _convert(place, make(place), "a.nii.gz"),
            expect=ACCEPTED,
            right=_one_slice_less,
        )
    for name, (change, texts) in _DAMAGED_SEG.items():
        make = _segment_file(_edited(change, "seg_seg.dcm"), "dicom_seg")
        expect = EITHER if name == "SEG of another series" else REFUSED  # has a grid of its own
        yield case(
            f"SEG: {name}", lambda place, make=make: _convert(place, make(place), "a.nii.gz"), *texts, expect=expect
        )
    yield case("truncated SEG", lambda place: _convert(place, _segment_file(_cut("seg_seg.dcm", 1200), "dicom_seg")(place), "a.nii.gz"), "seg_seg.dcm")  # fmt: skip


def _to_link(place: Place) -> list[object]:
    source = _label(place)
    (place.folder / "link.nii.gz").symlink_to(source)
    return ["convert", source, place.folder / "link.nii.gz"]


def _one_slice_less(place: Place) -> str | None:
    found = np.asarray(nib.load(place.output / "a.nii.gz").dataobj)
    missing = (found.any((0, 1)) != LABELS.any((0, 1))).sum()
    fewer = int((found > 0).sum()) < int(LABELS.sum())
    return None if missing <= 1 and fewer else f"{missing} slices are missing, {int((found > 0).sum())} voxels"


def _sheared_kept(place: Place) -> str | None:
    path = place.output / "a.seg.nrrd"
    if not path.is_file():
        return "a.seg.nrrd is missing"
    fields = path.read_bytes().partition(b"\n\n")[0].decode()
    directions = next(line for line in fields.splitlines() if line.startswith("space directions"))
    return None if directions.count("(") == 3 and "0.4" in directions else f"the shear is lost: {directions}"


def cases() -> Iterator[Case]:
    """Yield the cases of both commands."""
    yield from _imports()
    yield from _conversions()
