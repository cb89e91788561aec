"""JSON and YAML files: valid files, and one-line errors that name the file."""

import pytest

from segbundle.errors import CheckpointError, ConfigError, DataError
from segbundle.files.documents import MAX_YAML_BYTES, read_json, read_yaml, validate

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB, "values after the expansion of YAML aliases (*name), more than 100,000"),
        ("a: &a [*a]", "an alias refers to itself"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: 1\nb: 2\na: 3", "key 'a' is given twice"),
        ("- 1", "must contain keys and values"),
        ("", "must contain keys and values"),
        ("1: 2", "key 1 is not text"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("a: 2001-13-45", "is not valid YAML"),
        ("{[1]: 2}", "is not valid YAML"),
        ("a: [1", "is not valid YAML"),
        ("näme: 1".encode("latin-1"), "is not UTF-8 text (byte 1 is 0xe4)"),
        ("a: x\n" + "#" * MAX_YAML_BYTES, "more than the limit of 1,000,000"),
    ],
)
def test_invalid_yaml_raises_in_one_line(content, reason, tmp_path):
    path = write(tmp_path / "task.yaml", content)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_yaml_1_2_numbers(tmp_path):
    path = write(tmp_path / "task.yaml", "\ufefflr: 1e-3\nsizes: [1E5, .5e3, 12e, e5]\nbase: &b {x: 1}\ncopy: *b")
    content = read_yaml(path)
    assert content == {"lr": 1e-3, "sizes": [1e5, 5e2, "12e", "e5"], "base": {"x": 1}, "copy": {"x": 1}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not valid JSON"),
        ('{"a": NaN}', "it contains NaN"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "x"}', "a is 'x': input should be a valid integer"),
        ("[1]", "the content is [1]: input should be a valid dictionary"),
        ('{"\\ud800": 1}', "surrogates not allowed"),
        (b"\xff\xfe{", "is not UTF-8 text"),
    ],
)
def test_invalid_json_raises_in_one_line(content, reason, tmp_path):
    path = write(tmp_path / "task.json", content)
    with pytest.raises(CheckpointError) as caught:
        read_json(path, dict[str, int], CheckpointError)
    assert str(caught.value).startswith(f"{path}: ") and reason in str(caught.value)


def test_json_with_surrogate_pair(tmp_path):
    assert read_json(write(tmp_path / "a.json", '{"\\ud83e\\udec1": 1}'), dict[str, int]) == {"\U0001fac1": 1}


def test_json_with_byte_order_mark(tmp_path):
    assert read_json(write(tmp_path / "a.json", '\ufeff{"a": 1}'), dict[str, int]) == {"a": 1}


def test_missing_file_raises(tmp_path):
    for read in (read_json, read_yaml):
        with pytest.raises((DataError, ConfigError), match=r"nothing: no such file"):
            read(tmp_path / "nothing")


def test_long_lists_of_problems_are_shortened():
    with pytest.raises(DataError) as caught:
        validate(["x" * 500] * 10, list[int], "list.json")
    assert str(caught.value).count("input should be") == 3
    assert "7 more problems" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.slow
def test_yaml_with_too_many_values_is_refused_during_parsing(tmp_path):
    path = write(tmp_path / "a.yaml", "a: [" + "b," * 200_000 + "]")
    with pytest.raises(ConfigError, match=r"a\.yaml: contains more than 100,000 values"):
        read_yaml(path)
