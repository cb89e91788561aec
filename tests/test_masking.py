"""Names of files in messages and logs."""

import logging
import warnings

import pytest

from segbundle import masking
from segbundle.errors import DataError


@pytest.fixture(autouse=True)
def names():
    masking.hide(
        ["Doe_Jane", "M\u00fcller", "scan", "CT"], ["/x/Li"], {"/data/Doe_Jane/ct.nii": "case_1", "Li": "case_2"}
    )
    yield
    masking.show_names()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Doe_Jane: no such file", "[hidden]: no such file"),
        ("/data/Doe_Jane/ct.nii: no such file", "case_1: no such file"),
        ("/x/Li/ct.nii: no such file", "[hidden]/ct.nii: no such file"),
        ("two cases are named 'Li'; a list", "two cases are named 'case_2'; a list"),
        ("M\u00fcller_ct and xDoe_Jane", "[hidden]_ct and xDoe_Jane"),
        ("a scan of modality CT", "a scan of modality CT"),
    ],
)
def test_names_are_replaced_and_words_are_kept(text, shown):
    assert masking.masked(text) == shown


def test_long_errors_are_masked_before_they_are_shortened():
    text = str(DataError("a" * 528 + " Doe_Jane " + "b" * 900))
    assert len(text) <= 800 and "Doe" not in text


def test_logs_and_warnings_are_masked(caplog):
    logging.getLogger("anything").warning("%s failed", "Doe_Jane")
    assert caplog.messages == ["[hidden] failed"]
    assert "Doe" not in warnings.formatwarning("Doe_Jane", UserWarning, "file.py", 1, "")


def test_tracebacks_in_logs_are_masked(caplog):
    try:
        raise ValueError("Doe_Jane")
    except ValueError:
        logging.getLogger("anything").exception("failed")
    assert "Doe" not in caplog.text and "ValueError: [hidden]" in caplog.text


def test_names_are_shown_again():
    assert masking.name_of("case_2") == "Li" and masking.hides_names()
    masking.show_names()
    assert masking.masked("Doe_Jane") == "Doe_Jane" and masking.name_of("case_2") == "case_2"
