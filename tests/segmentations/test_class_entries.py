import pytest
from pydicom.sr._concepts_dict import concepts

from segbundle.errors import ConfigError
from segbundle.segmentations.class_entries import class_table, code_of, colors_of, describe_classes
from segbundle.segmentations.snomed import _PAIRED, _SINGLE, find_code

NAMES = ["background", "liver", "kidney_left", "lesion"]
TOTAL = [
    *_SINGLE,
    *(f"{name}_{side}" for name in _PAIRED for side in ("left", "right")),
    *(f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)),
    *(f"kidney_cyst_{side}" for side in ("left", "right")),
]
KNOWN = {code for entries in concepts["SCT"].values() for code in entries}


def test_colors_and_codes_of_the_task_come_first():
    codes = {"lesion": {"scheme": "SCT", "value": 4147007, "meaning": "Mass", "laterality": "left"}}
    table = class_table(NAMES, {"liver": "#aA3311", "lesion": [1, 2, 3]}, codes)
    assert [entry.hex_color for entry in table] == ["#aa3311", "#56b4e9", "#010203"]
    assert [entry.code.type.value for entry in table] == ["10200004", "64033007", "4147007"]
    assert [entry["code"].get("laterality") for entry in describe_classes(table)] == [None, "left", "left"]


@pytest.mark.parametrize("count", [8, 41, 117])
def test_colors_of_many_classes_are_distinct(count):
    names = ["background", *(f"c{number}" for number in range(count))]
    assert len(set(colors_of(names))) == count
    given = {"c3": "#e69f00", "c5": [86, 180, 233]}  # the default colors of c0 and c1
    colors = colors_of(names, given)
    assert len(set(colors)) == count
    assert colors[3] == (230, 159, 0) and colors[5] == (86, 180, 233)
    unchanged = [number for number in range(count) if number not in (0, 1, 3, 5)]
    assert [colors[number] for number in unchanged] == [colors_of(names)[number] for number in unchanged]


def test_two_classes_may_be_given_the_same_color():
    assert colors_of(NAMES, {"liver": "#000000", "lesion": [0, 0, 0]}) == [(0, 0, 0), (86, 180, 233), (0, 0, 0)]


@pytest.mark.parametrize("color", ["red", "#12345", 7, [1, 2], [1, 2, 256], [True, 1.5, 2], None])
def test_invalid_color_is_named(color):
    with pytest.raises(ConfigError, match="color of 'liver' is"):
        class_table(NAMES, {"liver": color})


@pytest.mark.parametrize(
    "code",
    [
        "10200004",
        {"value": "10200004", "meaning": "Liver"},
        {"scheme": "SCT", "value": "1", "meaning": "x", "side": "left"},
        {"scheme": "SCT", "value": "1", "meaning": "x", "laterality": "both"},
        {"scheme": "SCT", "value": "1" * 17, "meaning": "x"},
    ],
)
def test_invalid_code_is_named(code):
    with pytest.raises(ConfigError, match="code of 'liver' is"):
        class_table(NAMES, None, {"liver": code})


def test_unknown_class_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"class_colors: unknown class 'livr'.*liver"):
        class_table(NAMES, {"livr": "#000000"})
    with pytest.raises(ConfigError, match="class_codes: unknown class 'background'"):
        class_table(NAMES, None, {"background": {}})


def test_other_names_are_codes_of_the_own_scheme():
    first, second = (code_of(f"a very long name of a class {number}").type for number in (1, 2))
    assert first.scheme == "99SEGBUNDLE" and first.value != second.value and len(first.value) == 16


def test_names_of_total_segmentator_have_codes():
    absent = ["lung_middle_lobe_left", "atrial_appendage_right", "lung_lower_lobe", "liver_left"]
    assert len(TOTAL) == 118 and all(find_code(name) for name in TOTAL)  # with the right atrial appendage
    assert [name for name in absent if find_code(name)] == ["atrial_appendage_right", "lung_lower_lobe"]
    assert find_code("Kidney Left") == find_code("kidney-left") == find_code("kidney_left")
    cyst = find_code("kidney_cyst_right")
    assert (cyst.type.meaning, cyst.region.meaning, cyst.region_modifier.meaning) == ("Cyst", "Kidney", "Right")
    assert find_code("rib_left_12").type.meaning == "Twelfth rib" and find_code("rib_left_13") is None


def test_most_codes_are_in_the_list_of_dicom():
    """DICOM lists a part of SNOMED CT; muscles and single ribs are not in it."""
    unknown = {name for name in _SINGLE | _PAIRED if find_code(name).type.value not in KNOWN}
    assert unknown == {
        "vertebrae_s1", "atrial_appendage", "portal_vein_and_splenic_vein", "gluteus_maximus",
        "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["left atrium", "PZ", "TZ", "cancer", "Tumour", "Vessel", "edema", "hippocampus"])
def test_names_of_the_decathlon_have_codes_of_dicom(name):
    assert find_code(name).type.value in KNOWN


@pytest.mark.parametrize("name", ["anterior", "posterior", "enhancing tumour", "background", "left", "", "_left"])
def test_ambiguous_names_have_no_code(name):
    assert find_code(name) is None
