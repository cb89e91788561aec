import pytest

from segbundle.classes import IGNORE_INDEX, Classes, num_classes
from segbundle.errors import ConfigError

NAMES = ["background", "liver", "spleen"]


def test_index_is_the_label_value():
    assert Classes(NAMES).index("spleen") == 2
    assert num_classes(NAMES) == 3


def test_unknown_class_suggests_closest_name():
    with pytest.raises(ConfigError, match="'splen': did you mean 'spleen'"):
        Classes(NAMES).index("splen")


@pytest.mark.parametrize(
    ("annotated", "mask"),
    [
        (None, [True, True, True]),
        ([], [True, False, False]),
        (["spleen"], [True, False, True]),
        (["background", "liver"], [True, True, False]),
    ],
)
def test_annotated_mask(annotated, mask):
    assert Classes(NAMES).annotated_mask(annotated) == mask


@pytest.mark.parametrize("names", [[], ["background"], ["background", "liver", "liver"]])
def test_invalid_names_raise(names):
    with pytest.raises(ConfigError, match="class_names"):
        Classes(names)


def test_one_label_value_is_reserved_for_unknown_voxels():
    assert len(Classes([f"class {index}" for index in range(IGNORE_INDEX)])) == 255
    with pytest.raises(ConfigError, match="has 256 names"):
        Classes([f"class {index}" for index in range(256)])


def test_names_longer_than_255_characters_raise():
    Classes(["background", "a" * 255])
    with pytest.raises(ConfigError, match="a name of 256 characters"):
        Classes(["background", "a" * 256])
