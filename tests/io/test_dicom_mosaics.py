"""Siemens mosaics: slices, positions and voxels, against a hand-made volume, nibabel.nicom and dcm2niix."""

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nicom.dicomwrappers import wrapper_from_data
from pydicom import dcmread

from dicoms import AXIAL, MR, add_pixels, header, lps_affine, voxels
from segbundle.errors import DataError
from segbundle.io.dicom_folders import list_folder
from segbundle.io.scans import read_scan
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps

LPS_TO_RAS = np.diag([-1.0, -1, 1, 1])
OBLIQUE = (0.6, 0.8, 0, -0.8 * 0.96, 0.6 * 0.96, 0.28)
SHAPE, SPACING = (12, 10, 7), (3.0, 2.5, 4.0)
DCM2NIIX = Path(sys.executable).parent / "dcm2niix"


def csa_header(**entries):
    """Return a CSA2 header; each entry is a pair of value representation and values."""
    found = b"SV10\4\3\2\1" + struct.pack("<2I", len(entries), 77)
    for name, (kind, values) in entries.items():
        found += struct.pack("<64si4s3i", name.encode(), len(values), kind.encode(), 6, 6, 77)
        for number in range(6):
            text = str(values[number]).encode() + b"\0" if number < len(values) else b""
            found += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return found + bytes(4)


def write_mosaic(path, volume, iop=AXIAL, flipped=False, csa=None, **tags):
    """Write (X, Y, Z) values as a mosaic whose first slice has the origin of `lps_affine`."""
    columns, rows, count = volume.shape
    tiles = int(np.ceil(np.sqrt(count)))
    affine = lps_affine(SPACING, iop=iop)
    normal = np.cross(iop[:3], iop[3:]) * (-1 if flipped else 1)
    raster = np.zeros((tiles * rows, tiles * columns), np.int16)
    for k in range(count):
        row, column = divmod(k, tiles)
        raster[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns] = volume[:, :, k].T
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = header(path, MR, "MR", ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"], Manufacturer="SIEMENS")
    shift = affine[:3, 0] * (tiles - 1) * columns / 2 + affine[:3, 1] * (tiles - 1) * rows / 2
    dataset.ImagePositionPatient = [f"{value:.10g}" for value in affine[:3, 3] - shift]
    dataset.ImageOrientationPatient = [f"{value:.12g}" for value in iop]
    dataset.PixelSpacing, dataset.SliceThickness = [SPACING[1], SPACING[0]], 3.5
    dataset.SpacingBetweenSlices, dataset.InstanceNumber, dataset.SeriesNumber = SPACING[2], 1, 1
    add_pixels(dataset, raster)
    entries = {
        "NumberOfImagesInMosaic": ("US", [count]),
        "SliceNormalVector": ("FD", [f"{value:.12f}" for value in normal]),
        "AcquisitionMatrixText": ("SH", [f"{rows}*{columns}"]),
    }
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa_header(**entries) if csa is None else csa_header(**csa))
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def expected_affine(iop, flipped):
    affine = lps_affine(SPACING, iop=iop)
    if flipped:  # the last slice is the first along the normal of the image
        affine[:3, 3] -= (SHAPE[2] - 1) * affine[:3, 2]
    return LPS_TO_RAS @ affine


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("iop", [AXIAL, OBLIQUE, (1, 0, 0, 0, 0, -1)], ids=["axial", "oblique", "coronal"])
def test_slices_of_a_mosaic_are_a_volume(tmp_path, iop, flipped):
    path, stored = tmp_path / "ep2d" / "0001.dcm", voxels(SHAPE)
    write_mosaic(path, stored, iop, flipped)
    scan = read_scan(path.parent)
    np.testing.assert_array_equal(scan.array[0], stored[:, :, ::-1] if flipped else stored)
    np.testing.assert_allclose(scan.geometry.affine, expected_affine(iop, flipped), atol=1e-6)


@pytest.mark.parametrize("flipped", [False, True])
def test_same_positions_as_nibabel(tmp_path, flipped):
    path = write_mosaic(tmp_path / "0001.dcm", voxels(SHAPE), OBLIQUE, flipped)
    wrapper = wrapper_from_data(dcmread(path))
    scan = read_scan(path)
    rows_first = wrapper.affine[:, [1, 0, 2, 3]]  # nibabel's arrays are (row, column, slice)
    corners = [(0, 0, 0), (11, 9, 0), (0, 9, 6), (11, 0, 6)]
    for corner in corners:
        own = (*corner[:2], 6 - corner[2] if flipped else corner[2])
        np.testing.assert_allclose(
            nib.affines.apply_affine(scan.geometry.affine, own),
            nib.affines.apply_affine(LPS_TO_RAS @ rows_first, corner), atol=1e-5,
        )  # fmt: skip
        assert scan.array[(0, *own)] == wrapper.get_data()[corner[1], corner[0], corner[2]]


@pytest.mark.e2e
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("iop", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_same_voxels_and_corners_as_dcm2niix(tmp_path, iop, flipped):
    binary = str(DCM2NIIX) if DCM2NIIX.exists() else shutil.which("dcm2niix")
    if binary is None:
        pytest.skip("dcm2niix is not installed")
    path = write_mosaic(tmp_path / "ep2d" / "0001.dcm", voxels(SHAPE), iop, flipped)
    (tmp_path / "out").mkdir()
    arguments = ["-b", "n", "-z", "n", "-f", "out", "-o", tmp_path / "out", path.parent]
    subprocess.run([binary, *arguments], check=True, capture_output=True)
    (file,) = (tmp_path / "out").glob("*.nii")
    theirs, scan = nib.load(file), read_scan(path)
    own = nib.Nifti1Image(scan.array[0], scan.geometry.affine)
    theirs, own = nib.as_closest_canonical(theirs), nib.as_closest_canonical(own)
    np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(own.dataobj))
    np.testing.assert_allclose(theirs.affine, own.affine, atol=1e-3)


def test_time_series_has_a_volume_per_file(tmp_path):
    stored = [voxels(SHAPE, seed) for seed in range(3)]
    for number, volume in enumerate(stored):
        write_mosaic(tmp_path / f"{number}.dcm", volume)
    volumes = list_folder(tmp_path).volumes
    assert [series.path.name for series in volumes] == ["0.dcm", "1.dcm", "2.dcm"]
    for series, volume in zip(volumes, stored, strict=True):
        np.testing.assert_array_equal(read_scan(series.path).array[0], volume)


NORMAL = {"SliceNormalVector": ("FD", ["0.0", "0.0", "1.0"])}
COUNT = {"NumberOfImagesInMosaic": ("US", [7])}
LACKING = {
    r"\(slices side by side in one image\) without NumberOfImagesInMosaic": {"csa": NORMAL},
    r"\(7 slices side by side in one image\) without SliceNormalVector": {"csa": COUNT},
    "that is not the normal of its image": {"csa": {**COUNT, "SliceNormalVector": ("FD", ["1.0", "0.0", "0.0"])}},
    "without SpacingBetweenSlices and SliceThickness": {"SliceThickness": None, "SpacingBetweenSlices": None},
    "cannot be divided into 5 x 5 slices": {"csa": {**NORMAL, "NumberOfImagesInMosaic": ("US", [20])}},
}


@pytest.mark.parametrize("message", LACKING)
def test_mosaic_without_a_needed_value_is_refused(tmp_path, message):
    path = write_mosaic(tmp_path / "0001.dcm", voxels(SHAPE), **LACKING[message])
    with pytest.raises(DataError, match=f"a Siemens mosaic .*{message}.*convert it with dcm2niix"):
        read_scan(path)


def test_damaged_private_header_is_refused_by_name(tmp_path):
    path = write_mosaic(tmp_path / "0001.dcm", voxels(SHAPE))
    dataset = dcmread(path)
    dataset[0x0029, 0x1010].value = dataset[0x0029, 0x1010].value[:90]
    dataset.save_as(path)
    with pytest.raises(DataError, match="without NumberOfImagesInMosaic in its private header"):
        read_scan(path)


def test_label_map_of_a_mosaic(tmp_path):
    path = write_mosaic(tmp_path / "ep2d" / "0001.dcm", voxels(SHAPE))
    labels, table = np.ones(SHAPE, np.uint8), class_table(["background", "brain"])
    written = write_label_maps(labels, path, tmp_path, "ep2d", ["nifti"], table)
    np.testing.assert_allclose(nib.load(written["nifti"]).affine, read_scan(path).geometry.affine, atol=1e-5)
    with pytest.raises(DataError, match="is a Siemens mosaic, and DICOM segmentations cannot refer to its slices"):
        write_label_maps(labels, path, tmp_path, "ep2d", ["dicom_seg"], table)
