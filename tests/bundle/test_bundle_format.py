"""MONAI's and the Model Zoo's checks of the bundle, and the keys that other programs read."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from monai.bundle import ConfigParser, create_workflow

import segbundle
from commands import CONFIGS, ROOT, run
from segbundle.classes import IGNORE_INDEX
from segbundle.config.overlays import workflow_files

SCHEMA = ROOT.parent / "shared" / "data" / "monai" / "meta_schema_20240725.json"
METADATA = CONFIGS / "metadata.json"
CONTRACT = [
    "bundle_root", "dataset_dir", "output_dir", "ckpt_path", "device", "class_names", "spacing", "axcodes",
    "intensity", "patch_size", "overlap", "sw_batch_size", "network_def", "network", "loss", "optimizer",
    "lr_scheduler", "max_epochs", "val_interval", "batch_size", "num_workers", "seed", "fold", "num_folds", "resume",
]  # fmt: skip
DIFFER = {"ckpt_path", "fold"}
"""A training starts from nothing and holds a fold out; the other two start from a model and leave nothing out."""


def load(name):
    return ConfigParser.load_config_files(workflow_files(CONFIGS, name))


def bundle_tool(*words):
    return run(sys.executable, "-m", "monai.bundle", *words)


def test_package_bundle_and_citation_have_one_version():
    metadata = json.loads(METADATA.read_text(encoding="utf-8"))
    assert metadata["version"] == segbundle.__version__
    assert f"version: {segbundle.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_contract_keys_have_one_default_in_all_workflows():
    workflows = {name: load(name) for name in ("train", "evaluate", "inference")}
    for name, config in workflows.items():
        assert set(CONTRACT) <= set(config), name
    parts = {
        "preprocessing",
        "dataset",
        "records",
        "handlers",
        "evaluator",
        "initialize",
        "run",
        "finalize",
        "settings",
    }  # keys that differ between workflows
    for config in workflows.values():
        assert config["settings"] == {key: f"@{key}" for key in config["settings"]}
    for one, other in itertools.combinations(workflows, 2):
        shared = set(workflows[one]) & set(workflows[other]) - parts - (DIFFER if one == "train" else set())
        for key in shared:
            assert workflows[one][key] == workflows[other][key], f"{key} of {one} and {other}"


def test_ignore_index_of_loss_matches_loaded_label_maps():
    assert load("train")["loss"]["ignore_index"] == IGNORE_INDEX


@pytest.mark.parametrize("task", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_task_files_contain_only_values_of_every_workflow(task):
    text = task.read_text()
    assert "$" not in text.replace("$schema=task.schema.json", "")
    known = set(load("train")) | set(load("evaluate")) | set(load("inference"))
    assert {key.partition("#")[0] for key in yaml.safe_load(text)} <= known


@pytest.mark.parametrize(("name", "kind"), [("train", "train"), ("evaluate", "infer"), ("inference", "infer")])
def test_monai_finds_every_property(dataset, trained, tmp_path, name, kind):
    """MONAI Label, FL and Deploy access a bundle by these properties."""
    workflow = create_workflow(
        config_file=[*map(str, workflow_files(CONFIGS, name)), str(Path(__file__).parent / "tiny.yaml")],
        workflow_type=kind,
        meta_file=str(METADATA),
        logging_file=False,
        dataset_dir=str(dataset),
        output_dir=str(tmp_path),
        ckpt_path=str(trained / "model.pt"),
    )
    assert workflow.check_properties() == []
    assert workflow.bundle_root == str(ROOT / "bundle")
    assert workflow.network_def is not None
    if kind == "train":
        assert (workflow.max_epochs, workflow.val_interval, len(workflow.train_dataset_data)) == (60, 16, 4)
        for part in ("trainer", "train_inferer", "train_handlers", "train_preprocessing", "evaluator", "val_dataset"):
            assert getattr(workflow, part) is not None
    else:
        for part in ("evaluator", "inferer", "dataset_data", "preprocessing", "postprocessing", "handlers"):
            assert getattr(workflow, part) is not None


def test_metadata_matches_the_bundle():
    metadata = json.loads(METADATA.read_text())
    assert metadata["version"] in metadata["changelog"]
    names = load("train")["class_names"]
    channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert list(channels.values()) == names
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == load("train")["patch_size"]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().lower().splitlines() if "==" in line
    )
    assert metadata["monai_version"] == pins["monai"]
    assert metadata["pytorch_version"] == pins["torch"]
    assert metadata["numpy_version"] == pins["numpy"]
    for name, version in metadata["required_packages_version"].items():
        assert pins[name.lower()] == version


def test_preferred_files_exist_and_are_small():
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf", "models/model.pt"):
        assert (ROOT / "bundle" / name).is_file(), name
    assert (ROOT / "bundle" / "models" / "model.pt").stat().st_size < 10e6


@pytest.mark.skipif(not SCHEMA.exists(), reason="the schema is not part of the project and is not downloaded")
def test_verify_metadata(tmp_path):
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    done = bundle_tool("verify_metadata", "--meta_file", METADATA, "--filepath", tmp_path / "schema.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "metadata is verified with no error" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_verify_net_in_out(name):
    done = bundle_tool(
        "verify_net_in_out", "--net_id", "network_def", "--meta_file", METADATA,
        "--config_file", [str(path) for path in workflow_files(CONFIGS, name)],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "data shape of network is verified with no error" in done.stdout + done.stderr


def test_ckpt_export_gives_the_same_logits(tmp_path):
    import torch

    done = bundle_tool(
        "ckpt_export", "--net_id", "network_def", "--filepath", tmp_path / "model.ts",
        "--ckpt_file", ROOT / "bundle" / "models" / "model.pt", "--meta_file", METADATA,
        "--config_file", CONFIGS / "inference.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    parser = ConfigParser()
    parser.read_config(CONFIGS / "inference.yaml")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(ROOT / "bundle" / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 1, 40, 56, 40)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts").eval()(image), network.eval()(image))
