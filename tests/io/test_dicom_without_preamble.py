"""DICOM files without the first 132 bytes, or without meta information: read like any others."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import RLELossless

import dicoms
from segbundle.io.dicom_references import referenced_images
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_scan
from segbundle.io.segment_files import add_segments, read_segment_file
from segbundle.io.segments import LabelGrid
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.file_classes import classes_in_file
from segbundle.segmentations.formats import write_label_maps

NAMES = ["background", "liver", "lesion"]
SHAPE = (9, 8, 5)


def strip_preamble(path):
    path.write_bytes(path.read_bytes()[132:])


def strip_meta(path):
    dataset = dcmread(path)
    implicit, little = dataset.original_encoding
    dataset.file_meta, dataset.preamble = FileMetaDataset(), None
    dataset.save_as(path, implicit_vr=implicit, little_endian=little)


@pytest.mark.parametrize("strip", [strip_preamble, strip_meta])
@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_segments(tmp_path, name, strip):
    labels = np.zeros(SHAPE, np.uint8, order="F")
    labels[1:6, 2:7, 1:4], labels[7, 1:3, 2] = 1, 2
    for path in dicoms.write_series(tmp_path / "ct", dicoms.voxels(SHAPE)):
        strip(path)
    table = class_table(NAMES)
    written = write_label_maps(labels, tmp_path / "ct", tmp_path / "out", "x", [name], table)[name]
    path = tmp_path / "out" / "bare.dcm"
    path.write_bytes(Path(written).read_bytes())
    strip(path)
    found = read_labels(path, NAMES)
    np.testing.assert_array_equal(found.array[0], labels)
    assert [entry.name for entry in classes_in_file(path)] == NAMES[1:]
    assert referenced_images(path) == referenced_images(written) != {}
    grid = LabelGrid(path, found.geometry)
    add_segments(grid, read_segment_file(path), {1: 1, 2: 2})
    np.testing.assert_array_equal(grid.labels, labels)


def test_compressed_voxels(tmp_path):
    def edit(dataset, index):
        dataset.compress(RLELossless, generate_instance_uid=False)

    for path in dicoms.write_series(tmp_path / "ct", dicoms.voxels(SHAPE), edit=edit):
        strip_preamble(path)
    np.testing.assert_array_equal(read_scan(tmp_path / "ct").array[0], dicoms.voxels(SHAPE))
