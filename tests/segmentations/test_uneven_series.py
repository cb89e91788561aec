"""Label maps of unevenly spaced DICOM series: on the even grid, and on the slices of the series."""

from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

import dicoms
from segbundle.cli.convert import convert
from segbundle.errors import DataError
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps

NAMES = ["background", "liver", "lesion"]
TABLE = class_table(NAMES)
OBLIQUE = (0.6, 0.8, 0, -0.8 * 0.96, 0.6 * 0.96, 0.28)
FORMATS = ["nifti", "nrrd", "dicom_seg", "rtstruct"]
SERIES = {
    "missing slice": ([0, 2, 4, 6, 10, 12, 14], {}, [0, 1, 2, 3, 5, 6, 7], [0, 1, 2, 3, 3, 4, 5, 6]),
    "variable": ([0, 1, 2, 5, 8], {"iop": OBLIQUE}, [0, 1, 2, 5, 8], [0, 1, 2, 2, 3, 3, 3, 4, 4]),
    "between": ([0, 2, 5, 7, 10, 15], {}, [0, 1, 2, 2, 3, 5], [0, 1, 2, 4, 4, 5]),
    "tilted": ([0, 2, 4, 8], {"along": (0, 0.3, 1)}, [0, 1, 2, 4], [0, 1, 2, 2, 3]),
}
"""Positions in mm, arguments, nearest grid slice of each source slice, nearest source slice of each grid slice."""


def write_uneven(folder, heights, iop=dicoms.AXIAL, along=None, reverse=False):
    """Write a series at these positions along the normal, or along another direction."""
    along = np.cross(iop[:3], iop[3:]) if along is None else np.array(along, float)
    positions = [np.array(dicoms.ORIGIN) + height * along for height in heights]
    volume = dicoms.voxels((9, 8, len(heights)))
    numbers = [str(k) for k in range(len(heights))]
    if reverse:
        positions, numbers = positions[::-1], numbers[::-1]
    dicoms.write_series(
        folder, volume, spacing=(0.7, 0.9, 2), positions=positions, iop=iop,
        edit=lambda dataset, k: setattr(dataset, "SOPInstanceUID", f"1.2.3.4.{numbers[k]}"),
    )  # fmt: skip
    return folder


def label_map(count):
    """Return a label map that differs in every slice."""
    labels = np.zeros((9, 8, count), np.uint8, order="F")
    for k in range(count):
        labels[1 + k % 5 : 6 + k % 4, 1:5, k] = 1
        labels[2:4, 5 + k % 3, k] = 2
    return labels


@pytest.fixture(params=[(name, reverse) for name in SERIES for reverse in (False, True)], ids=str)
def written(request, tmp_path):
    name, reverse = request.param
    heights, arguments, to_grid, to_source = SERIES[name]
    source = write_uneven(tmp_path / "ct", heights, reverse=reverse, **arguments)
    labels = label_map(len(to_source))
    paths = write_label_maps(labels, source, tmp_path / "out", "ct", FORMATS, TABLE)
    return source, labels, labels[:, :, to_grid], to_source, paths


def test_nifti_and_nrrd_are_on_the_even_grid(written):
    source, labels, _, _, paths = written
    grid = read_geometry(source, allow_uneven=True)
    for name in ("nifti", "nrrd"):
        found = read_labels(paths[name], NAMES, grid)
        np.testing.assert_array_equal(found.array[0], labels)
        assert grid.difference(found.geometry) is None
    np.testing.assert_allclose(nib.load(paths["nifti"]).affine, grid.affine, atol=1e-4)


def test_frames_lie_on_the_source_slices(written):
    _, _, on_slices, _, paths = written
    segmentation = hd.seg.segread(paths["dicom_seg"])
    uids = [f"1.2.3.4.{k}" for k in range(on_slices.shape[2])]
    found = segmentation.get_pixels_by_source_instance(
        uids, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(found.T, on_slices)


def test_positions_are_those_of_the_referenced_slices(written):
    source, _, on_slices, _, paths = written
    headers = {header.SOPInstanceUID: header for header in map(dcmread, source.iterdir())}
    frames = dcmread(paths["dicom_seg"]).PerFrameFunctionalGroupsSequence
    assert len(frames) == 2 * on_slices.shape[2]
    for frame in frames:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, np.array(headers[reference].ImagePositionPatient, float), atol=1e-6)
    for structure in dcmread(paths["rtstruct"]).ROIContourSequence:
        for contour in structure.ContourSequence:
            header = headers[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            normal = np.cross(*np.array(header.ImageOrientationPatient, float).reshape(2, 3))
            offset = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(header.ImagePositionPatient, float)
            np.testing.assert_allclose(offset @ normal, 0, atol=1e-3)


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_segments_are_read_on_the_even_grid(written, name):
    source, _, on_slices, to_source, paths = written
    expected = on_slices[:, :, to_source]
    grid = read_geometry(source, allow_uneven=True)
    np.testing.assert_array_equal(read_labels(paths[name], NAMES, grid).array[0], expected)
    np.testing.assert_array_equal(read_labels(paths[name], NAMES, allow_uneven=True).array[0], expected)


def test_conversion_between_the_formats(tmp_path):
    heights, _, to_grid, to_source = SERIES["missing slice"]
    source, labels = write_uneven(tmp_path / "ct", heights), label_map(8)
    (nifti,) = write_label_maps(labels, source, tmp_path, "ct", ["nifti"], TABLE).values()
    with pytest.raises(DataError, match="--allow_uneven true"):
        convert(Path(nifti), tmp_path / "ct.dcm", like=source)
    convert(Path(nifti), tmp_path / "ct.dcm", like=source, allow_uneven=True)
    convert(tmp_path / "ct.dcm", tmp_path / "again.nii.gz", allow_uneven=True)
    found = np.asarray(nib.load(tmp_path / "again.nii.gz").dataobj)
    np.testing.assert_array_equal(found, labels[:, :, to_grid][:, :, to_source])
    assert "9 x 8 x 8 voxels" in convert(source, tmp_path / "scan.nii.gz", allow_uneven=True)
