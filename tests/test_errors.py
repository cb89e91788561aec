import os
import subprocess
import sys

import pytest
from monai.bundle import ConfigParser

from segbundle.errors import ConfigError, DataError, describe, one_line, root_error, show_error, suggestion


def wrapped(error):
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("applying transform") from inner
    except RuntimeError as outer:
        return outer


def test_segbundle_error_is_found_in_chain():
    assert describe(wrapped(DataError("a.nii: broken"))) == "a.nii: broken"


def test_other_errors_are_unchanged():
    error = wrapped(KeyError("x"))
    assert root_error(error) is error
    assert describe(error) == "KeyError: 'x'"  # the first cause, not the wrapping error


def test_memory_addresses_are_removed():
    assert describe(RuntimeError("NrrdImageIO(0x7f139c00b3b0): no")) == "RuntimeError: NrrdImageIO: no"
    assert describe(ValueError("<A object at 0x7f139c00b3b0> and 0x12")) == "<A object> and 0x12"


def program(lines, **more):
    code = "from segbundle.errors import *; show_plain_errors()\n" + lines
    env = {**os.environ, **more}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


@pytest.mark.e2e
def test_program_ends_with_message_only():
    done = program("try:\n  raise DataError('a.nii: broken')\nexcept Exception as e:\n  raise RuntimeError('x') from e")
    assert (done.returncode, done.stderr) == (1, "Error: a.nii: broken\n")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (<string>, line 2)"),
        ("raise MemoryError", "MemoryError (<string>, line 2)"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded (<string>, line 2)"),
        ("b'\\xff'.decode()", "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0"),
        ("try:\n  {}['a']\nexcept KeyError as e:\n  raise RuntimeError('x') from e", "KeyError: 'a'"),
    ],
)
def test_program_ends_with_first_cause(lines, message):
    done = program(lines)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {message}") and done.stderr.count("\n") == 1
    assert "SEGBUNDLE_TRACEBACK=1" in done.stderr


@pytest.mark.e2e
def test_traceback_on_request():
    done = program("1 / 0", SEGBUNDLE_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("Error: ZeroDivisionError")


@pytest.mark.e2e
def test_keyboard_interrupt_has_no_traceback():
    assert program("raise KeyboardInterrupt").stderr == "Stopped.\n"


def test_file_errors_have_no_traceback(capsys):
    show_error(FileNotFoundError(2, "No such file or directory", "a.txt"))
    assert capsys.readouterr().err == "Error: [Errno 2] No such file or directory: 'a.txt'\n"


def raise_error(error):
    raise error


@pytest.mark.parametrize(
    ("config", "key", "message"),
    [
        (
            {"a": {"_target_": "builtins.int", "x": 1}},
            "a",
            r"config key 'a' \(builtins.int\) cannot be created with x=1: "
            r"'x' is an invalid keyword argument for int\(\)",
        ),
        (
            {"a": {"_target_": "torch.nn.Conv3d", "in_channels": 1}},
            "a",
            "cannot be created with in_channels=1: Conv3d missing 2 required positional arguments: 'out_channels' and",
        ),
        (
            {"a": {"_target_": "torch.nn.Conv3d", "in_channel": 1}},
            "a",
            "cannot be created with in_channel=1: Conv3d has no argument 'in_channel'",
        ),
        ({"a": {"_target_": "no.Thing"}}, "a", "config key 'a': Cannot locate class or function path: 'no.Thing'"),
        ({"a": {"b": "$1 / 0"}}, "a", "config key 'a#b': its expression cannot be evaluated: ZeroDivisionError"),
        ({"a": "$("}, "a", "config key 'a' cannot be read: SyntaxError"),
        ({"a": "@b"}, "a", "config key 'a' cannot be read: the referring item `@b` is not defined"),
        ({"a": "@b", "b": "@a"}, "a", "config key 'b' cannot be read: detected circular references"),
        ({"a": "%b"}, "a", "configuration cannot be read: KeyError"),
        ({"run": ["$1 / 0"]}, "run::0", "config key 'run#0': its expression cannot be evaluated"),
    ],
)
def test_configuration_errors_name_the_key(config, key, message):
    with pytest.raises(Exception) as caught:
        ConfigParser(config).get_parsed_content(key)
    root = root_error(caught.value)
    assert isinstance(root, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise root


def test_workflow_errors_are_not_configuration_errors():
    work = {"_target_": "test_errors.raise_error", "_mode_": "callable", "error": MemoryError()}
    with pytest.raises(RuntimeError) as caught:
        ConfigParser({"work": work, "run": ["$@work()"]}).get_parsed_content("run::0")
    assert root_error(caught.value) is caught.value
    assert describe(caught.value) == "MemoryError"


def test_long_messages_are_shortened():
    message = str(DataError("a.nii: " + "x" * 2000 + " Convert it."))
    assert len(message) <= 800 and message.startswith("a.nii: x") and message.endswith("x Convert it.")
    lines = str(DataError("\n".join(f"file {number}" for number in range(100)))).splitlines()
    assert lines == ["file 0", "file 1", "file 2", "... and 97 more lines"]
    known = [f"class_{number:03}" for number in range(118)]
    assert suggestion("xyz", known).endswith("class_011 and 106 more.")


def test_suggestion_without_close_match():
    assert suggestion("xyz", ["b", "a"]) == ": expected one of a, b."
    assert suggestion("max_epoch", ["min_size", "max_epochs"]) == ": did you mean 'max_epochs'?"


def test_out_of_memory_message():
    text = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 108000000000 bytes. Error code 12 (Cannot allocate memory)"
    )
    assert one_line(RuntimeError(text)) == "out of memory: another 108 GB are needed"
