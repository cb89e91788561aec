"""Invalid values of a task YAML: a one-line message names the key before anything is created."""

import json

import pytest

from commands import TINY, invoke, monai_bundle

BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
)


@pytest.fixture
def command(dataset, trained, tmp_path):
    """Return a function that runs a command with a task YAML as overlay of the tiny task."""

    def runs(name, task, *options):
        path = tmp_path / "task.yaml"
        path.write_text(task)
        words = ["--trust", "--config", TINY, "--config", path]
        if name == "predict":
            words += [dataset / "imagesTs", "--ckpt_path", trained / "model.pt"]
        elif name == "check":
            words += [dataset]
        else:
            words += ["--dataset_dir", dataset]
        if name != "check":
            words += ["--output_dir", tmp_path / "out"]
        return invoke(name, *words, *options)

    return runs


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("train", "optimizer#lr: abc", "config key 'optimizer#lr' is 'abc'; a number or a Tensor is needed."),
        ("train", "optimizer#lr: -1", "(torch.optim.AdamW) cannot be created with lr=-1, weight_decay=0.01: Invalid"),
        ("train", "optimizer#betas: [0.9]", "betas=[0.9]"),
        ("train", "optimizer#lr: '1e-3'", "config key 'optimizer#lr' is the text '1e-3'. For a number, write 1.0e-3"),
        ("train", "optimizer#lr: .nan", "config key 'optimizer#lr' is nan; a finite number is needed."),
        ("train", "intensity: {method: window, lower: -.inf, upper: 1}", "config key 'intensity#lower' is -inf"),
        ("train", "intensity: {method: window, lower: x, upper: 1}", "intensity#lower is 'x'; a number is needed."),
        ("train", "augmentation: {rotation: x}", "augmentation#rotation is 'x'; an angle in degrees"),
        ("train", "augmentation: {rotation: -1}", "augmentation#rotation is -1; an angle in degrees"),
        ("train", "mlflow_uri: ''", "mlflow_uri is ''; a URI, for instance sqlite:///mlflow.db"),
        ("train", "augmentation: {rotations: 1}", "augmentation: unknown setting 'rotations': did you mean"),
        ("train", "loss#lambda_dice: x", "config key 'loss' (segbundle.losses.DiceCELoss) cannot be created with "),
        ("train", "loss: 5", "config key 'loss' is 5; a component (a mapping with a _target_) is needed."),
        ("train", "loss: {_target_: builtins.dict}", "config key 'train#trainer' (segbundle.training.Segmentation"),
        ("train", "train: null", "config key 'train' is None; a mapping of components is needed."),
        ("train", "train#handlers: {a: 1}", "config key 'train#handlers' is {'a': 1}; a list of components is needed"),
        ("train", "train#trainer: null", "config key 'train#trainer' is None; a component"),
        ("train", "lr_scheduler#power: [1]", "config key 'lr_scheduler#power' is [1]; a number is needed."),
        ("train", "lr_scheduler#total_iters: 0", "lr_scheduler#total_iters is 0; a positive whole number is needed."),
        (
            "train",
            "network_def#filters: [4, 8, 8, 16]",
            "has 4 entries; DynUNet needs 3, because 'network_def#strides' has 3",
        ),
        ("train", "network_def#strides: [0, 2, 2]", "the network fails for patches of patch_size [16, 16, 16] ("),
        (
            "train",
            "network_def: {_target_: os.getcwd}",
            "network_def creates a str; a torch.nn.Module is needed",
        ),
        ("train", "spacing: $[1, 1, 0]", "spacing is [1, 1, 0]; three positive sizes in mm"),
        ("train", "spacing: $1 / 0", "config key 'spacing': its expression cannot be evaluated: ZeroDivisionError"),
        ("train", "spacing: '@nothing'", "config key 'spacing' cannot be read: the referring item `@nothing` is not"),
        ("train", "spacing: '$['", "config key 'spacing' cannot be read: SyntaxError"),
        ("train", "patch_size: [1000000, 1000000, 1000000]", "a patch of 1,000,000,000,000,000,000 voxels takes about"),
        ("train", "window_size: [4096, 4096, 4096]", "window_size is [4096, 4096, 4096]: a patch of 68,719,476,736"),
        ("train", "batch_size: 1000000000000", "batch_size 1000000000000 does not fit into memory"),
        (
            "train",
            "network_def#filters: [1000000000, 8, 8]",
            "'network_def#filters#0' is 1000000000; a whole number up",
        ),
        ("train", "network_def#filters: [50000, 50000, 8]", "network_def: its weights take at least 270.0 GB"),
        ("train", "network_def#kernel_size: [1001, 3, 3]", "network_def: its weights take at least 16.0 GB"),
        ("train", "network_def#kernel_size: [101, 3, 3]", "the kernel [101, 101, 101] of layer input_block.conv1.conv"),
        ("train", "network_def#in_channels: 100000", "network_def#in_channels is 100000; a whole number of channels"),
        ("train", "network_def#spatial_dims: 2", "network_def#spatial_dims is 2; 3 is needed."),
        ("train", "num_workers: 1000000", "num_workers is 1000000; a whole number from 0 to 1024 is needed."),
        ("train", "axcodes: [[R], A, S]", "axcodes is [['R'], 'A', 'S']; a word of three letters, for instance RAS,"),
        ("predict", "axcodes: [{R: [1]}, [], S]", "axcodes is [{'R': [1]}, [], 'S']; a word of three letters"),
        (
            "predict",
            "sw_batch_size: 1000000000",
            "sw_batch_size is 1000000000; a whole number of windows from 1 to 1024",
        ),
        ("predict", "network_def#filters: [4, 8, 1000000]", "network_def: its weights take at least 108,000"),
        ("train", "spacing: [0.001, 0.001, 0.001]", "its 20 x 18 x 16 voxels of 1 x 1 x 1 mm would"),
        ("train", "seed: 1000000000000000000000000", "config key 'seed' is 1000000000000000000000000; a number below"),
        (
            "train",
            "+initialize: ['$1 / 0']",
            "config key 'initialize#13': its expression cannot be evaluated: ZeroDivisionError",
        ),
        (
            "train",
            "initialize: []",
            "task.yaml: config key 'initialize' removes or changes the step segbundle.workflow.",
        ),
        ("train", "initialize: null", "task.yaml: config key 'initialize' is None; a list of components"),
        ("predict", "initialize: []", "task.yaml: config key 'initialize' removes or changes the step segbundle.workf"),
        (
            "predict",
            "finalize: []",
            "task.yaml: config key 'finalize' removes or changes the step segbundle.workflow.d",
        ),
        (
            "evaluate",
            "finalize: []",
            "task.yaml: config key 'finalize' removes or changes the step segbundle.workflow.",
        ),
        ("cross-validate", "initialize: []", "task.yaml: config key 'initialize' removes or changes the step segb"),
        ("train", BOMB, "task.yaml: contains 1,"),
        ("predict", "patch_size: [100000, 100000, 100000]", "Choose a smaller patch_size."),
        ("predict", "inferer#overlap: abc", "config key 'inferer#overlap' is 'abc'"),
        ("predict", "records: null", "config key 'records' is None"),
        ("evaluate", "nsd_tolerance_mm: {ball: .nan, cube: 1}", "config key 'nsd_tolerance_mm#ball' is nan"),
        ("cross-validate", "num_folds: abc", "num_folds is 'abc'; a whole number from 2, or groups, is needed."),
        ("cross-validate", "class_names: null", "class_names is None; a list of names"),
        ("check", "class_names: 5", "class_names is 5; a list of names"),
        (
            "check",
            "class_names: $list('ab')",
            "class_names is \"$list('ab')\"; `segbundle check` needs a plain list of names",
        ),
        ("check", "network_def: [1]", "config key 'network_def' is [1]; a component"),
    ],
)
def test_invalid_value_is_reported_in_one_line(command, name, task, message):
    done = command(name, task)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.exit_code == 1 and len(errors) == 1, done.stderr
    assert message in errors[0] and len(errors[0]) < 520
    assert "Traceback" not in done.stderr and "SEGBUNDLE_TRACEBACK" not in done.stderr


def test_only_the_scan_with_a_too_large_grid_fails(command, tmp_path):
    assert command("predict", "max_epochs: 1", "--spacing", "[1000, 1000, 1000]").exit_code == 1
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [record["status"] for record in records] == ["failed", "failed"]
    assert "would become 1 voxel(s) of 1000 x 1000 x 1000 mm" in records[0]["error"]


def test_numbers_with_exponents_are_numbers(command, tmp_path):
    task = "optimizer#lr: 2e-2\nmax_gradient_norm: .inf\nmax_epochs: 2\nval_interval: 2\n"
    assert command("train", task).exit_code == 0
    made = json.loads((tmp_path / "out" / "run.json").read_text())["config"]
    assert (made["optimizer"]["lr"], made["max_gradient_norm"]) == (0.02, "inf")


def test_monai_command_line_explains_exponents(dataset, tmp_path):
    task = tmp_path / "task.yaml"
    task.write_text("optimizer#lr: 2e-2\n")
    words = ["--config_file", f"['{TINY.parents[2]}/bundle/configs/train.yaml','{TINY}','{task}']"]
    done = monai_bundle("train", "--dataset_dir", dataset, "--output_dir", tmp_path / "out", *words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Error: config key 'optimizer#lr' is the text '2e-2'. For a number, write 2.0e-2." in done.stderr
