"""MLflow logging with the interface of TensorBoard's `SummaryWriter`."""

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
_ARTIFACTS = ("task.json", "training_cases.csv", "metrics.csv", "summary.json")
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # MLflow's default waits minutes for every failed request
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the URL may contain a password
}
_LOGGERS = ("", "mlflow", "alembic", "urllib3")
"""Loggers whose handlers may show the URI of the server."""


def check_mlflow(mlflow_uri: str | None) -> None:
    """Raise an error if an MLflow server or database cannot be used. Call this function before cases are prepared.

    Args:
        mlflow_uri: URI of the MLflow server or database; None skips the check.

    Raises:
        ConfigError: MLflow is not installed, or the server or database cannot be used.

    Example:
        >>> check_mlflow(None)
    """
    if mlflow_uri is not None:
        with _connected(mlflow_uri) as client:
            client.get_experiment_by_name(_EXPERIMENT)


class MLflowWriter:
    """Writer that logs a training run to MLflow. A resumed training run continues its MLflow run.

    If MLflow fails during training, a warning is logged, nothing more is sent, and training continues. An MLflow run
    that has not been closed when the program ends has the status FAILED.

    Args:
        mlflow_uri: URI of the MLflow server or database, for instance `http://server:5000` or `sqlite:///mlflow.db`.
        output_dir: output folder of the training run. The MLflow run has the name of this folder. MLflow's ID of the
            run is saved in the folder as `mlflow_run_id`, so that a resumed training run finds its MLflow run.

    Raises:
        ConfigError: MLflow is not installed, or the MLflow run cannot be created or continued.
        OutputError: the ID of the MLflow run cannot be saved.

    Example:
        >>> writer = MLflowWriter("sqlite:///mlflow.db", Path("runs/training"))  # doctest: +SKIP
        >>> writer.add_scalar("train/loss", 0.5, step=1)  # doctest: +SKIP
        >>> writer.close()  # doctest: +SKIP
    """

    def __init__(self, mlflow_uri: str, output_dir: Path) -> None:
        self.output_dir = output_dir
        self._uri = mlflow_uri
        self._failed = False
        run_file = output_dir / _RUN_FILE
        with _connected(mlflow_uri) as self._client:
            if run_file.exists():
                self._run = run_file.read_text(encoding="utf-8")
                self._client.update_run(self._run, status="RUNNING")
                atexit.register(self._fail)
                return
            found = self._client.get_experiment_by_name(_EXPERIMENT)
            number = found.experiment_id if found else self._client.create_experiment(_EXPERIMENT)
            self._run = self._client.create_run(number, run_name=output_dir.name).info.run_id
            self._client.log_param(self._run, "output_dir", str(output_dir))
        with atomic_write(run_file) as partial:
            partial.write_text(self._run, encoding="utf-8")
        atexit.register(self._fail)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Log a scalar of an epoch.

        Args:
            name: name of the scalar, such as `train/loss`.
            value: value of the scalar.
            step: number of the epoch.
        """
        self._send(lambda: self._client.log_metric(self._run, name, float(value), step=step))

    def add_image(self, name: str, picture: Any, step: int, **_: Any) -> None:
        """Log a picture of an epoch.

        Args:
            name: name of the picture.
            picture: RGB values, uint8 (height, width, 3).
            step: number of the epoch.
            _: other arguments of `SummaryWriter.add_image`, which are ignored.
        """
        self._send(lambda: self._client.log_image(self._run, picture, key=name.replace("/", " "), step=step))

    def close(self) -> None:
        """Send the files with the task and the scores as artifacts, and end the MLflow run."""
        for path in (self.output_dir / name for name in _ARTIFACTS):
            if path.exists():
                self._send(partial(self._client.log_artifact, self._run, str(path)))
        self._send(lambda: self._client.set_terminated(self._run))
        atexit.unregister(self._fail)

    def _fail(self) -> None:
        self._send(lambda: self._client.set_terminated(self._run, status="FAILED"))

    def _send(self, call: Callable[[], Any]) -> None:
        """Send a value to MLflow, unless an earlier call failed."""
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # from MLflow, files, databases or connections
            self._failed = True
            reason = hide(str(error), self._uri)
            _logger.warning(
                "MLflow logging failed (%s). Training continues without it; TensorBoard has all values.", reason
            )


@contextmanager
def _connected(mlflow_uri: str) -> Iterator[Any]:
    """Yield MLflow's client, and turn its errors into errors that name the config key."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import mlflow
    except ImportError as error:
        raise ConfigError("mlflow_uri: MLflow is not installed. Install it: pip install 'segbundle[mlflow]'") from error
    _hide_in_logs(mlflow_uri)
    try:
        yield mlflow.MlflowClient(mlflow_uri)
    except Exception as error:  # from MLflow, files, databases or connections
        shown, reason = hide(mlflow_uri, mlflow_uri), hide(str(error), mlflow_uri)
        raise ConfigError(
            f"mlflow_uri: {shown} cannot be used: {reason.rstrip('.')}. Check the URI, the credentials and the server, "
            "or set mlflow_uri to null."
        ) from error


class _HidingFilter(logging.Filter):
    """Filter that hides the credentials of a URI in log lines."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        hidden = hide(text, self.address)
        if hidden != text:
            record.msg, record.args = hidden, ()
        if record.exc_info:
            shown = record.exc_text or "".join(  # perhaps formatted by another handler
                traceback.format_exception(*record.exc_info)
            )
            record.exc_text = hide(shown, self.address)
        return True


def _hide_in_logs(address: str) -> None:
    """Hide the credentials of a URI in the log lines of MLflow and its dependencies."""
    for handler in [handler for name in _LOGGERS for handler in logging.getLogger(name).handlers]:
        if not any(isinstance(known, _HidingFilter) and known.address == address for known in handler.filters):
            handler.addFilter(_HidingFilter(address))
