"""A training's figures in MLflow, with the calls of TensorBoard's writer."""

from __future__ import annotations

import atexit
import logging
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from segbundle.credentials import hide
from segbundle.errors import ConfigError
from segbundle.files.atomic import atomic_write

_logger = logging.getLogger(__name__)
_EXPERIMENT = "segbundle"
_RUN_FILE = "mlflow_run_id"
_KEPT = ("task.json", "training_cases.csv", "metrics.csv", "summary.json")
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's own are minutes for every figure that a server does not take
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # with the password
}
_LOGGERS = ("", "mlflow", "alembic", "urllib3")
"""Whose handlers may show the address of a server."""


def check_mlflow(mlflow_uri: str | None) -> None:
    """Try MLflow before cases are prepared for a long time; None asks for none.

    Raises:
        ConfigError: MLflow is not installed, or cannot be reached.
    """
    if mlflow_uri is not None:
        with _connected(mlflow_uri) as client:
            client.get_experiment_by_name(_EXPERIMENT)


class MLflowWriter:
    """A run of MLflow that a resumed training goes on with.

    A training is worth more than its curves: once it runs and MLflow does not take something, nothing more is sent, and
    a warning says so. A run that is not closed counts as failed when the program ends.

    Args:
        mlflow_uri: where MLflow keeps its runs, for instance `http://server:5000` or `sqlite:///mlflow.db`.
        output_dir: the training's folder; the run is named after it, and its number is kept there.

    Raises:
        ConfigError: MLflow is not installed, or does not take what it is told.
    """

    def __init__(self, mlflow_uri: str, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._uri = mlflow_uri
        self._lost = False
        known = output_dir / _RUN_FILE
        with _connected(mlflow_uri) as self._client:
            if known.exists():
                self._run = known.read_text(encoding="utf-8")
                self._client.update_run(self._run, status="RUNNING")
                atexit.register(self._fail)
                return
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            number = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
            self._run = self._client.create_run(number, run_name=output_dir.name).info.run_id
            self._client.log_param(self._run, "output_dir", str(output_dir))
        with atomic_write(known) as partial:
            partial.write_text(self._run, encoding="utf-8")
        atexit.register(self._fail)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """A figure of an epoch."""
        self._send(lambda: self._client.log_metric(self._run, name, float(value), step=step))

    def add_image(self, name: str, picture: Any, step: int, **_: Any) -> None:
        """A picture of an epoch: uint8 (height, width, 3)."""
        self._send(lambda: self._client.log_image(self._run, picture, key=name.replace("/", " "), step=step))

    def close(self) -> None:
        """End the run and keep its scores beside it."""
        for path in (self.output_dir / name for name in _KEPT):
            if path.exists():
                self._send(partial(self._client.log_artifact, self._run, str(path)))
        self._send(lambda: self._client.set_terminated(self._run))
        atexit.unregister(self._fail)

    def _fail(self) -> None:
        self._send(lambda: self._client.set_terminated(self._run, status="FAILED"))

    def _send(self, call: Callable[[], Any]) -> None:
        """Do without MLflow from the first thing on that it does not take."""
        if self._lost:
            return
        try:
            call()
        except Exception as error:  # MLflow's, and those of files, databases and connections that it uses
            self._lost = True
            reason = hide(str(error), self._uri)
            _logger.warning("MLflow does not take figures (%s); the training goes on, TensorBoard has them", reason)


@contextmanager
def _connected(mlflow_uri: str) -> Iterator[Any]:
    """Yield MLflow's client; its errors become one that names the setting."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as error:
        raise ConfigError("mlflow_uri: MLflow is not installed; pip install 'segbundle[mlflow]'.") from error
    _hide_in_logs(mlflow_uri)
    try:
        yield mlflow.MlflowClient(mlflow_uri)
    except Exception as error:  # MLflow's, and those of files, databases and connections that it uses
        shown, reason = hide(mlflow_uri, mlflow_uri), hide(str(error), mlflow_uri)
        raise ConfigError(f"mlflow_uri: {shown} cannot be used: {reason}") from error


class _HidingFilter(logging.Filter):
    """Takes the secrets of an address out of log lines."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        hidden = hide(text, self.address)
        if hidden != text:
            record.msg, record.args = hidden, ()
        if record.exc_info:
            shown = record.exc_text or "".join(
                traceback.format_exception(*record.exc_info)
            )  # perhaps another handler's
            record.exc_text = hide(shown, self.address)
        return True


def _hide_in_logs(address: str) -> None:
    """Keep the secrets of an address out of log lines of MLflow and of what it uses."""
    for handler in [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]:
        if not any(isinstance(one, _HidingFilter) and one.address == address for one in handler.filters):
            handler.addFilter(_HidingFilter(address))
