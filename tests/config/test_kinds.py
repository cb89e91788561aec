"""Kinds of values: what a check accepts, its JSON schema accepts as well."""

import math

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segbundle.config.kinds import (
    AUTO,
    NULL,
    AnyOf,
    ListOf,
    MappingOf,
    Name,
    Number,
    OneOf,
    Orientation,
    Switch,
    Text,
    Whole,
)

KINDS = [
    AUTO, NULL, OneOf(0, 1, 2), Switch(), Whole(), Whole(0, 4), Number(), Number(least=0, below=1), Number(above=0),
    Text(), Text(filled=True), Name(), ListOf(Whole(), 3), ListOf(Text()), MappingOf(), MappingOf(Number(least=0)),
    Orientation(), AnyOf(NULL, Whole(2)),
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
def test_values_that_are_accepted_fit_the_schema(kind, value):
    if kind.accepts(value) and not (isinstance(kind, Switch) and value == "true"):
        jsonschema.validate(value, kind.schema())


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Whole(), True), (Whole(), 1.0), (Whole(), 0), (Whole(0, 4), 5), (Number(), True), (Number(), math.nan),
        (Number(least=0, below=1), 1), (Number(above=0), 0), (Text(filled=True), " "), (Name(), True), (Name(), 1.5),
        (ListOf(Whole(), 3), [1, 2]), (ListOf(Whole(), increasing=True), [1, 1]), (MappingOf(Number()), {"a": "b"}),
        (Orientation(), "RLA"), (Orientation(), "RA"), (OneOf(True, False), 1), (AnyOf(NULL, Whole()), 0),
    ],
)  # fmt: skip
def test_values_that_are_not_accepted(kind, value):
    assert not kind.accepts(value)
