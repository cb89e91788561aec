"""Kinds of values: the JSON schema accepts every value that the check accepts."""

import math

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbundle.config.kinds import (
    AUTO,
    NULL,
    AnyOf,
    Boolean,
    Integer,
    ListOf,
    MappingOf,
    Name,
    Number,
    OneOf,
    Orientation,
    Text,
)

KINDS = [
    AUTO, NULL, OneOf(0, 1, 2), Boolean(), Integer(), Integer(0, 4), Number(), Number(minimum=0, below=1),
    Number(above=0), Text(), Text(filled=True), Name(), ListOf(Integer(), 3), ListOf(Text()), MappingOf(),
    MappingOf(Number(minimum=0)), Orientation(), AnyOf(NULL, Integer(2)),
]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 6)
    | st.floats(-2, 2, allow_nan=False)
    | st.sampled_from(["", " ", "auto", "RAS", "LPX", "true"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@given(st.sampled_from(KINDS), VALUES)
def test_accepted_values_match_the_schema(kind, value):
    if kind.accepts(value) and not (isinstance(kind, Boolean) and value == "true"):
        assert list(jsonschema.Draft202012Validator(kind.schema()).iter_errors(value)) == []


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Integer(), True), (Integer(), 1.0), (Integer(), 0), (Integer(0, 4), 5), (Number(), True), (Number(), math.nan),
        (Number(minimum=0, below=1), 1), (Number(above=0), 0), (Text(filled=True), " "), (Name(), True), (Name(), 1.5),
        (ListOf(Integer(), 3), [1, 2]), (ListOf(Integer(), increasing=True), [1, 1]), (MappingOf(Number()), {"a": "b"}),
        (Orientation(), "RLA"), (Orientation(), "RA"), (OneOf(True, False), 1), (AnyOf(NULL, Integer()), 0),
    ],
)  # fmt: skip
def test_invalid_values_are_not_accepted(kind, value):
    assert not kind.accepts(value)
