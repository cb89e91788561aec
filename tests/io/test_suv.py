"""Standardized uptake values of PET series, against values worked out by hand."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicoms import voxels, write_series
from segbundle.errors import ConfigError, DataError
from segbundle.io import read_scan, suv
from segbundle.io.suv import suv_factor
from segbundle.transforms import preprocessing
from tiny import write_nifti

PET = "1.2.840.10008.5.1.4.1.1.128"
HALF_LIFE = 6586.2  # s, fluorine-18
HOUR = 0.5 ** (3600 / HALF_LIFE)


def write_pet(folder, drug=None, **tags):
    """Write a PET series of a patient of 70 kg who got 350 MBq an hour before the scan."""
    given = {
        "RadionuclideTotalDose": 350e6, "RadionuclideHalfLife": HALF_LIFE, "RadiopharmaceuticalStartTime": "090000",
    } | (drug or {})  # fmt: skip
    item = Dataset()
    for name, value in given.items():
        if value is not None:
            setattr(item, name, value)
    header = {
        "Units": "BQML", "CorrectedImage": ["ATTN", "DECY"], "DecayCorrection": "START", "PatientWeight": "70",
        "SeriesDate": "20260131", "SeriesTime": "100000.000", "AcquisitionTime": "100100",
        "RadiopharmaceuticalInformationSequence": [item],
    } | tags  # fmt: skip
    used = {name: value for name, value in header.items() if value is not None}
    write_series(folder, np.abs(voxels()), kind=PET, modality="PT", **used)
    return folder


@pytest.mark.parametrize(
    ("tags", "drug", "factor"),
    [
        ({}, {}, 70e3 / (350e6 * HOUR)),
        ({"DecayCorrection": "ADMIN"}, {}, 70e3 / 350e6),
        ({"Units": "GML"}, {}, 1),
        ({"SeriesTime": "150000", "AcquisitionTime": "100000"}, {}, 70e3 / (350e6 * HOUR)),  # processed later
        (
            {"SeriesTime": "003000", "AcquisitionTime": None},
            {"RadiopharmaceuticalStartTime": "233000"},
            70e3 / (350e6 * HOUR),
        ),
        ({}, {"RadiopharmaceuticalStartDateTime": "20260131080000.5"}, 70e3 / (350e6 * 0.5 ** (7199.5 / HALF_LIFE))),
    ],
)
def test_factor(tmp_path, tags, drug, factor):
    assert suv_factor(write_pet(tmp_path / "pet", drug, **tags)) == pytest.approx(factor, rel=1e-9)


def test_factors_of_philips(tmp_path):
    def factor(tag):
        def edit(dataset, index):
            dataset.Units = "CNTS"
            dataset.add_new(tag, "DS", "0.25")

        folder = tmp_path / hex(tag)
        write_pet(folder, edit=edit)
        return suv_factor(folder)

    assert factor(0x70531000) == 0.25
    assert factor(0x70531009) == pytest.approx(0.25 * 70e3 / (350e6 * HOUR))


@pytest.mark.parametrize(
    ("tags", "drug", "said"),
    [
        ({"PatientWeight": None}, {}, "PatientWeight is missing; SUV needs a positive number"),
        ({"PatientWeight": "0"}, {}, "PatientWeight is not a positive number"),
        ({}, {"RadionuclideTotalDose": None}, "RadionuclideTotalDose is missing"),
        ({}, {"RadiopharmaceuticalStartTime": None}, "needs the time of the injection"),
        ({"Units": "CNTS"}, {}, r"its units are counts \(Units: CNTS\)"),
        ({"Units": "PROPCNTS"}, {}, "its units are PROPCNTS"),
        ({"CorrectedImage": ["DECY"]}, {}, "not corrected for attenuation"),
        ({"DecayCorrection": "NONE"}, {}, "DecayCorrection is NONE"),
    ],
)
def test_missing_values_are_named(tmp_path, tags, drug, said):
    with pytest.raises(DataError, match=said):
        suv_factor(write_pet(tmp_path / "pet", drug, **tags))


@pytest.mark.parametrize(
    ("drug", "said"),
    [
        ({"RadiopharmaceuticalStartDateTime": "20260201090000"}, r"\(RadiopharmaceuticalStartDateTime\) is after"),
        ({"RadiopharmaceuticalStartDateTime": "20250131090000"}, r"StartDateTime\) is more than 10 half-lives before"),
        ({"RadiopharmaceuticalStartDateTime": "19000101090000"}, r"StartDateTime\) is more than 10 half-lives before"),
        ({"RadiopharmaceuticalStartTime": "100100"}, r"StartTime\) is more than 10 half-lives before"),
    ],
)  # fmt: skip
def test_impossible_times_are_refused(tmp_path, drug, said):
    with pytest.raises(DataError, match=rf"pet: .*{said} .*\(SeriesDate and SeriesTime\).*remove intensity#units"):
        suv_factor(write_pet(tmp_path / "pet", drug))


def test_preprocessing_converts_pet_channels_only(tmp_path):
    pet = write_pet(tmp_path / "pet")
    write_series(tmp_path / "ct", voxels())
    intensity = {"method": "window", "lower": 0, "upper": 1, "units": "suv"}
    load, *_ = preprocessing(intensity, axcodes=None).transforms
    image = load({"image": [str(pet), str(tmp_path / "ct")]})["image"]
    np.testing.assert_allclose(image[0], read_scan(pet).array[0] * 70e3 / (350e6 * HOUR), rtol=1e-6)
    np.testing.assert_array_equal(image[1], voxels())
    assert load({"image": str(tmp_path / "ct")})["image"].max() == voxels().max()


def test_files_that_are_not_dicom_are_reported_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(suv, "_warned", set())
    load, *_ = preprocessing({"method": "zscore", "units": "suv"}, axcodes=None).transforms
    pet, path = write_pet(tmp_path / "pet"), write_nifti(tmp_path / "pet.nii", voxels())
    load({"image": [str(pet), str(pet)]})
    assert not caplog.records
    for _ in range(2):
        assert load({"image": str(path)})["image"].max() == voxels().max()
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{path}: is not a DICOM PET series, so intensity#units: suv does not change")


def test_unknown_units_raise():
    with pytest.raises(ConfigError, match="unknown units 'kBq'"):
        preprocessing({"method": "zscore", "units": "kBq"})
