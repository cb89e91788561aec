"""Label maps with invalid values, other grids or several channels, and inconsistent datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import nibabel as nib
import numpy as np

from hostile.cases import ACCEPTED, EITHER, REFUSED, Case, Place
from hostile.material import AFFINE, volume

MASK = (volume(1) > 500).astype(np.uint8)
Make = Callable[[], "tuple[np.ndarray, np.ndarray]"]


def _shifted(mm: float, axis: int = 0) -> np.ndarray:
    affine = AFFINE.copy()
    affine[axis, 3] += mm
    return affine


def cases() -> Iterator[Case]:
    half, tiny = MASK.astype(np.float32), MASK.astype(np.float32)
    half[5, 5, 5], tiny[MASK > 0] = 0.5, 0.9999999
    wrong: dict[str, tuple[np.ndarray, np.ndarray, str]] = {
        "a half": (half, AFFINE, REFUSED),
        "interpolated": (MASK * np.float32(0.7), AFFINE, REFUSED),
        "NaN": (np.where(MASK, np.nan, 0).astype(np.float32), AFFINE, REFUSED),
        "one NaN": (_put(MASK.astype(np.float32), np.nan), AFFINE, REFUSED),
        "Inf": (_put(MASK.astype(np.float32), np.inf), AFFINE, REFUSED),
        "negative": (_put(MASK.astype(np.int16), -1), AFFINE, REFUSED),
        "a class too many": (_put(MASK, 2), AFFINE, REFUSED),
        "255": (_put(MASK, 255), AFFINE, REFUSED),
        "all 255": (MASK * 0 + 255, AFFINE, REFUSED),
        "0 and 255": (MASK * 255, AFFINE, REFUSED),
        "a huge integer": (_put(MASK.astype(np.int32), 2**31 - 1), AFFINE, REFUSED),
        "1e30": (_put(MASK.astype(np.float32), 1e30), AFFINE, REFUSED),
        "256 (0 in eight bits)": (_put(MASK.astype(np.int16), 256), AFFINE, REFUSED),
        "257 (1 in eight bits)": (_put(MASK.astype(np.int16), 257), AFFINE, REFUSED),
        "-255 (1 in eight bits)": (_put(MASK.astype(np.int16), -255), AFFINE, REFUSED),
        "two channels": (np.stack([MASK, MASK], -1), AFFINE, REFUSED),
        "one-hot": (np.stack([1 - MASK, MASK], -1), AFFINE, REFUSED),
        "complex": (MASK.astype(np.complex64), AFFINE, REFUSED),
        "another shape": (MASK[:, :, :-1], AFFINE, REFUSED),
        "twice the shape": (MASK.repeat(2, 0), AFFINE, REFUSED),
        "a transposed grid": (MASK.transpose(1, 0, 2), AFFINE, REFUSED),
        "one slice": (MASK[:, :, :1], AFFINE, REFUSED),
        "shifted by a voxel": (MASK, _shifted(1.0), REFUSED),
        "shifted by half a voxel": (MASK, _shifted(0.5), REFUSED),
        "shifted by 100 mm": (MASK, _shifted(100.0, 2), REFUSED),
        "mirrored by the affine": (MASK, AFFINE @ np.diag([-1.0, 1, 1, 1]), REFUSED),
        "another spacing": (MASK, AFFINE @ np.diag([1.0, 1, 2, 1]), REFUSED),
        "an identity affine": (MASK, np.eye(4), REFUSED),
        "0.9999999 for 1": (tiny, AFFINE, ACCEPTED),
        "floats": (MASK.astype(np.float64), AFFINE, ACCEPTED),
        "int64": (MASK.astype(np.int64), AFFINE, ACCEPTED),
        "shifted by a thousandth": (MASK, _shifted(0.001), ACCEPTED),
        "one channel in four dimensions": (MASK[..., None], AFFINE, ACCEPTED),
        "empty": (MASK * 0, AFFINE, ACCEPTED),
        "all foreground": (MASK * 0 + 1, AFFINE, ACCEPTED),
    }
    reasons = {
        "0.9999999 for 1": "within the rounding error of single precision", "shifted by a thousandth": "headers are stored in single precision",
        "empty": "a class may be absent from a case", "all foreground": "a class may fill a crop",
    }  # fmt: skip
    for name, (array, affine, expect) in wrong.items():

        def build(place: Place, command: str, array: np.ndarray = array, affine: np.ndarray = affine) -> list[object]:
            data = place.dataset()
            path = data / "labelsTr" / "case_1.nii"
            image = nib.Nifti1Image(array, affine, dtype=array.dtype)
            image.header.set_xyzt_units("mm", "sec")
            nib.save(image, path)
            return place.check(data) if command == "check" else getattr(place, command)(data)

        for command in ("check", "train", "evaluate"):
            yield Case(
                "label map", f"{command}: {name}", lambda p, b=build, c=command: b(p, c), expect,
                ("case_1",) if expect == REFUSED else (), None, reasons.get(name, "whole numbers of any type are labels"),
            )  # fmt: skip
    yield from _pairs()


def _put(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed[2, 2, 2] = value
    return changed


def _pairs() -> Iterator[Case]:
    """Images and label maps that are missing or do not match by name."""

    def without_json(place: Place) -> object:
        data = place.dataset()
        (data / "dataset.json").unlink()
        return data

    changes: dict[str, tuple[Callable[[Place], object], str, str]] = {
        "no label maps": (lambda p: [path.unlink() for path in (p.folder / "data/labelsTr").iterdir()], REFUSED, "label"),
        "one label map missing": (lambda p: (p.folder / "data/labelsTr/case_1.nii").unlink(), EITHER, ""),
        "one image missing": (lambda p: (p.folder / "data/imagesTr/case_1.nii").unlink(), REFUSED, "case_1"),
        "no images": (lambda p: [path.unlink() for path in (p.folder / "data/imagesTr").iterdir()], REFUSED, "case_0"),
        "a label map of another name": (lambda p: (p.folder / "data/labelsTr/case_1.nii").rename(p.folder / "data/labelsTr/kase_1.nii"), REFUSED, "kase_1"),
        "a dangling label map": (lambda p: _dangle(p.folder / "data/labelsTr/case_1.nii"), REFUSED, "case_1"),
        "a dangling image": (lambda p: _dangle(p.folder / "data/imagesTr/case_1.nii"), REFUSED, "case_1"),
        "a label map that is a folder": (lambda p: _folder(p.folder / "data/labelsTr/case_1.nii"), REFUSED, "case_1"),
        "an image that is a folder": (lambda p: _folder(p.folder / "data/imagesTr/case_1.nii"), REFUSED, "case_1"),
        "labels for images": (lambda p: _swap(p.folder / "data"), REFUSED, "case_"),
        "a label map of two formats": (lambda p: p.copied(p.material.dataset / "labelsTr/case_1.nii", "data/labelsTr/case_1.nii.gz"), REFUSED, "case_1"),
        "labelsTr is a file": (lambda p: _file_for_folder(p.folder / "data/labelsTr"), REFUSED, "label"),
        "imagesTr is a file": (lambda p: _file_for_folder(p.folder / "data/imagesTr"), REFUSED, "imagesTr|data"),
        "imagesTr is a dangling link": (lambda p: _dangle_folder(p.folder / "data/imagesTr"), REFUSED, "imagesTr|data|case_0"),
    }  # fmt: skip
    for name, (change, expect, told) in changes.items():

        def build(place: Place, command: str, change: Callable[[Place], object] = change) -> list[object]:
            data = without_json(place)
            change(place)
            return place.check(data) if command == "check" else getattr(place, command)(data)

        for command in ("check", "train", "evaluate"):
            yield Case(
                "images and labels", f"{command}: {name}", lambda p, b=build, c=command: b(p, c),
                EITHER if (command, name) == ("check", "no label maps") else expect, (told,) if told else (),
            )  # fmt: skip


def _dangle(path) -> None:  # type: ignore[no-untyped-def]
    path.unlink()
    path.symlink_to("nowhere.nii")


def _folder(path) -> None:  # type: ignore[no-untyped-def]
    path.unlink()
    path.mkdir()


def _swap(data) -> None:  # type: ignore[no-untyped-def]
    (data / "imagesTr").rename(data / "t")
    (data / "labelsTr").rename(data / "imagesTr")
    (data / "t").rename(data / "labelsTr")


def _file_for_folder(folder) -> None:  # type: ignore[no-untyped-def]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("a file")


def _dangle_folder(folder) -> None:  # type: ignore[no-untyped-def]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.symlink_to("nowhere")
