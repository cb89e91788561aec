"""The setting `classes`: subsets, merged label values, and regions that overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbundle.class_values import class_values, regions
from segbundle.config.overlays import merged_config
from segbundle.config.values import check_values
from segbundle.errors import ConfigError
from segbundle.losses import DiceCELoss


@pytest.mark.parametrize(
    ("classes", "names", "loaded", "members"),
    [
        ({"liver": 5}, ["background", "liver"], {5: 1}, None),
        ({"liver": 5, "kidney": [2, 3]}, ["background", "liver", "kidney"], {5: 1, 2: 2, 3: 2}, None),
        ({"air": 0, "liver": 1}, ["air", "liver"], {1: 1}, None),
        ({"Background": [0, 9], "liver": 1}, ["Background", "liver"], {1: 1}, None),
        (
            {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            ["background", "whole", "core", "enhancing"], {1: 1, 2: 2, 3: 3}, ((0,), (1, 2, 3), (2, 3), (3,)),
        ),
        ({"enhancing": 3, "whole": [3, 1]}, ["background", "enhancing", "whole"], {3: 1, 1: 2}, ((0,), (1,), (1, 2))),
        # the classes inside are the whole: a voxel painted as kidneys is in no other class
        (
            {"kidneys": [1, 2], "left": 1, "right": 2},
            ["background", "kidneys", "left", "right"], {1: 2, 2: 3}, ((0,), (1, 2, 3), (2,), (3,)),
        ),
        # neither contains the other: the voxels of both get a value of their own
        ({"a": [1, 2], "b": [2, 3]}, ["background", "a", "b"], {1: 1, 2: 3, 3: 2}, ((0,), (1, 3), (2, 3))),
    ],
)  # fmt: skip
def test_loaded_values_worked_out_by_hand(classes, names, loaded, members):
    found = class_values(classes)
    assert (found.names, found.loaded, found.members) == (names, loaded, members)


def test_smaller_regions_are_painted_over_larger_ones():
    assert class_values({"enhancing": 3, "whole": [1, 2, 3], "core": [2, 3]}).paint_order == (2, 3, 1)


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(1, 6), min_size=1, unique=True), min_size=1))
def test_members_of_a_class_are_the_voxels_with_its_label_values(classes):
    try:
        found = class_values(classes)
    except ConfigError as error:
        assert "have the same label values" in str(error)
        return
    for index, values in enumerate(classes.values(), 1):
        members = (index,) if found.members is None else found.members[index]
        assert {value for value, loaded in found.loaded.items() if loaded in members} == set(values)
        assert index in members  # a painted voxel belongs to its class, and to those that contain the class
        containing = {i for i, other in enumerate(classes.values(), 1) if set(values) <= set(other)}
        if found.members is not None:
            assert {i for i in range(1, len(found.members)) if index in found.members[i]} == containing
    assert set(found.loaded.values()) <= set(range(1, 1 + len(found.loaded) + len(classes)))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"liver": []}, r"liver is \[\]; a label value or a list of label values is needed"),
        ({"liver": True}, "liver is True; a label value"),
        ({"liver": [1, 1]}, "liver contains a label value twice"),
        ({"liver": [1, 2], "spleen": [2, 1]}, "liver and spleen have the same label values"),
        ({"background": 0, "liver": [0, 1]}, "liver contains the value 0, which belongs to the background"),
        ({"liver": [0, 5], "kidney": 3}, "liver contains the value 0, which belongs to the background"),
        ({"background": 4, "liver": 1}, "the first class, 'background', does not contain the value 0"),
    ],
)
def test_invalid_classes_raise(classes, message):
    with pytest.raises(ConfigError, match=message):
        class_values(classes)


def test_classes_set_class_names_unless_a_later_file_does(tmp_path):
    train, task = "bundle/configs/train.yaml", tmp_path / "task.yaml"
    task.write_text("classes: {liver: 5}")
    assert merged_config([train, task])["class_names"] == ["background", "liver"]
    assert merged_config([train, task], {"class_names": ["a", "b"]})["class_names"] == ["a", "b"]
    assert merged_config([train], {"classes": {"liver": 5}})["class_names"] == ["background", "liver"]
    assert merged_config([train])["class_names"] == ["background", "anterior", "posterior"]


def test_contradictions_of_settings_raise():
    with pytest.raises(ConfigError, match=r"other names than class_names \(background, spleen\)"):
        check_values({"classes": {"liver": 5}, "class_names": ["background", "spleen"]})
    with pytest.raises(ConfigError, match="classes overlap, but loss has no regions"):
        check_values({"classes": {"a": [1, 2], "b": 2}, "loss": {"_target_": "monai.losses.DiceLoss"}})
    with pytest.raises(ConfigError, match="classes is 7; label values by class name"):
        check_values({"classes": 7})


def test_regions_are_those_of_the_loss():
    assert regions(None) is None and regions({"liver": 5}) is None
    assert DiceCELoss(regions=regions({"a": [1, 2], "b": 2}), softmax=True, to_onehot_y=True).region.sigmoid
