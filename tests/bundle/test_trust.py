"""Commands with untrusted tasks: their code runs only with --trust."""

import shutil

from commands import ROOT, TINY, segbundle


def test_flagged_task_runs_only_if_trusted(dataset, trained, tmp_path):
    canary = tmp_path / "canary"
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"max_epochs: $1 + torch.os.system('touch {canary}')\n")
    words = [
        dataset / "imagesTs" / "test_00.nii.gz", "--config", TINY, "--config", evil,
        "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path / "out",
    ]  # fmt: skip
    done = segbundle("predict", *words)
    assert done.returncode == 1 and "add --trust" in done.stderr
    assert not canary.exists() and not (tmp_path / "out").exists()
    assert segbundle("audit", evil).returncode == 1
    assert not canary.exists()
    evil.write_text(f"spacing: $[torch.os.system('touch {canary}') + s for s in (1.0, 1.0, 1.0)]\n")
    done = segbundle("predict", *words, "--trust")
    assert done.returncode == 0, done.stderr
    assert canary.exists() and (tmp_path / "out" / "test_00_seg.nii.gz").exists()


def test_output_folder_of_training_has_no_findings(trained):
    done = segbundle("audit", trained)
    assert done.returncode == 0, done.stdout + done.stderr


def test_modules_in_a_bundle_folder_are_not_imported(dataset, trained, tmp_path):
    """MONAI adds the folder of a bundle to `sys.path`, where packages would find optional modules."""
    bundle, canary = tmp_path / "bundle", tmp_path / "canary"
    shutil.copytree(ROOT / "bundle", bundle)
    (bundle / "scripts").mkdir()
    code = f"from pathlib import Path\nPath({str(canary)!r}).touch()\n"
    (bundle / "scripts" / "__init__.py").write_text(code)
    task = tmp_path / "task.yaml"
    task.write_text("+initialize: ['$import_module(\"scripts\")']\nimport_module: '$torch.importlib.import_module'\n")
    words = [
        "predict", dataset / "imagesTs" / "test_00.nii.gz", "--config", TINY, "--ckpt_path", trained / "model.pt",
    ]  # fmt: skip
    done = segbundle(*words, "--bundle", bundle, "--output_dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert not canary.exists()
    (bundle / "not_installed.py").write_text(code)
    done = segbundle(*words, "--bundle", bundle, "--output_dir", tmp_path / "out")
    assert done.returncode == 1 and "not_installed.py" in done.stderr and not canary.exists()
