"""Command-line options, and the types of their values."""

import math
from pathlib import Path

import pytest

from segbundle.config.options import default_configs, join_switches, split_overrides, switches_of, task_file
from segbundle.config.settings import TEXT_KEYS
from segbundle.errors import ConfigError

ODD = ["$print(1)", "@output_dir", "%x.yaml::a", "a#b", "a::b", "a@b%c", "[x]", "{a: 1}", "null", "true", "1e3", "2024"]
ODD += ["a b", "it's", '"', "line\nbreak", "\udcff\udcfe", "(1, 2)", "0x10", "-x", "=", ""]


def value(key, text):
    (found,) = split_overrides([f"--{key}={text}"])[1].values()
    return found


@pytest.mark.parametrize("text", ODD)
@pytest.mark.parametrize("key", ["dataset_dir", "output_dir", "bundle_root", "data_list_key"])
def test_paths_and_names_are_text(key, text):
    assert value(key, text) == text
    assert value(f"train#dataset#{key}", text) == text


@pytest.mark.parametrize("key", sorted(TEXT_KEYS))
def test_only_optional_paths_can_be_null(key):
    assert value(key, "null") == (
        None if key in ("cache_dir", "ckpt_path", "mlflow_uri", "groups", "splits") else "null"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT", "CT"),
        ("7", 7),
        ("null", None),
        ("T1, T2", "T1, T2"),
        ("thorax, 3 mm", "thorax, 3 mm"),
        ("2, 3", "2, 3"),
        ("[MR, *thorax*]", ["MR", "*thorax*"]),
        ("['thorax, 3 mm', 2]", ["thorax, 3 mm", "2"]),
    ],
)
def test_text_with_commas_may_be_one_description(text, expected):
    assert value("series", text) == expected


@pytest.mark.parametrize("name", [name for name in ODD if name and not set(name) & set("'\"\n=")])
def test_class_names_are_text(name):
    bare = [name] if name not in ("(1, 2)",) else ["(1", "2)"]
    assert value("class_names", f"[background, {name}]") == ["background", *bare]
    assert value("class_names", f'["background", "{name}"]') == ["background", name]


def test_quoted_names_may_contain_commas():
    assert value("class_names", "['a, b', \"c\"]") == ["a, b", "c"]
    assert value("largest_component", "[1, liver]") == ["1", "liver"]
    assert value("largest_component", "true") is True
    assert value("class_names", "[]") == []
    assert value("class_names", '["a" b, , c,]') == ['"a" b', "", "c"]
    assert value("class_names", f"[a{' ' * 100_000}b]") == [f"a{' ' * 100_000}b"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("1e-3", 1e-3),
        ("(8, 8)", [8, 8]),
        ("{a: null, b: [true, 1]}", {"a": None, "b": [True, 1]}),
        (".inf", math.inf),
        ("a#b", "a#b"),
        ("[1, 2] # three", "[1, 2] # three"),
        ("b'x'", "b'x'"),
        ("{1, 2}", "{1, 2}"),
        ("1j", "1j"),
        ("{[1]: 2}", "{[1]: 2}"),
        ("[" * 5000, "[" * 5000),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_other_values_are_parsed_like_yaml(text, meaning):
    assert value("x", text) == meaning


def test_switch_takes_no_text_value():
    words = ["--resume", "--skip_air", "true", "true", "--fast", "a.nii"]
    plain, pairs = split_overrides(words, switches={"resume", "skip_air", "fast"})
    assert plain == ["true", "a.nii"]
    assert pairs == {"resume": True, "skip_air": True, "fast": True}
    assert split_overrides(["--largest_component", "[liver]"], {"largest_component"})[1] == {
        "largest_component": ["liver"]
    }
    assert switches_of({"resume": False, "seed": 0, "cache_dir": None}) == {"resume"}


def test_words_after_two_dashes_are_plain():
    assert split_overrides(["a", "--x", "1", "--", "-b", "--c", "--"]) == (["a", "-b", "--c", "--"], {"x": 1})


@pytest.mark.parametrize(
    ("words", "joined"),
    [
        (["a", "--resume", "true", "--skip_air", "true"], ["a", "--resume", "--skip_air", "true"]),
        (["--skip_air", "true", "--resume"], ["--skip_air", "true", "--resume"]),
        (["--resume", "false", "a"], ["a"]),
        (["--resume=True"], ["--resume"]),
        (["--resume=false"], []),
        (["--resume=x"], ["--resume=x"]),
        (["--resume", "truely"], ["--resume", "truely"]),
        (["a", "--", "--resume", "true"], ["a", "--", "--", "--resume", "true"]),
    ],
)
def test_join_switches(words, joined):
    assert join_switches(words, {"--resume"}) == joined


@pytest.mark.parametrize("word", ["--=x", "--#=x", "---", "-x"])
def test_options_without_a_name_raise(word):
    if word == "---":
        assert split_overrides([word])[1] == {"-": True}  # rejected later as an unknown key
        return
    with pytest.raises(ConfigError, match="unknown option"):
        split_overrides([word])


def test_included_task_files_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    included = task_file(Path("configs/phantom.yaml"))
    assert included == default_configs() / "phantom.yaml" and included.is_file()
    for other in (
        "phantom.yaml",
        "configs/unknown.yaml",
        "x/configs/phantom.yaml",
        str(tmp_path / "configs/phantom.yaml"),
    ):
        assert task_file(Path(other)) == Path(other)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "phantom.yaml").write_text("max_epochs: 1")
    assert task_file(Path("configs/phantom.yaml")) == Path("configs/phantom.yaml")  # the user's own comes first
