"""DICOM folders: slices that are missing, doubled or of several series, no geometry, color, mosaics, cut files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hostile.cases import ACCEPTED, EITHER, PARTIAL, REFUSED, Case, Place
from hostile.material import volume

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
VOXELS = volume(100)
ORIGIN, STEP, SPACING = np.array([-10.0, -20.0, 30.0]), np.array([0.0, 0.0, 2.0]), (1.0, 1.0)
UID = "1.2.826.0.1.3680043.8.498"
Change = Callable[[Any, int], "bool | None"]
"""Changes a slice's data set by its number; False leaves the slice out."""


def series(
    folder: Path, change: Change | None = None, number: int = 1, step: Sequence[float] = STEP, voxels: np.ndarray = VOXELS,
    prefix: str = "IM",
) -> Path:  # fmt: skip
    """Write a CT series with a file per slice, using pydicom only."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True, exist_ok=True)
    for k in range(voxels.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CT, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = f"{UID}.{number}.{k + 1}"
        ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CT, meta.MediaStorageSOPInstanceUID
        ds.PatientName, ds.PatientID, ds.Modality = "Synthetic^Phantom", "0", "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{UID}.8", f"{UID}.9.{number}", f"{UID}.7"
        ds.SeriesNumber, ds.InstanceNumber = number, k + 1
        ds.ImagePositionPatient = [f"{v:.6g}" for v in ORIGIN + k * np.array(step)]
        ds.ImageOrientationPatient, ds.PixelSpacing, ds.SliceThickness = [1, 0, 0, 0, 1, 0], list(SPACING), 2
        ds.Rows, ds.Columns, ds.SamplesPerPixel = voxels.shape[1], voxels.shape[0], 1
        ds.PhotometricInterpretation, ds.BitsAllocated, ds.BitsStored = "MONOCHROME2", 16, 16
        ds.HighBit, ds.PixelRepresentation, ds.RescaleSlope, ds.RescaleIntercept = 15, 1, 1, 0
        ds.PixelData = np.ascontiguousarray(voxels[:, :, k].T).astype("<i2").tobytes()
        if change is not None and change(ds, k) is False:
            continue
        ds.save_as(folder / f"{prefix}{k:04d}.dcm", enforce_file_format=True)
    return folder


def _compressed(syntax: str) -> Change:
    """Mark uncompressed pixels as compressed."""

    def change(ds: Any, k: int) -> None:
        from pydicom.encaps import encapsulate

        ds.PixelData = encapsulate([ds.PixelData])
        ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
        ds.file_meta.TransferSyntaxUID = syntax

    return change


def _set(**values: Any) -> Change:
    def change(ds: Any, k: int) -> None:
        for key, value in values.items():
            if value is None:
                delattr(ds, key)
            else:
                setattr(ds, key, value)

    return change


def _at(slices: Sequence[int], inner: Change) -> Change:
    return lambda ds, k: inner(ds, k) if k in slices else None


def _moved(positions: Callable[[int], Sequence[float]]) -> Change:
    def change(ds: Any, k: int) -> None:
        ds.ImagePositionPatient = [f"{v:.6g}" for v in positions(k)]

    return change


def done(
    affine: np.ndarray | None = None, name: str = "series", voxels: np.ndarray = VOXELS
) -> Callable[[Place], str | None]:
    """Check the label map of the series; its slices may be in either order."""

    def judge(place: Place) -> str | None:
        import nibabel as nib

        path = place.output / f"{name}_seg.nii.gz"
        if not path.is_file():
            return f"{path.name} is not there"
        image = nib.load(path)
        found = np.asarray(image.dataobj)
        true = np.diag([-1.0, -1, 1, 1]) @ _affine() if affine is None else affine
        wanted = np.argwhere(voxels > 500)
        got = np.argwhere(found == 1)
        if len(got) != len(wanted):
            return f"{len(got)} voxels labeled instead of {len(wanted)}"
        ours = nib.affines.apply_affine(image.affine, got)
        theirs = nib.affines.apply_affine(true, wanted)
        apart = np.abs(
            np.array(sorted(map(tuple, ours.round(3)))) - np.array(sorted(map(tuple, theirs.round(3))))
        ).max()
        return f"labeled voxels are displaced by up to {apart:.3g} mm elsewhere" if apart > 0.02 else None

    return judge


def _affine(step: Sequence[float] = STEP) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 0], affine[1, 1] = SPACING
    affine[:3, 2], affine[:3, 3] = step, ORIGIN
    return affine


def cases() -> Iterator[Case]:
    lps = np.diag([-1.0, -1, 1, 1])
    skip = lambda slices: lambda ds, k: k not in slices
    kinds: dict[str, tuple[Change | None, str, str]] = {
        "as it should be": (None, ACCEPTED, ""),
        "one slice missing": (skip([7]), REFUSED, "series"),
        "two slices missing": (skip([4, 9]), REFUSED, "series"),
        "every second slice missing in the upper half": (lambda ds, k: k < 8 or k % 2 == 0, REFUSED, "series"),
        "first and last only": (lambda ds, k: k in (0, 15), EITHER, ""),
        "one position twice": (_moved(lambda k: ORIGIN + (k - (k > 8)) * STEP), REFUSED, "series"),
        "all at one position": (_moved(lambda k: ORIGIN), REFUSED, "series"),
        "two volumes": (_moved(lambda k: ORIGIN + (k % 8) * STEP), EITHER, "two scans"),
        "thick, then thin": (_moved(lambda k: ORIGIN + np.array([0, 0, 4.0 * min(k, 8) + 2.0 * max(0, k - 8)])), REFUSED, "series"),
        "random positions": (_moved(lambda k: ORIGIN + np.array([0, 0, float(np.random.default_rng(k).uniform(0, 99))])), REFUSED, "series"),
        "a slice off the line": (_at([5], _moved(lambda k: ORIGIN + k * STEP + np.array([9.0, 0, 0]))), REFUSED, "series"),
        "no positions": (_set(ImagePositionPatient=None), REFUSED, "series"),
        "no position of one": (_at([3], _set(ImagePositionPatient=None)), REFUSED, "series"),
        "no orientation": (_set(ImageOrientationPatient=None), REFUSED, "series"),
        "no orientation of one": (_at([3], _set(ImageOrientationPatient=None)), REFUSED, "series"),
        "another orientation of one": (_at([3], _set(ImageOrientationPatient=[0, 1, 0, 1, 0, 0])), REFUSED, "series"),
        "an orientation of zeros": (_set(ImageOrientationPatient=[0] * 6), REFUSED, "series"),
        "an orientation with two equal directions": (_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), REFUSED, "series"),
        "no pixel spacing": (_set(PixelSpacing=None), REFUSED, "series"),
        "pixel spacing 0": (_set(PixelSpacing=[0, 0]), REFUSED, "series"),
        "negative pixel spacing": (_set(PixelSpacing=[-1, 1]), REFUSED, "series"),
        "another pixel spacing of one": (_at([3], _set(PixelSpacing=[2, 2])), REFUSED, "series"),
        "no pixel data": (_set(PixelData=None), REFUSED, "series"),
        "no pixel data in one": (_at([3], _set(PixelData=None)), REFUSED, "series"),
        "half the pixel data": (lambda ds, k: setattr(ds, "PixelData", ds.PixelData[:300]), REFUSED, "series"),
        "half the pixel data in one": (_at([3], lambda ds, k: setattr(ds, "PixelData", ds.PixelData[:300])), REFUSED, "series"),
        "other sizes of one": (_at([3], lambda ds, k: (setattr(ds, "Rows", 10), setattr(ds, "PixelData", bytes(400)))[0]), REFUSED, "series"),
        "no rows": (_set(Rows=None), REFUSED, "series"),
        "rows 0": (_set(Rows=0), REFUSED, "series"),
        "bits 13": (_set(BitsAllocated=13), REFUSED, "series"),
        "slope 0": (_set(RescaleSlope=0), REFUSED, "series"),
        "color": (_set(SamplesPerPixel=3, PhotometricInterpretation="RGB", BitsAllocated=8, BitsStored=8, HighBit=7, PixelRepresentation=0, PlanarConfiguration=0, PixelData=bytes(20 * 18 * 3)), REFUSED, "series"),
        "a palette": (_set(PhotometricInterpretation="PALETTE COLOR"), REFUSED, "series"),
        "a mosaic": (_set(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]), REFUSED, "series"),
        "a localizer": (_set(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), REFUSED, "series"),
        "a scout of one slice": (lambda ds, k: (setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), k == 0)[1], REFUSED, "series"),
        "an RT structure's class": (_set(SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3", PixelData=None), REFUSED, "series"),
        "an unknown compression": (lambda ds, k: setattr(ds.file_meta, "TransferSyntaxUID", "1.2.3.4"), REFUSED, "series"),
        "invalid JPEG 2000": (_compressed("1.2.840.10008.1.2.4.90"), REFUSED, "series"),
        "invalid JPEG": (_compressed("1.2.840.10008.1.2.4.70"), REFUSED, "series"),
        "invalid RLE": (_compressed("1.2.840.10008.1.2.5"), REFUSED, "series"),
        "two series in turn": (lambda ds, k: setattr(ds, "SeriesInstanceUID", f"{UID}.9.{k % 2}"), EITHER, ""),
        "a series for each slice": (lambda ds, k: setattr(ds, "SeriesInstanceUID", f"{UID}.9.{k}"), EITHER, ""),
        "no series UID": (_set(SeriesInstanceUID=None), EITHER, ""),
        "no instance numbers": (_set(InstanceNumber=None), ACCEPTED, "positions define the order"),
        "instance numbers backwards": (lambda ds, k: setattr(ds, "InstanceNumber", 16 - k), ACCEPTED, "positions define the order"),
        "one instance number": (_set(InstanceNumber=1), ACCEPTED, "positions define the order"),
        "no thickness": (_set(SliceThickness=None), ACCEPTED, "positions define the spacing"),
        "another thickness": (_set(SliceThickness=9), ACCEPTED, "positions define the spacing"),
        "positions rounded to 0.1 mm": (_moved(lambda k: ORIGIN + np.round(k * STEP * 1.0, 1)), ACCEPTED, "rounding does not create a gap"),
        "no patient": (_set(PatientName=None, PatientID=None), ACCEPTED, "is anonymised"),
    }  # fmt: skip
    for name, (change, expect, told) in kinds.items():
        names = (told,) if expect == REFUSED else ()
        yield Case(
            "DICOM", name, lambda p, c=change: p.predict(series(p.folder / "series", c)), expect, names,
            done() if expect == ACCEPTED else None, told if expect == ACCEPTED else "",
        )  # fmt: skip
    tilted = (0.0, 0.9, 2.0)
    yield Case(
        "DICOM", "gantry tilt", lambda p: p.predict(series(p.folder / "series", step=tilted)), ACCEPTED, (),
        done(lps @ _affine(tilted)), "has a sheared affine",
    )  # fmt: skip

    def file_damage(damage: Callable[[Path], object]) -> Callable[[Place], list[object]]:
        def build(place: Place) -> list[object]:
            damage(series(place.folder / "series"))
            return place.predict(place.folder / "series")

        return build

    def cut(path: Path, end: int) -> None:
        path.write_bytes(path.read_bytes()[:end])

    def strip(folder: Path) -> None:
        for path in folder.iterdir():
            path.write_bytes(path.read_bytes()[132:])

    def renamed(folder: Path) -> None:
        for path in folder.iterdir():
            path.rename(path.with_suffix(""))

    damages: dict[str, tuple[Callable[[Path], object], str]] = {
        **{f"a slice cut at {end}": (lambda f, e=end: cut(f / "IM0007.dcm", e), REFUSED) for end in (0, 100, 131, 132, 140, 300, 600, 900)},
        "all slices cut": (lambda f: [cut(path, 600) for path in f.iterdir()], REFUSED),
        "a slice of text": (lambda f: (f / "IM0007.dcm").write_text("hello"), REFUSED),
        "no preamble": (strip, ACCEPTED),
        "no endings": (renamed, ACCEPTED),
        "notes beside it": (lambda f: (f / "notes.txt").write_text("hello"), ACCEPTED),
        "a DICOMDIR": (lambda f: (f / "DICOMDIR").write_bytes(bytes(128) + b"DICM"), ACCEPTED),
        "hidden files": (lambda f: (f / ".DS_Store").write_bytes(bytes(200)), ACCEPTED),
        "an empty subfolder": (lambda f: (f / "sub").mkdir(), ACCEPTED),
        "a dangling link": (lambda f: (f / "IM9999.dcm").symlink_to("nowhere"), REFUSED),
        "a slice that is a folder": (lambda f: ((f / "IM0007.dcm").unlink(), (f / "IM0007.dcm").mkdir()), REFUSED),
        "a copy of a slice": (lambda f: (f / "copy.dcm").write_bytes((f / "IM0007.dcm").read_bytes()), EITHER),
    }  # fmt: skip
    for name, (damage, expect) in damages.items():
        yield Case(
            "DICOM", name, file_damage(damage), expect, ("series",) if expect == REFUSED else (),
            done() if expect == ACCEPTED else None, "files that are not slices are ignored" if expect == ACCEPTED else "",
        )  # fmt: skip
    yield Case(
        "DICOM", "one slice given by its name",
        lambda p: p.predict(series(p.folder / "series") / "IM0003.dcm"), ACCEPTED, (),
        done(), "any file of a series means the series",
    )  # fmt: skip

    def next_to_valid_series(change: Change) -> Callable[[Place], list[object]]:
        def build(place: Place) -> list[object]:
            series(place.folder / "scans" / "bad", change, 2)
            series(place.folder / "scans" / "series")
            return place.predict(place.folder / "scans")

        return build

    for name in (
        "one slice missing",
        "no pixel data",
        "color",
        "no orientation",
        "a mosaic",
        "half the pixel data in one",
    ):
        change = kinds[name][0]
        assert change is not None
        no_scan = name in ("color", "a mosaic")
        yield Case(
            "DICOM", f"{name}, next to a valid series", next_to_valid_series(change), ACCEPTED if no_scan else PARTIAL, ("bad",),
            done(), "a series that is not a volume is skipped and named" if no_scan else "",
        )  # fmt: skip

    def two(place: Place) -> list[object]:
        series(place.folder / "scans" / "both")
        series(place.folder / "scans" / "both", number=2, voxels=volume(101), prefix="B")
        return place.predict(place.folder / "scans")

    def each(place: Place) -> str | None:
        found = sorted(path.name for path in place.output.glob("*_seg.nii.gz"))
        return None if len(found) == 2 else f"label maps are {found}"

    yield Case("DICOM", "two series in one folder", two, EITHER, (), each, "each series is a separate scan")
