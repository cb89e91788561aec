"""Removal of passwords and tokens in addresses from text."""

import io
import logging
import sys

import pytest

from segbundle.credentials import hide, without_credentials
from segbundle.errors import ConfigError, describe, show_error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("/data/a@b?c#d.nii.gz", "/data/a@b?c#d.nii.gz"),
        ("http://me:hunter2@host:5000/path", "http://***@host:5000/path"),
        ("https://token@host", "https://***@host"),
        ("https://me:p@ss:w/rd@host", "https://***@host"),
        ("https://host/x?token=hunter2&a=b", "https://host/x?***"),
        ("https://host/#hunter2", "https://host/#***"),
        ("two: http://a:b@x, http://c:d@y failed", "two: http://***@x, http://***@y failed"),
        ("'postgresql+psycopg2://me:hunter2@db/mlflow' failed", "'postgresql+psycopg2://***@db/mlflow' failed"),
    ],
)
def test_credentials_in_text(text, shown):
    assert without_credentials(text) == shown


def test_credentials_in_configuration():
    config = {"a": ["http://me:my secret 'word'@host", 3], "b": {"c": "http://me:x y@host"}, "d": None, "e": 1.5}
    assert without_credentials(config) == {
        "a": ["http://***@host", 3],
        "b": {"c": "http://***@host"},
        "d": None,
        "e": 1.5,
    }
    words = ["train", "--mlflow_uri=http://me:my secret@host", "--loss#x", "@y"]
    assert without_credentials(words) == ["train", "--mlflow_uri=http://***@host", "--loss#x", "@y"]


@pytest.mark.parametrize(
    "text",
    [
        "the password hunter 2 is wrong",
        "hunter%202 and hunter+2",
        "with url: /?token=abc123/api/2.0/mlflow",
        "http://me:hunter%202@host/x?token=abc123",
    ],
)
def test_hide_secrets_of_known_address(text):
    shown = hide(text, "http://me:hunter%202@host/x?token=abc123")
    assert "hunter" not in shown and "abc123" not in shown and "***" in shown


def test_messages_and_tracebacks_show_no_credentials(monkeypatch):
    error = ConfigError("mlflow_uri: http://me:hunter2@host cannot be used")
    assert describe(error) == str(error) == "mlflow_uri: http://***@host cannot be used"
    monkeypatch.setenv("SEGBUNDLE_TRACEBACK", "1")
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    try:
        raise RuntimeError("http://me:hunter2@host")
    except RuntimeError as problem:
        show_error(problem)
    assert "Traceback" in shown.getvalue() and "http://***@host" in shown.getvalue()
    assert "http://me:" not in shown.getvalue()


def test_log_lines_show_no_credentials():
    pytest.importorskip("mlflow")
    from segbundle.training.tracking import check_mlflow

    stream, logger = io.StringIO(), logging.getLogger("urllib3.connectionpool")
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        with pytest.raises(ConfigError, match=r"^mlflow_uri: nowhere://\*\*\*@host cannot be used"):
            check_mlflow("nowhere://me:hunter2@host")
        logger.warning("retrying %s", "/?password=hunter2")
        try:
            raise OSError("hunter2")
        except OSError:
            logger.exception("failed")
    finally:
        logging.getLogger().removeHandler(handler)
    assert stream.getvalue().count("***") >= 2 and "OSError: ***" in stream.getvalue()
    assert "OSError: hunter2" not in stream.getvalue() and "password=hunter2" not in stream.getvalue()


@pytest.mark.parametrize("text", ["://" * 100_000, "a://" + "@" * 100_000, "://x?" * 50_000])
def test_long_texts_are_searched_in_linear_time(text):
    assert without_credentials(text)  # takes minutes if each address is searched to the end of the text
