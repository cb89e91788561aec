"""Validation of configurations before a run."""

import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from segbundle.config.literals import protect
from segbundle.config.overlays import workflow_files
from segbundle.config.references import check_references
from segbundle.config.validation import bundle_configs, check_config, check_task
from segbundle.config.values import check_values
from segbundle.errors import ConfigError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "bundle" / "configs"


def load(name):
    return ConfigParser.load_config_files(workflow_files(CONFIGS, name))


def test_bundle_configs_merge_all_workflows():
    keys = bundle_configs(CONFIGS)
    assert {"max_epochs", "postprocessing", "dataset_dir", "initialize"} <= set(keys)
    assert "changelog" not in keys  # of metadata.json


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ({"max_epoch": 3}, "config key 'max_epoch' is not used by any workflow: did you mean 'max_epochs'"),
        ({"train#cach_rate": 1}, "config key 'train#cach_rate' is not used by any workflow"),
        ({"validate#postprocesing": 1}, "'validate#postprocesing' is not used by any workflow: did you mean 'postproc"),
        ({"optimizer": {"lr": 0.1}}, "config key 'optimizer' has no _target_. .* write optimizer#lr: VALUE"),
        ({"train#dataset": {"cache_rate": 0.1}}, "'train#dataset' has no _target_"),
        ({"optimizer#lrr": 0.1}, "config key 'optimizer#lrr': AdamW has no such argument: did you mean 'lr'"),
        ({"network_def#filter": [4]}, "'network_def#filter': DynUNet has no such argument: did you mean 'filters'"),
        ({"train#handlers#2#x": 1}, "'train#handlers#2#x': StopAtNaN has no such argument"),
        ({"max_epochs": "abc"}, "max_epochs is 'abc'; a positive whole number is needed"),
        ({"max_epochs": True}, "max_epochs is True; a positive whole number is needed"),
        ({"patch_size": 48}, r"patch_size is 48; three positive whole numbers of voxels, for instance \[48, 48, 48\]"),
        ({"patch_size": [16, 16]}, "patch_size is"),
        ({"patch_size": [16, 16, 0]}, "patch_size is"),
        ({"window_size": "large"}, "window_size is 'large'; auto, or three"),
        ({"spacing": 2}, "spacing is 2; three positive sizes in mm"),
        ({"spacing": [1.0, 1.0, 0.0]}, "spacing is"),
        ({"intensity": "zscore"}, "intensity is 'zscore'; a method, for instance {method: zscore}, is needed"),
        ({"overlap": 1.0}, "overlap is 1.0; a fraction of a window, at least 0 and less than 1, is needed"),
        ({"precision": "fp12"}, "precision is 'fp12'; one of auto, bf16, fp16, fp32 is needed"),
        ({"test_time_flips": 0}, r"test_time_flips is 0; a list of axes, for instance \[0\], is needed"),
        ({"batch_size": 0}, "batch_size is 0; a positive whole number of patches is needed"),
        ({"skip_air": "false"}, r"skip_air is 'false'; true or false \(on MONAI's command line: True or False\)"),
        ({"resume": "yes"}, "resume is 'yes'; true or false .* is needed"),
        (
            {"nsd_tolerance_mm": {"anterior": 1.0, "posteror": 2.0}},
            "unknown class 'posteror': did you mean 'posterior'",
        ),
        ({"nsd_tolerance_mm": {"anterior": 1.0}}, "nsd_tolerance_mm has no tolerance for class 'posterior'"),
        ({"seed": -1}, "seed is -1; a whole number from 0, or null, is needed"),
        ({"seed": 2**64}, "config key 'seed' is 18446744073709551616; a number below 2"),
        ({"split_seed": 2**32}, "split_seed is 4294967296"),
        ({"spacing": [1.0, 1.0, float("inf")]}, "config key 'spacing#2' is inf; a finite number is needed"),
        ({"spacing": [1.0, "1e-1", 1.0]}, "config key 'spacing#1' is the text '1e-1'. For a number, write 1.0e-1."),
        ({"ema_decay": "1E3"}, r"config key 'ema_decay' is the text '1E3'. For a number, write 1.0e\+3."),
        ({"overlap": float("nan")}, "config key 'overlap' is nan"),
        ({"max_gradient_norm": float("nan")}, "config key 'max_gradient_norm' is nan"),
        ({"validate#dataset#cache_rate": float("nan")}, "config key 'validate#dataset#cache_rate' is nan"),
        ({"class_names": ["background", True]}, "class_names is"),
        ({"axcodes": "RRS"}, "axcodes is 'RRS'; a word of three letters"),
        ({"augmentation#scaling": -1}, "augmentation#scaling is -1; a number from 0 is needed"),
        ({"intensity#method": [1]}, r"intensity#method is \[1\]; the name of a method"),
        ({"dataset_dir": 5}, "dataset_dir is 5; a path is needed"),
        ({"ckpt_path": [5]}, "ckpt_path is"),
        ({"device": [5]}, "device is"),
        ({"num_workers": 10**6}, "num_workers is 1000000; a whole number from 0 to 1024"),
        ({"lr_scheduler#milestones": [2, 2]}, r"milestones is \[2, 2\]; a list of increasing epochs"),
        ({"lr_scheduler#milestones": [-1]}, r"milestones is \[-1\]; a list of increasing epochs"),
        ({"lr_scheduler#milestones": 3}, "milestones is 3; a list of increasing epochs"),
        ({"loss": 5}, r"config key 'loss' is 5; a component \(a mapping with a _target_\) is needed"),
        ({"lr_scheduler": None}, "config key 'lr_scheduler' is None; a component"),
        ({"train": []}, r"config key 'train' is \[\]; a mapping of components is needed"),
        ({"train#handlers": {"a": 1}}, "config key 'train#handlers' is {'a': 1}; a list of components is needed"),
    ],
)
def test_invalid_configurations_raise(overlay, message):
    parser = ConfigParser(load("train"))
    for key, value in overlay.items():
        parser[key] = value
    with pytest.raises(ConfigError, match=message):
        check_config(parser, bundle_configs(CONFIGS))


@pytest.mark.parametrize(
    ("workflow", "key", "value", "message"),
    [
        ("train", "train#handlers#1#loader", "x", "is 'x'; a component (a mapping with a _target_) is needed"),
        ("train", "train#trainer#optimizer", {"a": 1}, "is {'a': 1}; a component"),
        ("train", "validate#dataloader#dataset", 0.5, "is 0.5; a component"),
        ("train", "train#trainer#optimizer", "@batch_size", "is '@batch_size'; a component"),
        ("evaluate", "evaluator#records", -1, "is -1; a component"),
        ("inference", "evaluator#network", True, "is True; a component"),
        ("train", "train#inferer#precision", 0.5, "is 0.5; one of auto, bf16, fp16, fp32 is needed"),
        ("train", "train#handlers#6#interval", "@device", "is '@device'; a positive whole number of epochs is needed"),
        ("train", "train#handlers#6#interval", "@network", "is '@network'; a positive whole number of epochs"),
        ("train", "train#trainer#max_epochs", "@overlap", "is '@overlap'; a positive whole number is needed"),
        ("evaluate", "inferer#overlap", 2.0, "is 2.0; a fraction of a window"),
    ],
)
def test_replaced_reference_of_another_kind_raises(workflow, key, value, message):
    parser = ConfigParser(load(workflow))
    parser[key] = value
    with pytest.raises(ConfigError, match=re.escape(f"config key '{key}' {message}")):
        check_config(parser, bundle_configs(CONFIGS))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train#handlers#1#loader", {"_target_": "my.Loader"}),
        ("train#handlers#1#loader", "@validate#dataloader"),
        ("train#handlers#1#loader", "$@train#dataloader"),
        ("train#handlers#6", {"_target_": "ProgressBar", "interval": "x"}),
        ("train#handlers#6#interval", 3),
        ("train#handlers#6#interval", "@max_epochs"),
        ("train#dataset#cache_dir", "@output_dir"),
        ("train#trainer#average", None),
        ("validate#inferer#roi_size", "auto"),
        ("device", "cpu"),
        ("window_size", "auto"),
    ],
)
def test_valid_replacements_of_references(key, value):
    config = ConfigParser(load("train"))
    config[key] = value
    assert check_references(config.get(), bundle_configs(CONFIGS)) is None


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_keys_of_other_workflows_and_referenced_keys_pass(name):
    config = load(name)
    config |= {"max_epochs": "$1 + 2", "patch_size": [16, "@my_side", 16], "my_side": 16, "overlap": [0, 0.5, 0.25]}
    config |= {"spacing": None, "window_size": [16, 16, 32], "largest_component": ["anterior"], "seed": None}
    config |= {"my_rate": 0.1, "optimizer": {"_target_": "torch.optim.SGD", "lr": "@my_rate"}}
    config |= {"axcodes": ["R", "A", "S"], "max_gradient_norm": float("inf"), "cache_dir": "1e5"}
    config |= {"nsd_tolerance_mm": {"anterior": "@my_rate", "posterior": 1.0}}
    if name == "train":
        config["validate"]["more_metrics"] = {"x": 1}
        config["validate"]["evaluator"]["additional_metrics"] = "@validate#more_metrics"
    check_config(ConfigParser(config), bundle_configs(CONFIGS))


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_values_of_the_bundle_pass(name):
    check_config(ConfigParser(load(name)), bundle_configs(CONFIGS))


@pytest.mark.parametrize("task", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_task_files_of_the_project_pass(task):
    check_task([task], CONFIGS)


def test_arguments_of_unknown_signatures_pass():
    parser = ConfigParser(load("train"))
    parser["train#trainer#amp_kwargs"] = {"enabled": False}  # SegmentationTrainer passes **kwargs to MONAI's trainer
    parser["loss"] = {"_target_": "no.such.Loss", "x": 1}  # MONAI reports it later
    check_config(parser, bundle_configs(CONFIGS))


@pytest.mark.parametrize("key", ["run_name", "tracking_uri", "experiment_name", "is_not_rank0", "save_execute_config"])
@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_keys_that_monai_adds_are_accepted(name, key):
    check_config(ConfigParser({**load(name), key: "client_1"}), bundle_configs(CONFIGS))


def test_command_line_values_are_checked_after_evaluation():
    parser = ConfigParser({**load("train"), **protect({"output_dir": "1e3$", "patch_size": "@x", "device": "$1"})})
    check_config(parser, bundle_configs(CONFIGS))  # they are literal values, known after evaluation
    with pytest.raises(ConfigError, match="patch_size is '@x'"):
        check_values({"patch_size": parser.get_parsed_content("patch_size")}, evaluated=True)


def test_command_line_text_is_not_a_reference():
    parser = ConfigParser({**load("train"), **protect({"output_dir": "@my_key", "my_key": 3})})
    with pytest.raises(ConfigError, match="config key 'my_key' is not used by any workflow"):
        check_config(parser, bundle_configs(CONFIGS))
