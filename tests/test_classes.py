import pytest

from segbundle.classes import Classes, num_classes
from segbundle.errors import ConfigError

NAMES = ["background", "liver", "spleen"]


def test_index_is_the_label_value():
    assert Classes(NAMES).index("spleen") == 2
    assert num_classes(NAMES) == 3


def test_unknown_class_suggests_the_nearest():
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
def test_impossible_names_are_refused(names):
    with pytest.raises(ConfigError, match="class_names"):
        Classes(names)
