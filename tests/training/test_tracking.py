"""MLflow writer with a real MLflow database."""

import subprocess
import sys

import numpy as np
import pytest

from segbundle.errors import ConfigError
from segbundle.training.tracking import MLflowWriter, check_mlflow

mlflow = pytest.importorskip("mlflow")


@pytest.mark.slow
def test_resumed_training_continues_its_run(tmp_path):
    uri, out = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "spleen"
    out.mkdir()
    (out / "summary.json").write_text('{"mean_dice": 0.5}')
    client = mlflow.MlflowClient(uri)
    client.create_experiment("segbundle", artifact_location=(tmp_path / "artifacts").as_uri())
    for epoch in (1, 2):
        writer = MLflowWriter(uri, out)
        writer.add_scalar("train/loss", 1 / epoch, epoch)
        writer.add_image("validation/case", np.zeros((8, 8, 3), np.uint8), epoch)
        writer.close()
    (run,) = client.search_runs([client.get_experiment_by_name("segbundle").experiment_id])
    assert run.info.run_name == "spleen" and run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"summary.json", "images"}


@pytest.mark.slow
def test_unknown_run_error_names_the_config_key(tmp_path):
    (tmp_path / "mlflow_run_id").write_text("0" * 32)
    with pytest.raises(ConfigError, match=r"^mlflow_uri: sqlite:.* cannot be used: .*0000"):
        MLflowWriter(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)


@pytest.mark.slow
def test_unreachable_server_raises(tmp_path):
    check_mlflow(None)
    check_mlflow(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ConfigError, match=r"^mlflow_uri: nowhere://x cannot be used: "):
        check_mlflow("nowhere://x")


@pytest.mark.slow
def test_training_continues_without_mlflow_and_warns_once(tmp_path, caplog):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    writer = MLflowWriter(uri, tmp_path)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("segbundle").experiment_id])
    client.delete_run(run.info.run_id)
    writer.add_scalar("train/loss", 1.0, 1)
    writer.add_scalar("train/loss", 0.5, 2)
    client.restore_run(run.info.run_id)
    writer.add_scalar("train/loss", 0.4, 3)  # too late
    writer.close()
    assert caplog.text.count("MLflow logging failed") == 1
    assert client.get_metric_history(run.info.run_id, "train/loss") == []


@pytest.mark.e2e
def test_unclosed_run_has_failed(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = "import sys, pathlib, segbundle.training.tracking as t; t.MLflowWriter(sys.argv[1], pathlib.Path('.'))"
    subprocess.run([sys.executable, "-c", code, uri], check=True, cwd=tmp_path)
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("segbundle").experiment_id])
    assert run.info.status == "FAILED"
