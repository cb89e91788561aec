"""Series with several volumes: each is a scan of its own, with the voxels and the affine of its own positions."""

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicoms import AXIAL, MR, add_pixels, header, lps_affine, voxels, write_enhanced, write_series
from segbundle.datasets.finding import find_scans
from segbundle.errors import DataError
from segbundle.io import read_geometry, read_scan
from segbundle.io.dicom_folders import list_series
from segbundle.io.dicom_volumes import separate
from segbundle.io.scan_files import files_of
from segbundle.io.stacks import Slice

LPS_TO_RAS = np.diag([-1, -1, 1, 1])
SETTINGS = {
    "EchoTime": ((10, 90), ["TE10", "TE90"]),
    "DiffusionBValue": ((0, 1000), ["b0", "b1000"]),
    "EchoNumbers": ((1, 2), ["echo1", "echo2"]),
    "TemporalPositionIdentifier": ((1, 2), ["t1", "t2"]),
    "ImageType": ((["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]), ["M", "P"]),
}


def at(*heights):
    return [(-10, -20, height) for height in heights]


@pytest.mark.parametrize("name", SETTINGS)
def test_interleaved_volumes_are_separate_scans(tmp_path, name):
    """Volumes at 0, 2, 4, 6 mm and at 1, 3, 5, 7 mm: together 8 evenly spaced slices."""
    values, labels = SETTINGS[name]

    def edit(dataset, index):
        setattr(dataset, name, values[index // 4])

    write_series(tmp_path / "s", voxels(), positions=at(0, 2, 4, 6, 1, 3, 5, 7), thickness=2, edit=edit)
    found = list_series(tmp_path / "s")
    assert [series.volume for series in found] == labels
    for series, first in zip(found, (0, 4), strict=True):
        assert files_of(series.path) == list(series.files)
        scan = read_scan(series.path)
        np.testing.assert_array_equal(scan.array[0], voxels()[:, :, first : first + 4])
        expected = LPS_TO_RAS @ lps_affine(origin=(-10, -20, first // 4))
        np.testing.assert_allclose(scan.geometry.affine, expected)
    cases = [entry["case"] for entry in find_scans(tmp_path)]
    assert cases == [f"s_CT_{series.files[0].stem}_{series.volume}" for series in found] or cases == [
        f"s_CT_{label}" for label in labels
    ]
    with pytest.raises(DataError, match=f"contains 2 DICOM volumes .*{labels[1]}, 4 file"):
        read_scan(tmp_path / "s")


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("order", ["by time", "by position"])
def test_time_points_without_a_tag(tmp_path, times, order):
    """Instance numbers count time points first or positions first; in both orders, they increase with time."""
    volume = voxels((5, 4, 3 * times))
    heights = [0, 2, 4] * times
    instances = range(3 * times)
    if order == "by position":
        instances = [(index % 3) * times + index // 3 for index in instances]
    write_series(tmp_path / "s", volume, positions=at(*heights), instances=[1 + number for number in instances])
    found = list_series(tmp_path / "s")
    assert [series.volume for series in found] == [f"volume{number + 1}" for number in range(times)]
    for number, series in enumerate(found):
        np.testing.assert_array_equal(read_scan(series.path).array[0], volume[:, :, 3 * number : 3 * number + 3])


def shuffle(paths):
    """Rename files so that their order says nothing about the order of the slices."""
    names = np.random.default_rng(1).permutation(len(paths))
    for path, name in zip(paths, names, strict=True):
        path.rename(path.with_name(f"f{name:03}.dcm"))


REPEATED = {
    "AcquisitionNumber": ((1, 2), ["acquisition1", "acquisition2"]),
    "AcquisitionTime": (("095959.5", "100000"), ["volume1", "volume2"]),
    "AcquisitionDateTime": (("20260131095959", "20260131100000"), ["volume1", "volume2"]),
    "ContentTime": (("095959", "100000"), ["volume1", "volume2"]),
    "FrameReferenceTime": ((500, 90000), ["volume1", "volume2"]),
    "TriggerTime": ((0, 100), ["trigger0", "trigger100"]),
    "InversionTime": ((100, 600), ["TI100", "TI600"]),
    "FlipAngle": ((3, 15), ["flip3", "flip15"]),
    "KVP": ((80, 140), ["kV80", "kV140"]),
    "ConvolutionKernel": (("Br40", "Hr60"), ["Br40", "Hr60"]),
    "SequenceName": (("*ep_b0", "*ep_b1000#1"), ["ep_b0", "ep_b1000_1"]),
    "NominalPercentageOfCardiacPhase": ((40, 75), ["phase40", "phase75"]),
    "TemporalPositionIdentifier": ((1, 2), ["t1", "t2"]),
    "DiffusionGradientOrientation": (([0, 0, 1], [1, 0, 0]), ["volume1", "volume2"]),
    "ImageType": ((["ORIGINAL", "PRIMARY", "M", "FAT"], ["ORIGINAL", "PRIMARY", "M", "WATER"]), ["FAT", "WATER"]),
}


@pytest.mark.parametrize("numbers", ["restart", "missing"])
@pytest.mark.parametrize("name", REPEATED)
def test_numbers_that_restart_for_each_volume(tmp_path, name, numbers):
    values, labels = REPEATED[name]

    def edit(dataset, index):
        setattr(dataset, name, values[index // 4])
        if numbers == "missing":
            del dataset.InstanceNumber

    paths = write_series(tmp_path, voxels(), positions=at(*[0, 2, 4, 6] * 2), instances=[1, 2, 3, 4] * 2, edit=edit)
    shuffle(paths)
    volumes = {series.volume: read_scan(series.path).array[0] for series in list_series(tmp_path)}
    assert sorted(volumes) == sorted(labels)
    for label, first in zip(labels, (0, 4), strict=True):
        np.testing.assert_array_equal(volumes[label], voxels()[:, :, first : first + 4])


@pytest.mark.parametrize("name", ["AcquisitionTime", "TriggerTime"])
def test_times_that_differ_from_slice_to_slice(tmp_path, name):
    def edit(dataset, index):
        setattr(dataset, name, f"{100000 + 7 * index}" if name == "AcquisitionTime" else 30 * (index // 4) + index % 4)

    shuffle(write_series(tmp_path, voxels(), positions=at(*[0, 2, 4, 6] * 2), instances=[1, 2, 3, 4] * 2, edit=edit))
    volumes = {series.volume: read_scan(series.path).array[0] for series in list_series(tmp_path)}
    np.testing.assert_array_equal(volumes["volume1"], voxels()[:, :, :4])
    np.testing.assert_array_equal(volumes["volume2"], voxels()[:, :, 4:])


def test_elements_that_separate_volumes_together(tmp_path):
    """Two inversion times in each of two acquisitions."""

    def edit(dataset, index):
        dataset.InversionTime, dataset.AcquisitionNumber = (100, 600)[index // 2 % 2], 1 + index // 4

    shuffle(write_series(tmp_path, voxels(), positions=at(*[0, 2] * 4), instances=[1, 2] * 4, edit=edit))
    volumes = {series.volume: read_scan(series.path).array[0] for series in list_series(tmp_path)}
    labels = ["TI100_acquisition1", "TI600_acquisition1", "TI100_acquisition2", "TI600_acquisition2"]
    for number, label in enumerate(labels):
        np.testing.assert_array_equal(volumes[label], voxels()[:, :, 2 * number : 2 * number + 2])


def test_volumes_are_not_separated_by_file_name(tmp_path):
    """Numbers that restart, and an AcquisitionNumber and times that do not separate the images."""

    def edit(dataset, index):
        dataset.AcquisitionNumber, dataset.ContentTime = 1 + index % 4, f"{100000 + index}"

    write_series(tmp_path, voxels(), positions=at(*[0, 2, 4, 6] * 2), instances=[1, 2, 3, 4] * 2, edit=edit)
    with pytest.raises(
        DataError, match=r"2 images at each of 4 positions, and the headers do not say .*separate folder"
    ):
        read_scan(tmp_path)


def _enhanced(path, edit, count=8):
    """Write a multi-frame file in which every second frame repeats the position before; `edit` changes each frame."""
    positions = [(-10, -20, 30 + 2 * (k // 2)) for k in range(count)]
    write_enhanced(path, voxels((12, 10, count)), positions, [1] * count)
    dataset = dcmread(path)
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        edit(frame, index)
    dataset.save_as(path)
    return path


def _sequence(**values):
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return [item]


def _echo(frame, index):
    frame.MREchoSequence = _sequence(EffectiveEchoTime=90 if index % 2 else 10)


def _b_value(frame, index):
    frame.MRDiffusionSequence = _sequence(DiffusionBValue=1000 if index % 2 else 0)


def _component(frame, index):
    frame.MRImageFrameTypeSequence = _sequence(FrameType=["ORIGINAL", "PRIMARY", "P" if index % 2 else "M", "NONE"])


def _time(frame, index):
    frame.FrameContentSequence[0].TemporalPositionIndex = 1 + index % 2


@pytest.mark.parametrize(
    ("edit", "labels"),
    [
        (_echo, ["TE10", "TE90"]),
        (_b_value, ["b0", "b1000"]),
        (_component, ["M", "P"]),
        (_time, ["t1", "t2"]),
        (lambda frame, index: None, ["volume1", "volume2"]),
    ],
)
def test_volumes_of_a_multi_frame_file(tmp_path, edit, labels):
    path = _enhanced(tmp_path / "study" / "mf.dcm", edit)
    entries = find_scans(tmp_path)
    assert [entry["case"] for entry in entries] == [f"study_CT_{label}" for label in labels]
    for first, (entry, label) in enumerate(zip(entries, labels, strict=True)):
        assert entry["image"] == str(path / f"{label}.volume")
        assert files_of(entry["image"]) == [path]
        scan = read_scan(entry["image"])
        np.testing.assert_array_equal(scan.array[0], voxels()[:, :, first::2] - 10)
        np.testing.assert_allclose(scan.geometry.affine, LPS_TO_RAS @ lps_affine((0.8, 0.9, 2)))
        assert read_geometry(entry["image"]).shape == (12, 10, 4)
    assert [entry["image"] for entry in find_scans(path)] == [entry["image"] for entry in entries]
    with pytest.raises(DataError, match=rf"mf.dcm: contains 2 volumes. Pass one of .*mf.dcm/{labels[0]}.volume"):
        read_scan(path)
    with pytest.raises(DataError, match="is not a volume of a DICOM series"):
        read_scan(path / "b5.volume")


def test_stacks_of_a_multi_frame_file(tmp_path):
    positions = [(-10, -20, 30 + 2 * k) for k in range(8)]
    path = write_enhanced(tmp_path / "mf.dcm", voxels(), positions, [1] * 8, ["1"] * 5 + ["2"] * 3)
    shapes = [read_geometry(series.path).shape for series in list_series(tmp_path)]
    assert shapes == [(12, 10, 5), (12, 10, 3)]
    assert [series.path for series in list_series(tmp_path)] == [path / "stack1.volume", path / "stack2.volume"]


def test_concatenation_is_one_volume(tmp_path):
    """A volume in two multi-frame files with the same ConcatenationUID."""
    for part in range(2):
        positions = [(-10, -20, 30 + 2 * k) for k in range(4 * part, 4 * part + 4)]
        path = write_enhanced(tmp_path / f"{part}.dcm", voxels()[:, :, 4 * part : 4 * part + 4], positions, [1] * 4)
        dataset = dcmread(path)
        dataset.ConcatenationUID, dataset.ConcatenationFrameOffsetNumber = "1.2.9", 4 * part
        dataset.save_as(path)
    np.testing.assert_array_equal(read_scan(tmp_path).array[0], voxels() - 10)


@pytest.mark.parametrize(("total", "left"), [(3, (0, 1)), (None, (0, 2)), (3, (2,))])
def test_incomplete_concatenation_is_refused(tmp_path, total, left):
    for part in range(3):
        folder = tmp_path / ("s" if part in left else "other")
        positions = [(-10, -20, 30 + 2 * k) for k in range(4 * part, 4 * part + 4)]
        path = write_enhanced(folder / f"{part}.dcm", voxels((5, 4, 4), part), positions, [1] * 4)
        dataset = dcmread(path)
        dataset.ConcatenationUID, dataset.InConcatenationNumber = "1.2.9", part + 1
        dataset.ConcatenationFrameOffsetNumber, dataset.InConcatenationTotalNumber = 4 * part, total
        dataset.save_as(path)
    for place in (tmp_path / "s", tmp_path / "s" / f"{left[0]}.dcm"):
        with pytest.raises(DataError, match=rf"{place.name}: has {len(left)} of 3 files of the concatenation"):
            read_scan(place)
    (case,) = find_scans(tmp_path)  # in two folders, but complete
    assert read_scan(case["image"]).geometry.shape == (5, 4, 12)


def test_copies_of_files_are_used_once(tmp_path):
    paths = write_series(tmp_path / "s", voxels())
    for path in paths[:3]:
        path.with_name(f"copy of {path.name}").write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_scan(tmp_path / "s").array[0], voxels())


def test_slices_of_two_patients_are_refused(tmp_path):
    def edit(dataset, index):
        dataset.PatientID = str(index // 4)

    write_series(tmp_path / "s", voxels(), edit=edit)
    (entry,) = list_series(tmp_path / "s")
    assert (entry.why, entry.damaged) == ("slices of 2 patients (PatientID)", True)
    with pytest.raises(DataError, match=r"is that a volume: 8 as slices of 2 patients|slices of 2 patients"):
        read_scan(tmp_path / "s")


def test_dicomdir_stands_for_its_folder(tmp_path):
    write_series(tmp_path / "DICOM" / "SE1", voxels())
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (entry,) = find_scans(tmp_path / "DICOMDIR")
    assert entry["image"] == str(tmp_path / "DICOM" / "SE1")


def _slice(height, number=0, **settings):
    settings = tuple(settings.items())
    return Slice("", 0, (0.0, 0.0, height), tuple(map(float, AXIAL)), (1.0, 1.0), settings=settings, number=number)


def test_single_slice_with_another_echo_time_is_no_volume():
    """One of 6 slices would be a volume of its own: the series stays whole, and is refused as a whole."""
    slices = [_slice(float(height), EchoTime=90.0 if height == 3 else 10.0) for height in range(6)]
    assert separate(slices) == [("", list(range(6)))]


def test_volumes_without_b_value_are_separate():
    """b-values 500 and 1000, and images without b-value at the same positions."""
    values = [{"DiffusionBValue": 500.0}, {"DiffusionBValue": 1000.0}, {}]
    slices = [_slice(float(height), **setting) for setting in values for height in range(3)]
    assert separate(slices) == [("b500", [0, 1, 2]), ("b1000", [3, 4, 5]), ("no_b", [6, 7, 8])]


@pytest.mark.parametrize("directions", [2, 3, 30])
def test_b_values_with_several_directions(directions):
    """b0 once and b1000 in several directions: the volumes of b1000 are told apart by their order."""
    values = [b for b in (0.0, *[1000.0] * directions) for _ in range(4)]
    slices = [_slice(float(index % 4), index, DiffusionBValue=b) for index, b in enumerate(values)]
    labels = ["b0", *(f"b1000_volume{number + 1}" for number in range(directions))]
    assert separate(slices) == [(label, list(range(4 * n, 4 * n + 4))) for n, label in enumerate(labels)]


def test_uneven_repetitions_are_not_separated():
    slices = [_slice(float(height)) for height in (0, 2, 4, 0, 2)]
    assert separate(slices) == [("", list(range(5)))]


@pytest.mark.parametrize("missing", [0, 5, 8, 11])
@pytest.mark.parametrize("order", ["by time", "by position", "by element"])
def test_missing_slice_leaves_other_volumes(tmp_path, missing, order):
    """3 volumes of 4 slices, of which one slice was lost."""
    volume = voxels((6, 5, 12))

    def edit(dataset, index):
        dataset.AcquisitionNumber = 1 + index // 4 if order == "by element" else 1

    numbers = {"by time": range(1, 13), "by position": [1 + k % 4 * 3 + k // 4 for k in range(12)]}
    instances = numbers.get(order, [1, 2, 3, 4] * 3)
    paths = write_series(tmp_path, volume, positions=at(*[0, 2, 4, 6] * 3), instances=list(instances), edit=edit)
    paths[missing].unlink()
    found = sorted(list_series(tmp_path), key=lambda series: series.volume)
    for number, series in enumerate(found):
        if number == missing // 4:
            with pytest.raises(DataError, match=r"a slice is missing after|lacks 1 slice") as error:
                read_scan(series.path)
            assert series.path.name in str(error.value)
        else:
            np.testing.assert_array_equal(read_scan(series.path).array[0], volume[:, :, 4 * number : 4 * number + 4])
    assert len(found) == 3


def test_functional_mr_as_dcm2niix_reads_it(tmp_path):
    """3 time points of 4 slices, in the order of acquisition."""
    volume = voxels((6, 5, 12))
    write_series(tmp_path / "s", volume, positions=at(*[0, 2, 4, 6] * 3), kind=MR, modality="MR")
    arrays = [read_scan(series.path).array[0] for series in list_series(tmp_path / "s")]
    np.testing.assert_array_equal(np.stack(arrays, -1), volume.reshape(6, 5, 3, 4).transpose(0, 1, 3, 2))


def test_unplaced_frames_are_no_volume(tmp_path):
    dataset = header(tmp_path / "a.dcm")
    dataset.NumberOfFrames = 2
    add_pixels(dataset, np.zeros((2, 3, 4), np.int16))
    dataset.save_as(tmp_path / "a.dcm")
    assert "without positions" in list_series(tmp_path)[0].why
