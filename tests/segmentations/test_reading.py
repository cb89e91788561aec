"""Label maps in every format, written and read again: the same voxels."""

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

import dicoms
from segbundle.errors import DataError
from segbundle.io.dicom_references import referenced_images
from segbundle.io.label_maps import read_labels
from segbundle.io.scans import read_geometry, read_scan
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.file_classes import classes_in_file
from segbundle.segmentations.formats import write_label_maps
from segbundle.transforms.before_network import LoadScand

NAMES = ["background", "liver", "kidney_left", "lesion", "absent"]
TABLE = class_table(NAMES, {"liver": "#ff0080"})
SHAPE = (13, 11, 7)
OBLIQUE = (*np.array([0.6, 0.8, 0]), *np.array([-0.8 * 0.96, 0.6 * 0.96, 0.28]))
FORMATS = ["nifti", "nrrd", "dicom_seg", "rtstruct"]


def phantom():
    """Return a label map with a hole, an island in it, touching classes and single voxels."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:10, 1:10, 1:6] = 1
    labels[3:8, 3:8, 2:5] = 0  # a hole
    labels[5, 5, 3] = 1  # an island in the hole
    labels[10:12, 1:10, 1:4] = 2
    labels[0, 0, 0] = labels[12, 10, 6] = labels[3, 3, 2] = 3
    return np.asfortranarray(labels)


def write_source(folder, kind):
    """Write a DICOM series of one of four kinds."""
    volume = dicoms.voxels(SHAPE)
    if kind == "axial":
        dicoms.write_series(folder, volume, spacing=(0.7, 0.9, 2.5))
    elif kind == "oblique":
        dicoms.write_series(folder, volume, spacing=(0.7, 0.9, 2.5), iop=OBLIQUE)
    elif kind == "tilted":
        dicoms.write_series(folder, volume, spacing=(0.7, 0.9, 2.5), step=(0, 0.8, 2.4))
    else:
        positions = [(5.0, 6.0, 2.0 * k) for k in range(SHAPE[2])]
        dicoms.write_enhanced(folder / "ct.dcm", volume, positions, [1.0] * SHAPE[2])
    return folder


@pytest.fixture(params=["axial", "oblique", "tilted", "enhanced"])
def written(request, tmp_path):
    source = write_source(tmp_path / "ct", request.param)
    return source, write_label_maps(phantom(), source, tmp_path / "out", "ct", FORMATS, TABLE)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_label_map(written, name):
    source, paths = written
    found = read_labels(paths[name], NAMES, read_geometry(source))
    np.testing.assert_array_equal(found.array[0], phantom())
    assert found.geometry.difference(read_geometry(source)) is None


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_series_is_found_beside_the_file(written, name):
    _, paths = written
    np.testing.assert_array_equal(read_labels(paths[name]).array[0], phantom())


@pytest.mark.parametrize("given", ["{name}", "./{name}", "../rs/{name}", "sub/../{name}", "sub/inner/../../{name}"])
def test_series_is_found_for_relative_paths(tmp_path, monkeypatch, given):
    path = Path(written_structures(tmp_path))
    (path.parent / "sub" / "inner").mkdir(parents=True)
    monkeypatch.chdir(path.parent)
    assert read_labels(given.format(name=path.name), NAMES).array.any()
    monkeypatch.chdir(path.parent / "sub")
    assert read_labels(f"../{path.name}", NAMES).array.any()


def test_highdicom_reads_the_voxels_of_each_source_slice(written):
    source, paths = written
    segmentation = hd.seg.segread(paths["dicom_seg"])
    files = sorted(source.iterdir())
    if len(files) > 1:
        uids = [dcmread(file).SOPInstanceUID for file in files]
        order = np.argsort([dcmread(file).ImagePositionPatient[2] for file in files])
        read = segmentation.get_pixels_by_source_instance(
            [uids[index] for index in order], combine_segments=True, ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )  # fmt: skip
    else:
        read = segmentation.get_pixels_by_source_frame(
            dcmread(files[0]).SOPInstanceUID, range(1, SHAPE[2] + 1), combine_segments=True,
            ignore_spatial_locations=True, assert_missing_frames_are_empty=True,
        )  # fmt: skip
    found = read_scan(paths["nifti"], None).array[0]
    expected = found if read.T[0, 0, 0] == found[0, 0, 0] else found[:, :, ::-1]
    np.testing.assert_array_equal(read.T, expected)


@pytest.mark.parametrize("name", FORMATS[2:])
def test_series_in_several_multi_frame_files(tmp_path, name):
    """Files of a concatenation, in another order than their slices."""
    for part, frames in enumerate([range(4, 7), range(4)]):
        path = tmp_path / "ct" / f"{part}.dcm"
        volume = dicoms.voxels((*SHAPE[:2], len(frames)), part)
        dicoms.write_enhanced(path, volume, [(5.0, 6.0, 2.0 * k) for k in frames], [1.0] * len(frames))
        dataset = dcmread(path)
        dataset.ConcatenationUID, dataset.ConcatenationFrameOffsetNumber = "1.2.9", 3 * part
        dataset.SOPInstanceUID = f"1.2.9.{part}"
        dataset.save_as(path)
    path = write_label_maps(phantom(), tmp_path / "ct", tmp_path / "out", "ct", [name], TABLE)[name]
    np.testing.assert_array_equal(read_labels(path, NAMES).array[0], phantom())
    assert set(referenced_images(Path(path))) == {"1.2.9.0", "1.2.9.1"}
    if name == "dicom_seg":
        segmentation = hd.seg.segread(path)
        assert {uid for _, _, uid in segmentation.get_source_image_uids()} == {"1.2.9.0", "1.2.9.1"}
        found = segmentation.get_pixels_by_source_frame(
            "1.2.9.1", [1, 2, 3, 4], combine_segments=True, ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )  # fmt: skip
        np.testing.assert_array_equal(found.T, phantom()[..., :4])


def test_contours_have_the_volume_of_the_voxels(tmp_path):
    source = write_source(tmp_path / "ct", "axial")
    paths = write_label_maps(phantom(), source, tmp_path, "ct", ["rtstruct"], TABLE)
    dataset = dcmread(paths["rtstruct"])
    area = 0.0
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        x, y, _ = np.array(contour.ContourData, float).reshape(-1, 3).T
        area += 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx((phantom() == 1).sum() * 0.7 * 0.9)


@pytest.mark.parametrize("kind", ["OPEN_PLANAR", "CLOSED_PLANAR", "POINT"])
def test_contours_without_an_area_are_skipped_and_named(tmp_path, caplog, kind):
    write_source(source := tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path, "ct", ["rtstruct"], TABLE)["rtstruct"]
    dataset = dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData, contour.ContourGeometricType = contour.ContourData[: 3 if kind == "POINT" else 6], kind
    dataset.save_as(path)
    label = read_labels(path, NAMES, read_geometry(source)).array[0]
    assert 0 < (label == 1).sum() < (phantom() == 1).sum()
    message = "ct_rtstruct.dcm: 1 contours of liver are open or have less than three points, and are skipped"
    assert (message in caplog.text) == (kind != "POINT")


def test_contours_on_every_second_slice_are_reported(tmp_path, caplog):
    path = written_structures(tmp_path)
    dataset = dcmread(path)
    structure = dataset.ROIContourSequence[0]
    used = {}
    for contour in structure.ContourSequence:
        used.setdefault(contour.ContourImageSequence[0].ReferencedSOPInstanceUID, []).append(contour)
    read_labels(path, NAMES)
    assert "apart" not in caplog.text
    structure.ContourSequence = [contour for same in list(used.values())[::2] for contour in same]
    dataset.save_as(path)
    read_labels(path, NAMES)
    assert f"{path}: the contours of liver are 4 mm apart, but the slices 2 mm" in caplog.text


def test_damaged_contour_is_named(tmp_path):
    path = written_structures(tmp_path)
    dataset = dcmread(path)
    contour = dataset.ROIContourSequence[0].ContourSequence[1]
    contour.ContourData = contour.ContourData[:-1]
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"x_rtstruct\.dcm: contour 2 of liver is damaged: its coordinates"):
        read_labels(path, NAMES)


def written_structures(folder):
    """Return an RTSTRUCT of a box in 8 of 12 slices, beside its series."""
    dicoms.write_series(folder / "ct", dicoms.voxels((10, 9, 12)))
    found = np.zeros((10, 9, 12), np.uint8, order="F")
    found[2:6, 2:6, 2:10] = 1
    return write_label_maps(found, folder / "ct", folder / "rs", "x", ["rtstruct"], class_table(NAMES[:2]))["rtstruct"]


def test_structure_of_smooth_contours_matches(tmp_path):
    """Contours of another program, through the centers of the outermost pixels, as OpenCV draws them."""
    source = write_source(tmp_path / "ct", "axial")
    paths = write_label_maps(phantom(), source, tmp_path, "ct", ["rtstruct"], TABLE)
    dataset = dcmread(paths["rtstruct"])
    x, y = -10 + 0.7 * np.array([2, 8, 8, 2]), -20 + 0.9 * np.array([2, 2, 9, 9])
    z = dcmread(sorted(source.iterdir())[3]).ImagePositionPatient[2]
    contour = dataset.ROIContourSequence[0].ContourSequence[0]
    contour.ContourData = np.stack([x, y, np.full(4, float(z))], axis=1).round(4).ravel().tolist()
    inner = dcmread(paths["rtstruct"]).ROIContourSequence[0].ContourSequence[0]
    x, y = -10 + 0.7 * np.array([3.5, 5.5, 5.5, 3.5]), -20 + 0.9 * np.array([3.5, 3.5, 5.5, 5.5])
    inner.ContourData = np.stack([x, y, np.full(4, float(z))], axis=1).round(4).ravel().tolist()
    dataset.ROIContourSequence[0].ContourSequence = [contour, inner]
    for item in dataset.ROIContourSequence[1:]:
        item.pop("ContourSequence", None)
    dataset.save_as(tmp_path / "rs.dcm")
    found = read_labels(tmp_path / "rs.dcm", NAMES, read_geometry(source)).array[0]
    assert np.unique(np.argwhere(found)[:, 2]).size == 1
    plane = found.any(axis=2)
    assert plane[2, 2] and not plane[8].any() and not plane[4:6, 4:6].any() and plane.sum() == 6 * 7 - 2 * 2


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
@pytest.mark.parametrize("charset", ["ISO_IR 100", "ISO_IR 192"])
@pytest.mark.filterwarnings("ignore:The value length")  # pydicom counts bytes instead of characters
def test_text_in_any_language(tmp_path, name, charset):
    def edit(dataset, index):
        dataset.SpecificCharacterSet, dataset.PatientName = charset, "Müller^Zoë"

    names = ["Läsion", "печень", "Läsion mit einem längeren Namen"]
    dicoms.write_series(tmp_path / "ct", dicoms.voxels(SHAPE), edit=edit)
    table = class_table(["background", *names])
    path = write_label_maps(phantom(), tmp_path / "ct", tmp_path / "out", "ct", [name], table)[name]
    dataset = dcmread(path)
    assert dataset.SpecificCharacterSet == "ISO_IR 192" and dataset.PatientName == "Müller^Zoë"
    if name == "rtstruct":
        assert [item.ROIName for item in dataset.StructureSetROISequence] == names
        codes = [item.RTROIIdentificationCodeSequence[0] for item in dataset.RTROIObservationsSequence]
    else:
        codes = [item.SegmentedPropertyTypeCodeSequence[0] for item in dataset.SegmentSequence]
    assert [code.CodeMeaning for code in codes] == names
    assert [entry.name for entry in classes_in_file(path)] == names


def test_segments_are_matched_by_name(tmp_path):
    source = write_source(tmp_path / "ct", "axial")
    paths = write_label_maps(phantom(), source, tmp_path, "ct", FORMATS, TABLE)
    other = ["background", "absent", "Lesion", "Kidney Left", "liver"]
    expected = np.array([0, 4, 3, 2])[phantom()]
    for name in FORMATS[1:]:
        np.testing.assert_array_equal(read_labels(paths[name], other, read_geometry(source)).array[0], expected)


@pytest.mark.parametrize("name", FORMATS[1:])
def test_unknown_segment_is_an_error_that_lists_both(tmp_path, name):
    source = write_source(tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path, "ct", [name], TABLE)[name]
    with pytest.raises(
        DataError, match=r"segments liver, kidney_left.*'lesion' is not a class.*\(background, liver, k"
    ):
        read_labels(path, ["background", "liver", "kidney_left", "absent"], read_geometry(source))


@pytest.mark.parametrize("name", FORMATS)
def test_label_map_of_a_case_is_loaded_in_every_format(tmp_path, name):
    source = write_source(tmp_path / "ct", "tilted")
    path = write_label_maps(phantom(), source, tmp_path, "ct", [name], TABLE)[name]
    loaded = LoadScand(NAMES, label=True)({"image": str(source), "label": path})
    np.testing.assert_array_equal(loaded["label"].numpy()[0], phantom())


def test_contours_need_their_series(tmp_path):
    source = write_source(tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path / "a" / "b" / "c", "ct", ["rtstruct"], TABLE)["rtstruct"]
    with pytest.raises(DataError, match="needs the image series to which it refers"):
        read_labels(path, NAMES)


def test_segmentation_without_its_series_has_the_grid_of_its_frames(tmp_path):
    source = write_source(tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path / "a" / "b" / "c", "ct", ["dicom_seg"], TABLE)["dicom_seg"]
    found = read_labels(path, NAMES)
    shown = found.array[0] if np.allclose(found.geometry.affine, read_geometry(source).affine) else None
    np.testing.assert_array_equal(shown, phantom())


@pytest.mark.parametrize("name", ["dicom_seg", "rtstruct"])
def test_other_scan_is_refused(tmp_path, name):
    source = write_source(tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path, "ct", [name], TABLE)[name]
    dicoms.write_series(tmp_path / "other", dicoms.voxels(SHAPE), spacing=(0.7, 0.9, 1.7))
    with pytest.raises(DataError, match=r"not those of the scan|do not lie in the slices|outside the scan"):
        read_labels(path, NAMES, read_geometry(tmp_path / "other"))


@pytest.mark.parametrize(
    ("name", "pixel", "iop"),
    [("dicom_seg", 0.5, dicoms.AXIAL), ("dicom_seg", 0.3, OBLIQUE), ("rtstruct", 0.5, dicoms.AXIAL)],
)
def test_slices_beside_the_line_of_their_series(tmp_path, name, pixel, iop):
    """A slice may be up to 5 % of the slice distance beside the line through all slices, which is most of a pixel."""
    normal = np.cross(iop[:3], iop[3:])
    for number, sign in enumerate((1, -1)):
        positions = [np.array(dicoms.ORIGIN) + 5 * k * normal for k in range(SHAPE[2])]
        positions[3] = positions[3] + sign * 0.2 * np.array(iop[:3])
        source = tmp_path / f"ct{number}"
        dicoms.write_series(source, dicoms.voxels(SHAPE), spacing=(pixel, pixel, 5), positions=positions, iop=iop)
        path = write_label_maps(phantom(), source, tmp_path / f"out{number}", "ct", [name], TABLE)[name]
        np.testing.assert_array_equal(read_labels(path, NAMES, read_geometry(source)).array[0], phantom())


@pytest.mark.parametrize(("step", "decimals"), [(2.5, 0), (0.4, 1)])
def test_series_with_rounded_positions(tmp_path, step, decimals):
    def edit(dataset, index):
        dataset.SpacingBetweenSlices = step

    positions = [(0, 0, round(step * k, decimals)) for k in range(SHAPE[2])]
    dicoms.write_series(tmp_path / "ct", dicoms.voxels(SHAPE), (0.5, 0.5, step), positions=positions, edit=edit)
    for path in write_label_maps(phantom(), tmp_path / "ct", tmp_path, "ct", FORMATS[2:], TABLE).values():
        np.testing.assert_array_equal(read_labels(path, NAMES).array[0], phantom())


def test_label_map_on_the_flipped_grid_of_a_nifti_scan(tmp_path):
    """dcm2niix flips the rows of a series; segments are placed on the voxels of the NIfTI file."""
    import nibabel as nib

    source = write_source(tmp_path / "ct", "oblique")
    paths = write_label_maps(phantom(), source, tmp_path, "ct", FORMATS, TABLE)
    geometry = read_geometry(source)
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    flip[1:3, 3] = SHAPE[1] - 1, SHAPE[2] - 1
    flipped = phantom()[:, ::-1, ::-1].transpose(2, 0, 1)
    turned = nib.Nifti1Image(flipped, (geometry.affine @ flip)[:, [2, 0, 1, 3]])
    nib.save(turned, tmp_path / "turned.nii")
    for name in FORMATS[1:]:
        found = read_labels(paths[name], NAMES, read_geometry(tmp_path / "turned.nii"))
        np.testing.assert_array_equal(found.array[0], np.asarray(turned.dataobj))


def test_cropped_segmentation_of_slicer_is_placed_on_the_scan(tmp_path):
    import nibabel as nib

    source = write_source(tmp_path / "ct", "axial")
    geometry = read_geometry(source)
    cropped = nib.Nifti1Image(phantom(), geometry.affine).slicer[1:, 2:, 1:6]
    nib.save(cropped, tmp_path / "cropped.nii")
    path = write_label_maps(
        np.asarray(cropped.dataobj), tmp_path / "cropped.nii", tmp_path, "ct", ["nrrd"], TABLE
    )["nrrd"]  # fmt: skip
    expected = np.zeros_like(phantom())
    expected[1:, 2:, 1:6] = phantom()[1:, 2:, 1:6]
    np.testing.assert_array_equal(read_labels(path, NAMES, geometry).array[0], expected)


def test_overlapping_segments_are_reported(tmp_path, caplog):
    source = write_source(tmp_path / "ct", "axial")
    path = write_label_maps(phantom(), source, tmp_path, "ct", ["dicom_seg"], TABLE)["dicom_seg"]
    dataset = dcmread(path)
    both = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    both[: 13 * 11] |= 1  # the first slice of the liver, which the kidney shares
    dataset.PixelData = np.packbits(both, bitorder="little").tobytes()
    dataset.save_as(path)
    found = read_labels(path, NAMES, read_geometry(source)).array[0]
    np.testing.assert_array_equal(found[..., 1], np.where(phantom()[..., 1] == 2, 2, 1))
    assert "segments overlap in 18 voxels" in caplog.text


def test_overlapping_classes_are_written_as_whole_regions(tmp_path):
    names, labels = ["background", "whole", "core", "inner"], np.zeros(SHAPE, np.uint8, order="F")
    labels[1:10, 1:10, 1:6], labels[3:8, 3:8, 2:5], labels[5, 5, 3] = 1, 2, 3
    table = class_table(names, regions=[[0], [1, 2, 3], [2, 3], [3]])
    source = write_source(tmp_path / "ct", "oblique")
    paths = write_label_maps(labels, source, tmp_path / "out", "ct", ["dicom_seg", "rtstruct"], table)
    for path in paths.values():  # of segments that overlap, the last remains: the innermost
        np.testing.assert_array_equal(read_labels(path, names, read_geometry(source)).array[0], labels)
    segmentation = hd.seg.segread(paths["dicom_seg"])
    assert segmentation.SegmentsOverlap == "YES"
    uids = [uid for _, _, uid in segmentation.get_source_image_uids()]
    for number, members in enumerate([(1, 2, 3), (2, 3), (3,)], 1):
        found = segmentation.get_pixels_by_source_instance(
            uids, segment_numbers=[number], assert_missing_frames_are_empty=True
        )
        assert int(found.sum()) == int(np.isin(labels, members).sum())
    structures = dcmread(paths["rtstruct"])
    slices = [len(roi.get("ContourSequence", [])) for roi in structures.ROIContourSequence]
    assert slices == [5, 3, 1]  # no holes where the inner classes are
