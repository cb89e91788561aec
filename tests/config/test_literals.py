"""Text that MONAI's parser returns unchanged."""

import pytest
from monai.bundle import ConfigParser

from segbundle.config.literals import literal, protect, protect_text, restore
from segbundle.errors import ConfigError

TEXTS = ["$print(1)", "$import os", "@b", "@a#b", "@#b", "%b", "%x.yaml::a", "a#b", "a::b", "x@##b", "$", "@", "%", "#"]
TEXTS += ["a@b%c", 'it\'s "$"\n#', "\udcff#", "#" * 10_000, "plain", ""]


def parsed(value):
    parser = ConfigParser({"b": 7, "x": value, "y": ["@x"]})
    return parser.get_parsed_content("x"), parser.get_parsed_content("y")


@pytest.mark.parametrize("text", TEXTS)
def test_protected_text_is_unchanged_by_parser(text):
    nested = {"one": [text, {"two": text}], f"key {text}": [text, 1, None, True, 0.5]}
    for value in (text, [text, [text]], {"a": text}, nested):
        assert parsed(protect(value)) == (value, [value])
        assert restore(protect(value)) == value


def test_arguments_of_components_are_protected():
    value = protect({"_target_": "builtins.dict", "x": "$1 + 1", "y": (1, 2)})
    assert parsed(value)[0] == {"x": "$1 + 1", "y": [1, 2]}


def test_target_with_special_characters_is_not_evaluated():
    with pytest.raises(ModuleNotFoundError, match="print"):
        parsed(protect({"_target_": "$print(1)"}))


@pytest.mark.parametrize("text", ["a#b", "http://host/#/x", "@home/x#1", "x @#b"])
def test_number_signs_in_yaml_text_are_kept(text):
    assert parsed(protect_text([text]))[0] == [text]


@pytest.mark.parametrize("text", ["$'a#b'", "@b", "@#x", "%b", "@optimizer#lr", "plain"])
def test_yaml_expressions_and_references_are_unchanged(text):
    assert protect_text({"a": [text]}) == {"a": [text]}


@pytest.mark.parametrize("content", ["xyz", "00", None, "5b" * 10_000])
def test_invalid_literal_raises(content):
    with pytest.raises(ConfigError, match="Write the value itself"):
        literal(content)
