"""DICOM SEG files as other programs read them.

OHIF: the elements that its code needs. dcmqi and pydicom-seg: their results, if the environment variable `SEG_READERS`
is the `bin` folder of an environment of their own, because pydicom-seg needs an older pydicom:

    python -m venv /tmp/readers && /tmp/readers/bin/pip install pydicom-seg "pydicom<3" dcmqi
    SEG_READERS=/tmp/readers/bin pytest tests/segmentations/test_foreign_readers.py
"""

import json
import os
import subprocess
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom import dcmread

import dicoms
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.formats import write_label_maps

NAMES = ["background", "liver", "kidney_left", "lesion"]
SHAPE = (20, 18, 12)
SERIES = {"plain": {}, "oblique": {"iop": (0.8, 0.6, 0, -0.6, 0.8, 0)}, "tilted": {"step": (0, 0.8, 2.4)}}
needs_readers = pytest.mark.skipif("SEG_READERS" not in os.environ, reason="SEG_READERS is not set, see above")
PYDICOM_SEG = """
import sys, numpy as np, pydicom, pydicom_seg, SimpleITK as sitk
found = pydicom_seg.SegmentReader().read(pydicom.dcmread(sys.argv[1]))
for number in found.available_segments:
    sitk.WriteImage(found.segment_image(number), f"{sys.argv[2]}/{number}.nrrd")
    print(number, found.segment_infos[number].SegmentLabel)
"""


def label_map():
    found = np.zeros(SHAPE, np.uint8, order="F")
    found[2:8, 3:10, 2:8] = 1
    found[10:16, 4:15, 4:11] = 2
    found[1, 2, 3] = 3
    return found


def write_seg(folder, name):
    """Write a series of 0.7 x 0.9 x 2.5 mm and its DICOM SEG; return the affine (LPS+) and the path of the SEG."""
    more, spacing = SERIES[name], (0.7, 0.9, 2.5)
    dicoms.write_series(folder / "ct", dicoms.voxels(SHAPE), spacing, FrameOfReferenceUID="1.2.9", **more)
    path = write_label_maps(label_map(), folder / "ct", folder, "ct", ["dicom_seg"], class_table(NAMES))["dicom_seg"]
    return dicoms.lps_affine(spacing, **more), Path(path)


@pytest.mark.parametrize("name", SERIES)
def test_elements_that_ohif_needs(tmp_path, name):
    """Elements and values that `generateToolState` of cornerstone3D and the SEG handler of OHIF use or refuse.

    See packages/adapters/src/adapters/Cornerstone/Segmentation_4X.js of cornerstonejs/cornerstone3D (011631a), and
    extensions/cornerstone-dicom-seg/src/getSopClassHandlerModule.ts of OHIF/Viewers (013cfb8).
    """
    _, path = write_seg(tmp_path, name)
    seg = dcmread(path)
    source = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, sorted((tmp_path / "ct").iterdir()))}
    first = next(iter(source.values()))
    assert seg.SOPClassUID == "1.2.840.10008.5.1.4.1.1.66.4" and seg.Modality == "SEG"
    assert seg.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"  # RLE of single bits is not implemented
    assert (seg.SegmentationType, seg.BitsAllocated, seg.BitsStored, seg.SamplesPerPixel) == ("BINARY", 1, 1, 1)
    assert (seg.Rows, seg.Columns) == (first.Rows, first.Columns)
    for element in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert seg[element].value == first[element].value
    assert [item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence] == [first.SeriesInstanceUID]
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    np.testing.assert_allclose(orientation, first.ImageOrientationPatient, atol=1e-3)
    np.testing.assert_allclose(shared.PixelMeasuresSequence[0].PixelSpacing, first.PixelSpacing)
    assert [segment.SegmentNumber for segment in seg.SegmentSequence] == [1, 2, 3]
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == NAMES[1:]
    assert all(len(segment.RecommendedDisplayCIELabValue) == 3 for segment in seg.SegmentSequence)
    frames = seg.PerFrameFunctionalGroupsSequence
    assert len(frames) == seg.NumberOfFrames == 6 + 7 + 1  # slices with each class
    masks = {}
    for frame, mask in zip(frames, seg.pixel_array, strict=True):
        (reference,) = frame.DerivationImageSequence[0].SourceImageSequence
        image = source[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == image.SOPClassUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, image.ImagePositionPatient, atol=1e-3)
        k, number = image.InstanceNumber - 1, frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(mask.T, label_map()[:, :, k] == number)
        masks.setdefault(k, []).append(mask > 0)
    assert not any((one & other).any() for found in masks.values() for one, other in combinations(found, 2))


def places(mask, affine):
    """Return the sorted LPS+ world coordinates of the voxels of a mask, rounded to 0.001 mm."""
    return sorted(map(tuple, np.round(np.argwhere(mask) @ affine[:3, :3].T + affine[:3, 3], 3) + 0.0))


def check_images(folder, affine, file):
    for number in (1, 2, 3):
        image = sitk.ReadImage(str(folder / file.format(number)))
        found = np.eye(4)
        found[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) @ np.diag(image.GetSpacing())
        found[:3, 3] = image.GetOrigin()
        mine, theirs = places(label_map() == number, affine), places(sitk.GetArrayFromImage(image).T > 0, found)
        np.testing.assert_allclose(theirs, mine, atol=2e-3)


@needs_readers
@pytest.mark.parametrize("name", ["plain", "oblique"])  # both programs ignore the shear of a tilted gantry
def test_dcmqi_reads_values_names_and_places(tmp_path, name):
    affine, path = write_seg(tmp_path, name)
    (tmp_path / "out").mkdir()
    words = ["--inputDICOM", path, "--outputDirectory", tmp_path / "out", "--outputType", "nrrd", "--prefix", "s"]
    program = Path(os.environ["SEG_READERS"]) / "segimage2itkimage"
    done = subprocess.run([program, *words], capture_output=True, text=True, check=True)
    assert "absent" not in done.stdout + done.stderr
    (meta,) = (tmp_path / "out").glob("*.json")
    segments = [segment for group in json.loads(meta.read_text())["segmentAttributes"] for segment in group]
    assert {segment["labelID"]: segment["SegmentLabel"] for segment in segments} == dict(enumerate(NAMES[1:], 1))
    check_images(tmp_path / "out", affine, "s-{}.nrrd")


@needs_readers
@pytest.mark.parametrize("name", ["plain", "oblique"])
def test_pydicom_seg_reads_values_names_and_places(tmp_path, name):
    affine, path = write_seg(tmp_path, name)
    program, variables = Path(os.environ["SEG_READERS"]) / "python", {**os.environ, "PYTHONPATH": ""}
    words = [program, "-c", PYDICOM_SEG, path, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.split() == ["1", "liver", "2", "kidney_left", "3", "lesion"]
    check_images(tmp_path, affine, "{}.nrrd")
