"""Training, evaluation and inference by command, and the files that they write."""

import csv
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from commands import ROOT, TINY, monai_bundle, segbundle


def scores(folder):
    return json.loads((folder / "summary.json").read_text()), list(csv.DictReader((folder / "metrics.csv").open()))


def test_training_writes_the_documented_files(trained):
    assert {path.name for path in trained.iterdir()} >= {
        "model.pt",
        "last.pt",
        "metrics.csv",
        "summary.json",
        "task.json",
        "training_cases.csv",
        "tensorboard",
    }
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in weights.values())
    summary, rows = scores(trained)
    assert summary["cases"] == 2
    assert len(rows) == 4
    assert summary["mean_dice"] > 0.5
    assert any(path.name.startswith("events") for path in (trained / "tensorboard").iterdir())


def test_log_has_one_line_per_epoch_and_validation(trained):
    lines = [line for line in (trained / "stdout.txt").read_text().splitlines() if re.search(r" epoch \d+/60", line)]
    assert list(dict.fromkeys(line.split()[3] for line in lines)) == [f"{epoch}/60" for epoch in range(1, 61)]
    validations = [line for line in lines if "mean Dice" in line]
    assert [line.split()[3] for line in validations] == ["16/60", "32/60", "48/60", "60/60"]
    assert "ball" in validations[0]


def test_evaluation_of_the_fold_equals_validation(trained, dataset, tmp_path):
    done = monai_bundle(
        "evaluate", "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path, "--fold", 0
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (summary, rows), (trained_summary, trained_rows) = scores(tmp_path), scores(trained)
    assert summary["mean_dice"] == trained_summary["mean_dice"]
    measured = ("hd95_mm", "nsd", "components_ref", "components_pred")  # a training leaves them to the evaluation
    assert all(row[key] for row in rows for key in measured)
    assert trained_rows == [row | dict.fromkeys(measured, "") for row in rows]
    assert "have the names of training cases" not in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.split()[:1] == ["ball"])
    assert row.split()[1] == f"{scores(tmp_path)[0]['classes']['ball']['dice_mean']:.4f}"


def test_report_shows_command_and_configuration(trained, dataset, tmp_path):
    done = monai_bundle(
        "evaluate", "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path, "--fold", 0
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made_by = json.loads((tmp_path / "run.json").read_text())
    assert made_by["config"]["ckpt_path"] == str(trained / "model.pt")
    assert made_by["config"]["network_def"]["_target_"] == "DynUNet"
    assert re.fullmatch(r"python[\d.]* -m monai.bundle run .* --fold 0", made_by["command"])
    assert len(made_by["cases"]) == 2
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('<svg class="slice"') == 2 * 2 * 3  # two cases of two classes in three planes
    assert "validation mean Dice over epochs" in text  # the curves of the training, found in the folder of the model
    assert made_by["data_fingerprint"] in text
    done = segbundle("report", tmp_path, trained, "--output", tmp_path / "comparison.html")
    assert done.returncode == 0, done.stderr
    assert "Over the 2 cases" in (tmp_path / "comparison.html").read_text(encoding="utf-8")
    done = segbundle("predict", dataset / "imagesTs", "--config", TINY, "--ckpt_path", trained / "model.pt",
                     "--output_dir", tmp_path / "predictions")  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = segbundle("report", tmp_path / "predictions")
    assert done.returncode == 0, done.stderr
    assert "2 scans predicted" in (tmp_path / "predictions" / "report.html").read_text(encoding="utf-8")
    done = segbundle("report", dataset)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "contains neither metrics.csv nor predictions.json. Give the output_dir" in done.stderr


def test_deep_supervision_needs_one_option_for_training_only(dataset, tmp_path):
    deep = ("--network_def#deep_supervision", "true", "--network_def#filters", "[4, 8, 8, 8]",
            "--network_def#kernel_size", "[3, 3, 3, 3]", "--network_def#strides", "[1, 2, 2, 2]",
            "--network_def#upsample_kernel_size", "[2, 2, 2]", "--network_def#deep_supr_num", "2")  # fmt: skip
    done = segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "run", *deep)
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path / "run")[0]["mean_dice"] > 0.5
    for name, options in {"same": deep, "without": (*deep, "--network_def#deep_supervision", "false")}.items():
        done = segbundle("evaluate", "--config", TINY, "--dataset_dir", dataset, "--fold", 0, "--output_dir",
                         tmp_path / name, "--ckpt_path", tmp_path / "run" / "model.pt", *options)  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert scores(tmp_path / name)[0]["mean_dice"] == scores(tmp_path / "run")[0]["mean_dice"]
    model = tmp_path / "run" / "model.pt"
    done = segbundle("predict", dataset / "imagesTs", "--config", TINY, "--ckpt_path", model, "--ckpt_path", model,
                     "--output_dir", tmp_path / "ensemble", *deep)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "run", *deep,
                     "--resume", "--max_epochs", "61")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", tmp_path / "run", *deep,
                     "--resume", "--max_epochs", "62", "--network_def#deep_supervision", "false")  # fmt: skip
    assert "last.pt (network): does not fit the network: layers that the network does not have" in done.stderr


def test_dice_in_the_report_equals_dice_by_hand(trained, dataset, tmp_path):
    done = segbundle(
        "evaluate", "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path,
        "--config", TINY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of the 6 cases have the names of training cases of" in done.stdout
    made_by = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert made_by["trained_on"] == json.loads((trained / "task.json").read_text())["training_cases"]
    assert len(made_by["chosen_by"]) == 2  # the validation fold of the training
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "trained on 4 of these 6 cases" in text
    assert "The epoch of the model was selected by its Dice on 2 of these 6 cases" in text
    summary, rows = scores(tmp_path)
    assert summary["cases"] == 6  # without a fold, every labeled case
    assert len(rows) == 12
    for row in rows:
        index = ["background", "ball", "cube"].index(row["class"])
        label = nib.load(dataset / "labelsTr" / f"{row['case']}.nii.gz")
        voxel_ml, ref = np.prod(label.header.get_zooms()) / 1000, np.asarray(label.dataobj) == index
        pred = np.asarray(nib.load(tmp_path / f"{row['case']}_seg.nii.gz").dataobj) == index
        assert float(row["dice"]) == pytest.approx(2 * (ref & pred).sum() / (ref.sum() + pred.sum()), abs=1e-6)
        assert float(row["volume_ref_ml"]) == pytest.approx(ref.sum() * voxel_ml, abs=1e-6)
        assert float(row["volume_pred_ml"]) == pytest.approx(pred.sum() * voxel_ml, abs=1e-6)


def test_predictions_use_training_cases_and_a_separate_folder(trained, dataset, tmp_path):
    words = ("predict", dataset / "imagesTs", "--config", TINY, "--ckpt_path", trained / "model.pt", "--output_dir")
    assert segbundle(*words, tmp_path / "out").returncode == 0
    copied = (tmp_path / "out" / "training_cases.csv").read_text(encoding="utf-8-sig")
    assert copied == (trained / "training_cases.csv").read_text(encoding="utf-8-sig")
    assert len(copied.splitlines()) == 1 + 4 * 2
    made_by = (tmp_path / "out" / "run.json").read_bytes()
    assert segbundle("report", tmp_path / "out").returncode == 0
    assert segbundle(*words, tmp_path / "out", "--resume").returncode == 0
    assert (tmp_path / "out" / "run.json").read_bytes() == made_by  # all scans were finished
    assert (tmp_path / "out" / "report.html").exists()
    assert segbundle(*words, tmp_path / "out").returncode == 0
    assert not (tmp_path / "out" / "report.html").exists()  # the report described the previous label maps
    (tmp_path / "out" / "metrics.csv").write_text("")
    done = segbundle(*words, tmp_path / "out")
    assert done.returncode == 1
    assert f"{tmp_path / 'out'}: contains scores of an evaluation. Choose another --output_dir" in done.stderr


def test_evaluation_of_the_test_list(trained, dataset, tmp_path):
    done = monai_bundle(
        "evaluate", "--dataset_dir", dataset, "--data_list_key", "test",
        "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert {row["case"] for row in scores(tmp_path)[1]} == {"test_00", "test_01"}


def test_inference_on_a_folder_a_file_and_a_list(trained, dataset, tmp_path):
    images = dataset / "imagesTr"
    done = monai_bundle(
        "inference", "--dataset_dir", images, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path / "folder"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.name for path in (tmp_path / "folder").iterdir())
    others = [".lock", ".segbundle-files.jsonl", "predictions.json", "run.json", "training_cases.csv"]
    written = [f"case_{i:02d}_seg.{suffix}" for i in range(6) for suffix in ("nii.gz", "json")]
    assert names == sorted([*others, *written])
    done = segbundle(
        "predict", images / "case_01.nii.gz", dataset / "imagesTs", "--ckpt_path", trained / "model.pt",
        "--config", TINY, "--output_dir", tmp_path / "list", "--overlap", "0.5",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.name for path in (tmp_path / "list").iterdir())
    labels = [f"{name}_seg.{end}" for name in ("case_01", "test_00", "test_01") for end in ("nii.gz", "json")]
    assert names == sorted([*others, *labels])
    one, other = (tmp_path / folder / "case_01_seg.nii.gz" for folder in ("folder", "list"))
    np.testing.assert_array_equal(np.asarray(nib.load(one).dataobj), np.asarray(nib.load(other).dataobj))
    np.testing.assert_array_equal(nib.load(one).affine, nib.load(images / "case_01.nii.gz").affine)


def test_same_seed_gives_identical_weights(trained, dataset, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    for out, seed in ((again, 0), (other, 1)):
        done = segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, "--seed", seed)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("model.pt", "last.pt"):
        one, two, three = (torch.load(d / name, weights_only=True) for d in (trained, again, other))
        one, two, three = (w.get("network", w) for w in (one, two, three))
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert not all(torch.equal(one[key], three[key]) for key in one)


def test_metrics_and_slices_are_logged_to_mlflow(dataset, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    number = client.create_experiment("segbundle", artifact_location=(tmp_path / "artifacts").as_uri())
    quick = ["--dataset_dir", dataset, "--output_dir", tmp_path / "run", "--val_interval", "1", "--mlflow_uri", uri]
    for more in (["--max_epochs", "1"], ["--max_epochs", "2", "--resume", "true"]):
        done = segbundle("train", "--config", TINY, *quick, *more)
        assert done.returncode == 0, done.stdout + done.stderr
    (run,) = client.search_runs([number])
    for name in ("train/loss", "train/learning_rate", "train/gradient_norm", "validation/mean_dice"):
        assert [figure.step for figure in client.get_metric_history(run.info.run_id, name)] == [1, 2]
    assert run.data.metrics["validation/mean_dice"] == pytest.approx(scores(tmp_path / "run")[0]["mean_dice"])
    kept = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert kept == {"images", "task.json", "training_cases.csv", "metrics.csv", "summary.json"}


def test_null_on_the_command_line_is_null(dataset, tmp_path):
    quick = ["--dataset_dir", dataset, "--output_dir", tmp_path / "a", "--max_epochs", "1"]
    done = segbundle("train", "--config", TINY, *quick, "--fold", "null")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path / "a")[0]["cases"] == 6
    quick[3] = tmp_path / "b"
    done = monai_bundle("train", *quick, "--fold", "$None")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path / "b")[0]["cases"] == 6


def test_several_channels_and_other_formats(dataset, tmp_path):
    """Train and predict two-channel cases in nnU-Net's layout, one of them as NRRD."""
    import SimpleITK as sitk

    raw = tmp_path / "raw"
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for image in sorted((dataset / "imagesTr").iterdir()):
        name = image.name.removesuffix(".nii.gz")
        shutil.copy(dataset / "labelsTr" / image.name, raw / "labelsTr")
        for channel in (0, 1):
            sitk.WriteImage(sitk.ReadImage(str(image)), str(raw / "imagesTr" / f"{name}_{channel:04d}.nrrd"))
    channels = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "ball": 1, "cube": 2}}
    (raw / "dataset.json").write_text(json.dumps(channels))
    two = ["--config", TINY, "--network_def#in_channels", "2"]
    done = segbundle("train", *two, "--dataset_dir", raw, "--output_dir", tmp_path / "run", "--max_epochs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    (raw / "imagesTr" / "case_03_0001.nrrd").unlink()
    done = segbundle(
        "predict",
        raw / "imagesTr",
        *two,
        "--ckpt_path",
        tmp_path / "run" / "model.pt",
        "--output_dir",
        tmp_path / "out",
    )
    assert done.returncode == 1
    assert "1 of 6 scans failed (case_03)" in done.stderr
    assert "case_03_0001.nrrd: no such file" in done.stdout
    one = nib.load(tmp_path / "out" / "case_00_seg.nii.gz")
    np.testing.assert_allclose(one.affine, nib.load(dataset / "imagesTr" / "case_00.nii.gz").affine)
    assert one.shape == (20, 18, 16)


def test_evaluation_does_not_replace_scores_of_a_training(trained, dataset):
    done = segbundle(
        "evaluate", "--config", TINY, "--dataset_dir", dataset, "--ckpt_path", trained / "model.pt",
        "--output_dir", trained,
    )  # fmt: skip
    assert done.returncode == 1
    assert "contains a training run. Choose another --output_dir" in done.stderr


def test_training_with_monai_transforms_and_loader(dataset, tmp_path):
    overlay = ROOT / "configs" / "monai_transforms.yaml"
    words = ["--config", TINY, "--config", overlay, "--dataset_dir", dataset, "--max_epochs", 40, "--val_interval", 40]
    done = segbundle("train", *words, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["mean_dice"] > 0.3


def test_second_training_reuses_the_case_cache(dataset, tmp_path):
    words = ["--config", TINY, "--dataset_dir", dataset, "--max_epochs", 1, "--cache_dir", tmp_path / "cache"]
    for fold, new in ((0, 4), (1, 2)):
        done = segbundle("train", *words, "--output_dir", tmp_path / f"fold_{fold}", "--fold", fold)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"prepared cases: 4 files in {tmp_path / 'cache'}, {new} of them new" in done.stdout
