import subprocess
import sys

from segbundle.errors import DataError, describe, root_error, suggestion


def wrapped(error):
    try:
        try:
            raise error
        except Exception as inner:
            raise RuntimeError("applying transform") from inner
    except RuntimeError as outer:
        return outer


def test_the_error_a_user_can_mend_is_found_below_others():
    assert describe(wrapped(DataError("a.nii: broken"))) == "a.nii: broken"


def test_other_errors_stay_what_they_are():
    error = wrapped(KeyError("x"))
    assert root_error(error) is error
    assert describe(error) == "RuntimeError: applying transform"


def program(lines):
    code = "from segbundle.errors import *; show_plain_errors()\n" + lines
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_program_ends_with_the_message_alone():
    done = program("try:\n  raise DataError('a.nii: broken')\nexcept Exception as e:\n  raise RuntimeError('x') from e")
    assert (done.returncode, done.stderr) == (1, "Error: a.nii: broken\n")


def test_defects_keep_their_traceback():
    done = program("1 / 0")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_suggestion_lists_what_is_known_when_nothing_is_near():
    assert suggestion("xyz", ["b", "a"]) == ": the known ones are a, b."
    assert suggestion("max_epoch", ["min_size", "max_epochs"]) == ": did you mean 'max_epochs'?"
