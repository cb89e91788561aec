"""A training's figures in MLflow, with the calls of TensorBoard's writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segbundle.errors import ConfigError
from segbundle.files import written_whole

_RUN_FILE = "mlflow_run_id"
_KEPT = ("task.json", "metrics.csv", "summary.json")


class MLflowWriter:
    """A run of MLflow that a resumed training goes on with.

    Args:
        tracking_uri: where MLflow keeps its runs, for instance `http://server:5000` or `sqlite:///mlflow.db`.
        output_dir: the training's folder; the run is named after it, and its number is kept there.
        experiment: the runs' heading in MLflow; made if there is none.

    Raises:
        ConfigError: MLflow is not installed, or does not take what it is told.
    """

    def __init__(self, tracking_uri: str, output_dir: Path, experiment: str = "segbundle") -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError("mlflow_uri: MLflow is not installed; pip install 'segbundle[mlflow]'.") from error
        self.output_dir = output_dir
        known = output_dir / _RUN_FILE
        try:
            self._client = mlflow.MlflowClient(tracking_uri)
            if known.exists():
                self._run = known.read_text(encoding="utf-8")
                self._client.update_run(self._run, status="RUNNING")
            else:
                found = self._client.get_experiment_by_name(experiment)
                number = found.experiment_id if found else self._client.create_experiment(experiment)
                self._run = self._client.create_run(number, run_name=output_dir.name).info.run_id
                self._client.log_param(self._run, "output_dir", str(output_dir))
                with written_whole(known) as partial:
                    partial.write_text(self._run, encoding="utf-8")
        except mlflow.MlflowException as error:
            raise ConfigError(f"mlflow_uri: {tracking_uri} cannot be used: {error}") from error

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """A figure of an epoch."""
        self._client.log_metric(self._run, name, float(value), step=step)

    def add_image(self, name: str, picture: Any, step: int, **_: Any) -> None:
        """A picture of an epoch: uint8 (height, width, 3)."""
        self._client.log_image(self._run, picture, key=name.replace("/", " "), step=step)

    def close(self) -> None:
        """End the run and keep its scores beside it."""
        for name in _KEPT:
            if (path := self.output_dir / name).exists():
                self._client.log_artifact(self._run, str(path))
        self._client.set_terminated(self._run)
