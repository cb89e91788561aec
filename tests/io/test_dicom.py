"""DICOM series: geometry, voxel values, and errors for series that are not volumes."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    SMPTEST211030PCMDigitalAudio,
)
from scipy.ndimage import map_coordinates

from dicoms import AXIAL, CT, MR, add_pixels, header, lps_affine, voxels, write_enhanced, write_series
from segbundle.datasets.series import series_in
from segbundle.errors import DataError
from segbundle.io.dicom_folders import list_folder, list_series
from segbundle.io.dicom_headers import read_image
from segbundle.io.scan_files import files_of
from segbundle.io.scans import read_geometry, read_scan, write_segmentation

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
TILT = math.radians(15)
TURNED = nib.eulerangles.euler2mat(0.2, 0.3, 0.1)
SERIES = {
    "axial": {},
    "oblique": {"iop": (*TURNED[:, 0], *TURNED[:, 1]), "spacing": (0.7, 0.8, 3)},
    "tilted": {"iop": (1, 0, 0, 0, math.cos(TILT), -math.sin(TILT)), "step": (0, 0, 2.5), "spacing": (1, 1, 2.5)},
    "tilted_back": {"iop": (1, 0, 0, 0, math.cos(TILT), math.sin(TILT)), "step": (0, 0, 2.5), "spacing": (1, 1, 2.5)},
    "feet_first": {"iop": (-1, 0, 0, 0, 1, 0), "PatientPosition": "FFS"},
    "decubitus": {"iop": (0, 1, 0, -1, 0, 0), "PatientPosition": "HFDL"},
    "coronal": {"iop": (1, 0, 0, 0, 0, -1), "kind": MR, "modality": "MR"},
    "sagittal": {"iop": (0, 1, 0, 0, 0, -1), "kind": MR, "modality": "MR"},
    "reversed": {"instances": range(8, 0, -1)},
    "rounded": {"spacing": (1, 1, 2 / 3), "positions": [(-10, -20, f"{30 + 2 / 3 * k:.3f}") for k in range(8)]},
    "slopes": {"slopes": [0.5 + 0.013 * k for k in range(8)], "intercept": -3.5},
}
DCM2NIIX = Path(sys.executable).parent / "dcm2niix"


def expected_affine(arguments):
    known = {name: arguments[name] for name in ("spacing", "iop", "step") if name in arguments}
    return LPS_TO_RAS @ lps_affine(**known)


@pytest.mark.parametrize("name", SERIES)
def test_affine_follows_slice_positions(tmp_path, name):
    stored, arguments = voxels(), SERIES[name]
    write_series(tmp_path / "s", stored, **arguments)
    scan = read_scan(tmp_path / "s")
    affine = expected_affine(arguments)
    slopes = np.array(arguments.get("slopes", [1] * 8))
    np.testing.assert_allclose(scan.array[0], stored * slopes + arguments.get("intercept", 0), atol=1e-3)
    np.testing.assert_allclose(scan.geometry.affine, affine, atol=2e-4 if name == "rounded" else 1e-6)
    assert read_geometry(tmp_path / "s").difference(scan.geometry) is None


def converted(folder, out):
    """Convert a folder with dcm2niix and return the volumes."""
    binary = str(DCM2NIIX) if DCM2NIIX.exists() else shutil.which("dcm2niix")
    if binary is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir()
    subprocess.run([binary, "-b", "n", "-z", "n", "-f", "out", "-o", out, folder], check=True, capture_output=True)
    return {path.stem: nib.load(path) for path in out.glob("*.nii")}


@pytest.mark.e2e
@pytest.mark.parametrize("name", sorted(set(SERIES) - {"tilted", "tilted_back"}))
def test_same_voxels_and_corners_as_dcm2niix(tmp_path, name):
    write_series(tmp_path / "s", voxels(), **SERIES[name])
    scan, image = read_scan(tmp_path / "s"), converted(tmp_path / "s", tmp_path / "out")["out"]
    ours, theirs = np.array(scan.geometry.shape), np.asarray(image.dataobj)
    index = np.stack(np.meshgrid(*map(np.arange, ours), indexing="ij"), -1).reshape(-1, 3)
    places = nib.affines.apply_affine(scan.geometry.affine, index)
    found = np.rint(nib.affines.apply_affine(np.linalg.inv(image.affine), places)).astype(int)
    assert np.abs(nib.affines.apply_affine(image.affine, found) - places).max() < 0.01
    np.testing.assert_allclose(theirs[tuple(found.T)], scan.array[0].ravel(), atol=1e-3)


@pytest.mark.e2e
def test_tilted_series_agrees_with_dcm2niix(tmp_path):
    """dcm2niix resamples slices to an orthogonal volume with linear interpolation, and rounds to integers."""
    write_series(tmp_path / "s", voxels((32, 32, 8)), **SERIES["tilted"])
    scan, image = read_scan(tmp_path / "s"), converted(tmp_path / "s", tmp_path / "out")["out_Tilt_1"]
    to_scan = np.linalg.inv(scan.geometry.affine) @ image.affine
    index = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij"), -1)
    at = np.moveaxis(nib.affines.apply_affine(to_scan, index), -1, 0)
    ours = map_coordinates(scan.array[0], at, order=1, cval=np.nan)
    inside = np.isfinite(ours)
    assert inside.mean() > 0.5
    assert np.abs(ours - np.asarray(image.dataobj))[inside].max() < 1


def test_label_map_of_tilted_scan_is_sheared(tmp_path):
    """A qform cannot describe shear; programs that prefer the qform would straighten the volume."""
    write_series(tmp_path / "s", voxels(), **SERIES["tilted"])
    write_segmentation(np.ones((12, 10, 8), np.uint8), tmp_path / "s", tmp_path / "seg.nii.gz")
    written = nib.load(tmp_path / "seg.nii.gz")
    np.testing.assert_allclose(written.affine, expected_affine(SERIES["tilted"]), atol=1e-4)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (0, 1)
    assert read_scan(tmp_path / "seg.nii.gz").geometry.difference(read_geometry(tmp_path / "s")) is None


@pytest.mark.parametrize(("distance", "decimals"), [(0.625, 1), (1.25, 1), (1.25, 0), (2.5, 0), (0.75, 1), (3.3333, 2)])
@pytest.mark.parametrize("count", [16, 50])
def test_rounded_positions_recover_slice_distance(tmp_path, distance, decimals, count):
    positions = [("-10", "-20", f"{30 + distance * k:.{decimals}f}") for k in range(count)]
    write_series(tmp_path / "s", voxels((3, 4, count)), (1, 1, distance), positions=positions)
    affine = read_geometry(tmp_path / "s").affine
    np.testing.assert_allclose(affine[:3, 2], [0, 0, distance], atol=1e-4)
    np.testing.assert_allclose(affine[:3, 3], [10, 20, 30], atol=0.5 * 10**-decimals)


@pytest.mark.parametrize("missing", [[30], [20, 40], [6], [53]])
@pytest.mark.parametrize("tags", [{}, {"SpacingBetweenSlices": 1}, {"SliceThickness": 1.25}])
def test_missing_slice_is_not_rounding(tmp_path, missing, tags):
    """Positions -100, -99, ..., -71, -69, ... differ from evenly spaced positions by at most 0.5 mm."""
    heights = [-100 + k for k in range(60) if k not in missing]
    positions = [(-10, -20, height) for height in heights]
    edit = set_tags(**tags)
    write_series(tmp_path / "s", voxels((3, 4, len(heights))), positions=positions, thickness=1, edit=edit)
    said = "a slice is missing" if len(missing) == 1 else "2 slices are missing"
    with pytest.raises(DataError, match=f"its slices are 1 to 2 mm apart; {said} after IM0{missing[0] - 1:02}.dcm"):
        read_geometry(tmp_path / "s")


def test_two_stacks_are_not_rounding(tmp_path):
    """0, 2, ..., 38, 41, ...: consistent with rounded steps of 2.03 mm, but the slices are 2 mm apart."""
    positions = [(-10, -20, 2 * k + (k >= 20)) for k in range(40)]
    write_series(tmp_path / "s", voxels((3, 4, 40)), positions=positions)
    with pytest.raises(DataError, match="its slices are 2 to 3 mm apart"):
        read_geometry(tmp_path / "s")


def test_rounded_positions_without_header_distance(tmp_path):
    """0, 2.5, 5, ... rounded to 0, 2, 5, 8, 10, 12, ...; slices may be thicker than their distance."""
    positions = [(-10, -20, round(2.5 * k)) for k in range(16)]
    write_series(tmp_path / "s", voxels((3, 4, 16)), positions=positions, thickness=4)
    affine = read_geometry(tmp_path / "s").affine
    assert affine[2, 2] == pytest.approx(2.5, abs=0.02)
    assert affine[2, 3] == pytest.approx(0, abs=0.25)


def test_single_slice_uses_slice_thickness(tmp_path):
    write_series(tmp_path / "s", voxels((5, 4, 1)), thickness=3.5)
    np.testing.assert_allclose(read_geometry(tmp_path / "s").affine[:3, 2], [0, 0, 3.5])
    write_series(tmp_path / "t", voxels((5, 4, 1)), edit=lambda dataset, _: delattr(dataset, "SliceThickness"))
    with pytest.raises(DataError, match="one slice and no SliceThickness"):
        read_geometry(tmp_path / "t")


def at(*heights):
    return [(-10, -20, height) for height in heights]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": at(0, 2, 4, 8, 10, 12)}, "its slices are 2 to 4 mm apart; a slice is missing after IM002.dcm"),
        ({"positions": at(0, 2, 4, 10, 12, 14)}, "2 slices are missing after IM002.dcm"),
        ({"positions": at(0, 1, 3), "thickness": 1}, "a slice is missing after IM001.dcm"),
        (
            {"positions": at(0, 2, 4, 4, 6, 8)},
            r"it contains 1 duplicate slice\(s\): IM002.dcm and IM003.dcm have the same",
        ),
        ({"positions": at(0, 2, 4, 0, 2)}, "it contains 2 volumes: 1 to 2 images at each of 3 positions"),
        ({"positions": at(*[1] * 5)}, "all its 5 images are in one plane"),
        ({"positions": at(0, 5, 10, 15, 17.5, 20, 22.5)}, "2.5 to 5 mm apart, and the distance changes at IM003.dcm"),
        ({"positions": at(0, 2, 4.5, 8, 12)}, "its slices are 2 to 4 mm apart"),
        ({"positions": [(0, 0, 0), (0, 0, 2), (3, 0, 4), (0, 0, 6)]}, "are not evenly spaced on a straight line"),
        ({"positions": at(0, 2, 4), "thickness": [2, 2, 4]}, r"it mixes slices of 2 and 4 mm \(SliceThickness\)"),
        ({"positions": at(0, 2), "iop": (1, 0, 0, 1, 0, 0)}, "not two perpendicular unit vectors"),
        ({"positions": at(0, 2), "spacing": (1, 0, 2)}, "PixelSpacing is 0 mm"),
        ({"positions": at(0, 2), "slopes": (1, 0)}, "IM001.dcm: RescaleSlope is 0"),
    ],
)
def test_invalid_series_raise_with_reason(tmp_path, arguments, message):
    count = len(arguments["positions"])
    series = {"slopes": None, **arguments}
    write_series(tmp_path / "s", voxels((5, 4, count)), **series)
    with pytest.raises(DataError, match=message) as error:
        read_scan(tmp_path / "s")
    assert str(tmp_path / "s") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber", "TriggerTime"])
def test_settings_that_vary_within_one_volume(tmp_path, name):
    """Echo times of 90.0 to 90.7 ms count as equal; values that differ for every slice do not separate volumes."""

    def edit(dataset, index):
        setattr(dataset, name, 90 + 0.1 * index if name == "EchoTime" else 1 + index)

    write_series(tmp_path / "s", voxels(), edit=edit, kind=MR, modality="MR")
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


def raw_text(name, text):
    """Write a decimal string unchanged, even if pydicom would reject it."""

    def edit(dataset, index):
        if index == 1:
            tag = Tag(tag_for_keyword(name))
            value = text.encode() + b" " * (len(text) % 2)
            dataset._dict[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)

    return edit


@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("text", ["-1O24", "-1024,0", "", "nan", "inf", "abc", "1\\2", "1e300"])
def test_damaged_rescale_raises_with_tag(tmp_path, name, text):
    write_series(tmp_path / "s", voxels((5, 4, 3)), intercept=-1024, edit=raw_text(name, text))
    with pytest.raises(DataError, match=rf"s/IM001\.dcm: {name} is ") as error:
        read_scan(tmp_path / "s")
    assert f"{repr(text) if text else 'empty'}, not a usable number" in str(error.value)


def test_header_without_rescale(tmp_path):
    def edit(dataset, index):
        del dataset.RescaleSlope, dataset.RescaleIntercept

    write_series(tmp_path / "s", voxels(), edit=edit)
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


def test_slice_without_rescale_of_other_slices(tmp_path):
    def edit(dataset, index):
        if index == 2:
            del dataset.RescaleIntercept

    write_series(tmp_path / "s", voxels(), intercept=-1024, edit=edit)
    with pytest.raises(DataError, match=r"IM002\.dcm: it has no RescaleIntercept, but other slices"):
        read_scan(tmp_path / "s")
    write_series(tmp_path / "t", voxels(), intercept=0, edit=edit)
    np.testing.assert_array_equal(read_scan(tmp_path / "t").array[0], voxels())


def test_slices_of_different_sizes_raise(tmp_path):
    write_series(tmp_path / "s", voxels((5, 4, 3)))
    write_series(tmp_path / "s", voxels((6, 4, 1)), origin=(-10, -20, 36), prefix="X")
    with pytest.raises(DataError, match="different sizes, 5 x 4 and 6 x 4"):
        read_scan(tmp_path / "s")


def set_tags(**tags):
    def edit(dataset, index):
        for name, value in tags.items():
            setattr(dataset, name, value)

    return edit


def as_color(dataset, index):
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def as_mosaic_by_private_tag(dataset, index):
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0A, "US", 36)


def as_mosaic_in_a_later_block(dataset, index):
    dataset.private_block(0x0019, "OTHER", create=True).add_new(0x0A, "LO", "x")
    as_mosaic_by_private_tag(dataset, index)


def turned(dataset, index):
    dataset.ImageOrientationPatient = [[*AXIAL], [1, 0, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]][index]


def without_place(dataset, index):
    del dataset.ImagePositionPatient
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"


KINDS = {
    "color images (RGB)": as_color,
    "color images (PALETTE COLOR)": set_tags(PhotometricInterpretation="PALETTE COLOR"),
    "a Siemens mosaic (slices side by side": set_tags(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]),
    "a Siemens mosaic (36 slices": as_mosaic_by_private_tag,
    "a Siemens mosaic (36": as_mosaic_in_a_later_block,
    "a localizer": set_tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "3 slices in 3 orientations": turned,
    "Secondary Capture Image Storage without positions": without_place,
    "CT Image Storage of 4 frames without positions": set_tags(NumberOfFrames=4),
    "images of 12 bits per voxel": set_tags(BitsAllocated=12),
}


@pytest.mark.parametrize("why", KINDS)
def test_other_images_are_skipped_with_reason(tmp_path, why):
    write_series(tmp_path / "s", voxels((5, 4, 3)), edit=KINDS[why], SeriesInstanceUID="1.2.9")
    with pytest.raises(DataError) as error:
        read_scan(tmp_path / "s")
    assert f"contains no DICOM series that is a volume: 3 file(s) skipped (3 as {why}" in str(error.value)
    write_series(tmp_path / "s", voxels(), prefix="CT")
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())
    other = next(series for series in list_series(tmp_path / "s") if series.why is not None)
    assert other.why.startswith(why)
    with pytest.raises(DataError, match="is not a volume but"):
        read_scan(other.path)


@pytest.mark.parametrize("word", ["SCOUT", "TOPOGRAM", "SURVEY", "SCANOSCOPE", "CT_SOM5 TOP", "Localizer "])
def test_localizer_by_image_type(tmp_path, word):
    scout = set_tags(ImageType=["ORIGINAL", "PRIMARY", "AXIAL", word])
    write_series(tmp_path / "s", voxels((5, 4, 1)), edit=scout)
    (series,) = list_series(tmp_path / "s")
    assert series.why == "a localizer"


@pytest.mark.parametrize(
    "name",
    [
        "Topogram 0.6 T20s", "Scout", "SCOUT_VIEW", "localizer", "Localiser BH", "3_loc_tra", "LOC", "Surview",
        "Scanogram", "survey SENSE", "3-plane", "Three Plane Loc", "Topo Thorax", "Lokalisator",
    ],
)  # fmt: skip
@pytest.mark.parametrize("tag", ["SeriesDescription", "ProtocolName"])
def test_a_localizer_without_image_type_by_its_name(tmp_path, name, tag):
    write_series(tmp_path / "s", voxels((5, 4, 3)), prefix="A", SeriesInstanceUID="1.2.9", **{tag: name})
    (series,) = list_series(tmp_path / "s")
    assert series.why == "a localizer"
    assert not series.damaged
    write_series(tmp_path / "s", voxels())
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


@pytest.mark.parametrize(
    ("slices", "tags"),
    [
        (6, {"SeriesDescription": "Localizer"}),  # a volume, whatever its name
        (3, {"SeriesDescription": "T2 localized spectroscopy"}),
        (3, {"SeriesDescription": "t1 block"}),
        (3, {"SeriesDescription": "t1 tra", "ProtocolName": "Scout and thorax"}),  # named after the whole protocol
        (3, {}),
    ],
)
def test_series_that_are_no_localizers_by_name(tmp_path, slices, tags):
    write_series(tmp_path / "s", voxels((5, 4, slices)), **tags)
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels((5, 4, slices)))


def test_words_that_only_contain_a_localizers(tmp_path):
    write_series(tmp_path / "s", voxels(), edit=set_tags(ImageType=["ORIGINAL", "PRIMARY", "TOP VIEW", "STOP"]))
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


def test_scout_in_series_is_not_in_volume(tmp_path):
    write_series(tmp_path / "s", voxels())
    scout = set_tags(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "s", voxels((40, 50, 1)), iop=(1, 0, 0, 0, 0, -1), prefix="SCOUT", edit=scout)
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


def write_other(path, modality, **tags):
    header(path, "1.2.840.10008.5.1.4.1.1.88.33", modality, SeriesInstanceUID="1.9", **tags).save_as(path)


def test_index_files_of_any_name_are_no_slices():
    """Copies of a DICOMDIR have its SOP class in the meta information only; those of pydicom are of real media."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    files = sorted(folder.glob("DICOMDIR-*"))
    assert len(files) >= 5
    assert {read_image(path) for path in files} == {"DICOMDIR"}


def test_other_files_are_skipped_and_counted(tmp_path):
    write_series(tmp_path / "s", voxels())
    for modality in ("RTSTRUCT", "SR", "PR"):
        write_other(tmp_path / "s" / modality, modality)
    segmentation = header(tmp_path / "s" / "SEG", modality="SEG")
    add_pixels(segmentation, np.zeros((2, 3), np.uint8))
    segmentation.save_as(tmp_path / "s" / "SEG")
    (tmp_path / "s" / "notes.txt").write_text("by hand")
    (tmp_path / "s" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())
    folder = list_folder(tmp_path / "s")
    assert [series.path for series in folder.volumes] == [tmp_path / "s"]
    assert folder.others() == ("6 file(s) skipped (1 DICOMDIR, 1 PR, 1 RTSTRUCT, 1 SEG, 1 SR, 1 not DICOM)")


def test_several_series_are_identified_by_files(tmp_path):
    first, second = voxels(seed=1), voxels((6, 5, 4), seed=2)
    write_series(tmp_path, first, SeriesInstanceUID="1.1", SeriesDescription="thick")
    write_series(tmp_path, second, SeriesInstanceUID="1.2", prefix="B", SeriesDescription="thin", SeriesNumber=3)
    found = list_series(tmp_path)
    assert [(one.description, one.modality, len(one.files)) for one in found] == [("thin", "CT", 4), ("thick", "CT", 8)]
    assert [one.path.name for one in found] == ["B000.dcm", "IM000.dcm"]
    for path, expected in ((found[0].path, second), (found[1].path, first), (tmp_path / "IM005.dcm", first)):
        np.testing.assert_array_equal(read_scan(path).array[0], expected)
        np.testing.assert_array_equal(read_scan(str(path)).geometry.affine, expected_affine({}))
    assert files_of(found[0].path) == [tmp_path / f"B00{k}.dcm" for k in range(4)]
    with pytest.raises(
        DataError, match=r"2 DICOM volumes \(CT series 3, 4 file\(s\): B000.dcm; CT, 8 file\(s\): IM000.dcm\)"
    ):
        read_scan(tmp_path)


def test_folder_cache_is_invalidated_by_changes(tmp_path):
    paths = write_series(tmp_path / "s", voxels())
    assert read_geometry(tmp_path / "s").shape == (12, 10, 8)
    paths[-1].unlink()
    assert read_geometry(tmp_path / "s").shape == (12, 10, 7)


def test_broken_links_may_be_slices(tmp_path):
    last = write_series(tmp_path / "s", voxels())[-1]
    os.mkfifo(tmp_path / "s" / "pipe")
    (tmp_path / "s" / "folder.dcm").mkdir()
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())
    assert list_folder(tmp_path / "s").others() == "1 file(s) skipped (1 not DICOM)"
    last.unlink()
    last.symlink_to(tmp_path / "nowhere")
    with pytest.raises(
        DataError, match=r"1 of its files cannot be read \(for instance IM007\.dcm, which is a broken link\)"
    ):
        read_scan(tmp_path / "s")


def test_dicom_file_with_img_suffix(tmp_path):
    for path in write_series(tmp_path / "s", voxels()):
        path.rename(path.with_suffix(".img"))
    for path in (tmp_path / "s", tmp_path / "s" / "IM000.img"):
        np.testing.assert_array_equal(read_scan(path).array[0], voxels())


def without_preamble(dataset, index):
    dataset.preamble = None
    dataset.file_meta = type(dataset.file_meta)()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def test_files_without_preamble(tmp_path):
    write_series(tmp_path / "s", voxels(), edit=without_preamble)
    assert (tmp_path / "s" / "IM000.dcm").read_bytes()[:1] in (b"\x02", b"\x08")
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


COMPRESSED = {"RLE": RLELossless, "JPEG 2000": JPEG2000Lossless, "JPEG-LS": JPEGLSLossless, "HTJ2K": JPEG2000Lossless}


@pytest.mark.parametrize("slopes", [None, [0.5 + 0.013 * k for k in range(8)]])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int8, np.uint8, np.int32])
@pytest.mark.parametrize("syntax", ["explicit", "implicit", "deflated", "RLE", "JPEG 2000", "JPEG-LS", "HTJ2K"])
def test_dtypes_and_transfer_syntaxes(tmp_path, dtype, slopes, syntax):
    if dtype == np.int32 and syntax in ("RLE", "JPEG-LS"):
        pytest.skip("nothing here writes it")
    if dtype == np.int32 and syntax in ("JPEG 2000", "HTJ2K"):
        pytest.skip("JPEG 2000 has at most 24 bits")
    shape = (48, 40, 8) if syntax in COMPRESSED else (12, 10, 8)  # encoders refuse smaller images
    stored = voxels(shape).astype(dtype)

    def edit(dataset, index):
        if syntax in COMPRESSED:
            dataset.compress(COMPRESSED[syntax], generate_instance_uid=False)
        if syntax == "HTJ2K":  # plugins of pydicom read it, GDCM does not
            dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        elif syntax in ("implicit", "deflated"):
            chosen = ImplicitVRLittleEndian if syntax == "implicit" else DeflatedExplicitVRLittleEndian
            dataset.file_meta.TransferSyntaxUID = chosen

    write_series(tmp_path / "s", stored, slopes=slopes, intercept=-5, edit=edit)
    scale = np.array([1] * 8 if slopes is None else slopes)
    for kind in (np.float32, None):
        found = read_scan(tmp_path / "s", kind).array
        np.testing.assert_allclose(found[0], stored * scale - 5, atol=1e-3, rtol=1e-7)
        assert kind is not None or found.dtype.kind == ("i" if slopes is None else "f")


def test_unknown_compression_names_the_extra(tmp_path):
    def edit(dataset, index):
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = SMPTEST211030PCMDigitalAudio

    write_series(tmp_path / "s", voxels(), edit=edit)
    with pytest.raises(DataError, match=r"IM000\.dcm: its voxels cannot be decompressed \(SMPTE .*segbundle\[dicom\]"):
        read_scan(tmp_path / "s")


def test_unused_bits_are_masked(tmp_path):
    """Old scanners store overlays in these bits."""
    values = np.random.default_rng(0).integers(-2048, 2048, (5, 4, 3)).astype(np.int16)
    stored = (values & 0x0FFF) | 0x7000
    write_series(tmp_path / "s", stored, edit=set_tags(BitsStored=12, HighBit=11))
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], values)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (16, 11), (12, 12)])
def test_unsupported_high_bit_raises(tmp_path, stored, high):
    write_series(tmp_path / "s", voxels(), edit=set_tags(BitsStored=stored, HighBit=high))
    with pytest.raises(DataError, match=rf"IM000\.dcm: HighBit is {high}, but BitsStored is {stored}"):
        read_scan(tmp_path / "s")


def test_label_values_keep_dtype(tmp_path):
    labels = (voxels() % 3).astype(np.uint8)
    write_series(tmp_path / "s", labels)
    found = read_scan(tmp_path / "s", None).array
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], labels)


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_truncated_file_is_named(tmp_path, suffix):
    """Truncated at any length. The last slice leaves no gap if it is dropped."""
    path = write_series(tmp_path / "s", voxels())[-1]
    content = path.read_bytes()
    path.unlink()
    for kept in range(0, len(content), 29):
        path.with_suffix(suffix).write_bytes(content[:kept])
        if kept > 131 or suffix:
            with pytest.raises(DataError, match="IM007"):
                read_scan(tmp_path / "s")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_truncated_voxels_are_found_by_file_size(tmp_path, syntax):
    paths = write_series(tmp_path / "s", voxels(), syntax=syntax)
    assert read_geometry(tmp_path / "s").shape == (12, 10, 8)
    paths[3].write_bytes(paths[3].read_bytes()[:-31])
    for read in (read_geometry, read_scan):
        with pytest.raises(DataError, match=r"IM003\.dcm: contains 104 of 120 voxels; the file is truncated"):
            read(tmp_path / "s")


def test_hidden_files_are_skipped(tmp_path):
    paths = write_series(tmp_path / "s", voxels())
    for path in paths:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
    (tmp_path / "s" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    shutil.copy(paths[3], tmp_path / "s" / ".IM003.dcm")
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())
    assert list_folder(tmp_path / "s").others() is None
    assert files_of(tmp_path / "s") == paths


def test_empty_file_named_like_slice_is_lost(tmp_path):
    paths = write_series(tmp_path / "s", voxels())
    for name in ("empty", "notes.txt"):
        (tmp_path / "s" / name).touch()
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())
    (tmp_path / "s" / "IM008.dcm").touch()
    with pytest.raises(DataError, match=r"1 of its files cannot be read \(for instance IM008\.dcm, which is empty\)"):
        read_scan(tmp_path / "s")
    (tmp_path / "s" / "IM008.dcm").unlink()
    for path in paths:
        path.rename(path.with_suffix(""))
    with pytest.raises(DataError, match=r"1 of its files cannot be read \(for instance empty, which is empty\)"):
        read_scan(tmp_path / "s")


def _truncate(path):
    path.write_bytes(path.read_bytes()[:500])


def _drop_pixels(path):
    dataset = dcmread(path)
    del dataset.PixelData
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_drop_pixels, "has no pixel data"),
        (_truncate, "has a truncated or damaged header"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(bytes(500)), "has no DICOM header"),
    ],
)
def test_unreadable_file_is_named_with_reason(tmp_path, damage, reason):
    damage(write_series(tmp_path / "s", voxels())[3])
    (case,) = series_in(tmp_path / "s", "s")
    with pytest.raises(DataError) as error:
        read_scan(tmp_path / "s")
    for message in (case.problems[0], str(error.value)):
        assert "cannot be read" in message
        assert f"(for instance IM003.dcm, which {reason})" in message


def test_damaged_compressed_file_is_named(tmp_path):
    def edit(dataset, index):
        dataset.compress(RLELossless, generate_instance_uid=False)

    path = write_series(tmp_path / "s", voxels(), edit=edit)[3]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"IM003\.dcm"):
        read_scan(tmp_path / "s")


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_multi_frame_file(tmp_path, syntax):
    """Frames are stored out of order, each with a different slope."""
    stored, order = voxels(), [3, 1, 2, 0, 7, 6, 5, 4]
    positions = [(-10, -20, 30 + 2 * k) for k in order]
    slopes = [1 + 0.25 * k for k in order]
    path = write_enhanced(tmp_path / "s" / "mf.dcm", stored[:, :, order], positions, slopes, syntax=syntax)
    for meant in (path.parent, path):
        scan = read_scan(meant)
        np.testing.assert_allclose(scan.array[0], stored * (1 + 0.25 * np.arange(8)) - 10)
        np.testing.assert_allclose(scan.geometry.affine, LPS_TO_RAS @ lps_affine((0.8, 0.9, 2)))
    write_enhanced(tmp_path / "s" / "other.dcm", stored, sorted(positions), slopes)
    assert [one.path.name for one in list_series(tmp_path / "s")] == ["mf.dcm", "other.dcm"]


def edit_enhanced(path, edit):
    """Write a multi-frame file of the default voxels, changed by `edit`."""
    write_enhanced(path, voxels(), [(-10, -20, 30 + 2 * k) for k in range(8)], [2] * 8)
    dataset = dcmread(path)
    edit(dataset)
    dataset.save_as(path)
    return path


def test_shared_rescale_of_multi_frame_file(tmp_path):
    def edit(dataset):
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            del frame.PixelValueTransformationSequence
        dataset.RescaleSlope, dataset.RescaleIntercept = 3, -1024

    scan = read_scan(edit_enhanced(tmp_path / "mf.dcm", edit))
    np.testing.assert_array_equal(scan.array[0], voxels() * 3.0 - 1024)


def test_frame_without_rescale_of_other_frames(tmp_path):
    def edit(dataset):
        del dataset.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence

    path = edit_enhanced(tmp_path / "mf.dcm", edit)
    with pytest.raises(DataError, match=r"mf\.dcm: frame 4 has no RescaleIntercept, but other slices"):
        read_scan(path)


def test_empty_folder_and_other_file_raise(tmp_path):
    with pytest.raises(DataError, match="contains no DICOM series"):
        read_scan(tmp_path)
    path = tmp_path / "a.dcm"
    header(path, CT, "SR").save_as(path)
    with pytest.raises(DataError, match=r"a\.dcm: is not a DICOM image"):
        read_scan(path)
