"""Classes that label files contain."""

import itertools

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

from segbundle.errors import DataError
from segbundle.io.geometry import Geometry
from segbundle.segmentations.class_entries import class_table
from segbundle.segmentations.file_classes import FileClass, classes_in_file, rgb_of_lab, table_of
from segbundle.segmentations.nifti_labels import write_nifti_labels

CODE = {"scheme": "SCT", "value": "52988006", "meaning": "Lesion", "laterality": "left"}
TABLE = class_table(["background", "liver", "zone ]]> <b>"], {"liver": [1, 2, 3]}, {"zone ]]> <b>": CODE})


def test_colors_of_dicom_are_those_of_highdicom():
    for color in itertools.product(range(0, 256, 51), repeat=3):
        assert rgb_of_lab(hd.color.CIELabColor.from_rgb(*color).value) == color


def test_nifti_table_is_read_back(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_nifti_labels(np.ones((4, 3, 2), np.uint8), Geometry((4, 3, 2), np.eye(4)), path, TABLE)
    assert table_of(classes_in_file(path)) == TABLE
    (tmp_path / "a.json").write_text("[{}, 3, {'")
    assert [(entry.name, entry.code) for entry in classes_in_file(path)] == [("liver", None), ("zone ]]> <b>", None)]


@pytest.mark.parametrize("content", [b"<LabelTable><Label></LabelTable>", b'<LabelTable><Label Key="x"/></LabelTable>'])
def test_invalid_table_of_another_program_is_ignored(tmp_path, content):
    image = nib.Nifti1Image(np.ones((4, 3, 2), np.uint8), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(30, content))
    nib.save(image, tmp_path / "a.nii")
    assert classes_in_file(tmp_path / "a.nii") == []


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"short")
    with pytest.raises(DataError, match=r"a\.nii: cannot be read"):
        classes_in_file(tmp_path / "a.nii")


def test_classes_of_the_task_take_colors_and_codes_of_the_file():
    found = [FileClass(7, "Left Kidney", (9, 8, 7), CODE), FileClass(9, "other", (1, 1, 1))]
    table = table_of(found, ["background", "liver", "left_kidney"], {"liver": [4, 5, 6]})
    assert [(entry.label, entry.color) for entry in table] == [(1, (4, 5, 6)), (2, (9, 8, 7))]
    assert table[1].code.type.value == CODE["value"] and table[1].code.modifier.meaning == "Left"


@pytest.mark.parametrize("code", [{**CODE, "value": "1" * 17}, {**CODE, "scheme": "99SEGBUNDLE"}])
def test_codes_that_cannot_be_kept_are_replaced(code):
    assert table_of([FileClass(1, "tumor bed", None, code)])[0].code.type.scheme == "99SEGBUNDLE"
