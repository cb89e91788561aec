"""Arguments that components take from the settings of their workflow."""

import inspect

import pytest

from segbundle.config.from_settings import from_settings
from segbundle.transforms import PrepareCase

SETTINGS = {
    "class_names": ["background", "liver"],
    "patch_size": [8, 8, 8],
    "intensity": {"method": "zscore"},
    "fold": 0,
}


@from_settings
def volume(patch_size, batch_size=1, *factors, spacing=2.0, **others):
    return patch_size, batch_size, factors, spacing, others


def test_given_arguments_take_precedence():
    assert volume([1], settings={"patch_size": [2], "batch_size": 3}) == ([1], 3, (), 2.0, {})
    assert volume(patch_size=[1], settings={"patch_size": [2]}, spacing=1.0)[0] == [1]
    assert volume([1], None, settings={"batch_size": 3, "spacing": 4.0})[1:4:2] == (None, 4.0)


def test_settings_that_are_no_arguments_are_ignored():
    assert volume([1], settings={"seed": 3, "others": 1, "factors": 2}) == ([1], 1, (), 2.0, {})


def test_missing_and_unknown_arguments_raise():
    with pytest.raises(TypeError, match="patch_size"):
        volume(settings={"batch_size": 3})
    with pytest.raises(TypeError, match="unknown"):
        PrepareCase(settings=SETTINGS, unknown=1)


def test_classes_take_settings():
    prepare = PrepareCase(settings=SETTINGS, patch_size=[16, 16, 16])
    assert prepare.settings["class_names"] == ["background", "liver"] and prepare.settings["patch_size"] == [16, 16, 16]
    assert "settings" in inspect.signature(PrepareCase).parameters
