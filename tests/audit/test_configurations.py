"""Crafted configurations are flagged without running; ordinary configurations have no findings."""

import contextlib
import json

import pytest
import yaml
from monai.bundle import ConfigParser

from crafted import DOCUMENTS, EXPRESSIONS, IMPORTS, TARGETS, with_canary
from segbundle.audit import inspect_path

ALIASES = [f"$import {name}" for name in ("glob", "os", "pathlib", "functools", "ignite", "segbundle")]
HARMLESS = [
    "$@network.parameters()",
    "$@train#trainer.run()",
    "$@train::trainer.run()",
    "$@validate#evaluator.run()",
    "$None",
    "$torch.device('cuda:0')",
    "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "$torch.device('cuda:' + os.environ['LOCAL_RANK'])",
    "$torch.device(f'cuda:{dist.get_rank()}')",
    "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
    "$list(sorted(glob.glob(os.path.join(@dataset_dir, '*.nii.gz'))))[:10]",
    "$@bundle_root + '/models'",
    "$os.path.join(@bundle_root, 'models', 'model.pt')",
    "$not os.path.exists(@ckpt_path)",
    "$monai.data.decollate_batch",
    "$monai.utils.set_determinism(seed=123)",
    "$monai.handlers.from_engine(['pred', 'label'])",
    "$monai.data.load_decathlon_datalist(@data_list, data_list_key='validation')",
    "$monai.utils.CommonKeys.IMAGE",
    "$ignite.engine.Events.ITERATION_COMPLETED",
    "$setattr(torch.backends.cudnn, 'benchmark', True)",
    "$@train#handlers[: -2 if dist.get_rank() > 0 else None]",
    "$dist.is_initialized() or dist.init_process_group(backend='nccl')",
    "$[{'image': i, 'label': l} for i, l in zip(@images[:-9], @labels[:-9])]",
    "$[i.replace('img', 'lbl') for i in @images]",
    "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))",
    "$lambda epoch: 0.95 ** 2 if epoch else 1.0",
    "$lambda batchdata, *_, **__: (batchdata.to(@device), None, (), {})",
    "$(np.float32, torch.float32, np.pi / 8)",
    "$Path(@output_dir).mkdir(exist_ok=True)",
    "$@trainer.logger.setLevel(logging.WARNING)",
    "$[1,] * @channels",
    "$monai.networks.nets.resnet.resnet50(spatial_dims=3, n_input_channels=1)",
    "$monai.networks.nets.resnet50(pretrained=False, spatial_dims=3)",
    "$monai.networks.nets.EfficientNetBN('efficientnet-b0', pretrained=False)",
    "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@net, 3, False, [1, 2], None)",
    "$(Path(@bundle_root) / 'models').parent.name",
    "$functools.partial(torch.nn.functional.interpolate, scale_factor=2)",
    "$map(lambda t: dict(image=monai.transforms.concatenate(t), label=t[1]), zip(*@datasets))",
    "$'%s_%d' % (@name, 3)",
]
COMPONENTS = [
    {"_target_": "torch.optim.lr_scheduler.LambdaLR", "optimizer": "@optimizer", "lr_lambda": "$lambda e: 1 / (1 + e)"},
    {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 1e-3},
    {"_target_": "DynUNet", "spatial_dims": 3},
    {"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "_mode_": "callable"},
    {"_target_": "monai.losses.dice.DiceLoss", "_disabled_": True},
    {"_target_": "torch.device", "device": "cpu"},
    {"_target_": "torch.nn.parallel.DistributedDataParallel", "module": "@network"},
    {"_target_": "torch.utils.data.DataLoader", "dataset": "@dataset", "collate_fn": "$monai.data.list_data_collate"},
    {"_target_": "torch.utils.tensorboard.SummaryWriter", "log_dir": "@output_dir"},
    {"_target_": "ignite.metrics.Accuracy"},
    {"_target_": "ignite.handlers.EarlyStopping", "patience": 3, "score_function": "$lambda e: e.state.output"},
    {"_target_": "LoadImaged", "keys": "image", "reader": ["ITKReader", "@reader", "$monai.data.PILReader"]},
    {"_target_": "SaveImaged", "keys": "pred", "writer": "NibabelWriter"},
    {"_target_": "CheckpointLoader", "load_path": "@ckpt_path", "load_dict": {"model": "@network"}},
    {"_target_": "PersistentDataset", "data": "@data", "cache_dir": "cache", "weights_only": True},
    {"_target_": "monai.apps.vista3d.transforms.Relabeld", "keys": "label"},
    {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0", "pretrained": False},
    {"_target_": "SEResNet50", "spatial_dims": 3, "pretrained": "@no"},
    {"_target_": "CSVDataset", "src": "@table"},
    {"_target_": "DiceLoss", "_desc_": "see https://docs.monai.io"},
    {"_target_": "segbundle.losses.GeneralizedDiceCELoss", "to_onehot_y": True},
    {"_target_": "$@network.forward_features"},
]


def inspected(tmp_path, content):
    path = tmp_path / "task.json"
    path.write_text(json.dumps(content))
    return inspect_path(path)


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expression_is_flagged(name, tmp_path, canary):
    text = with_canary(EXPRESSIONS[name], canary)
    (finding,) = inspected(tmp_path, {"imports": ALIASES, "spacing": text})
    assert (finding.key, finding.excerpt[:60]) == ("spacing", text[:60])


@pytest.mark.parametrize("name", IMPORTS)
def test_import_is_flagged(name, tmp_path):
    (finding,) = inspected(tmp_path, {"imports": [IMPORTS[name]]})
    assert finding.key == "imports#0"


@pytest.mark.parametrize("name", TARGETS)
def test_target_is_flagged(name, tmp_path, canary):
    (finding,) = inspected(tmp_path, {"network": {"_target_": TARGETS[name], "x": f"touch {canary}"}})
    assert finding.key == "network#_target_" and finding.problem.startswith("_target_ ")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_configuration_is_flagged(name, tmp_path, canary):
    (tmp_path.parent / "outside.yaml").write_text("a: 1")
    assert inspected(tmp_path, with_canary(DOCUMENTS[name], canary))


@pytest.mark.parametrize("name", ["an import", "the operating system of torch", "a module by a lambda"])
def test_flagged_code_would_have_run(name, tmp_path):
    canary = tmp_path / "canary"
    text = "$torch.os.system('touch CANARY')" if "lambda" in name else EXPRESSIONS[name]
    ConfigParser({"x": with_canary(text, canary)}).get_parsed_content("x")
    assert canary.exists()


def test_monai_inserts_keys_into_expressions(tmp_path):
    """Relative references below such keys are refused for this reason."""
    canary = tmp_path / "canary"
    key = f"x and torch.os.system('touch {canary}') or @x"
    parser = ConfigParser({"x": {"a": 0}, key: {"a": 1, "b": "$@#a"}})
    parser.get_parsed_content(f"{key}::b")
    assert canary.exists()


@pytest.mark.parametrize("text", HARMLESS)
def test_expression_is_harmless(text, tmp_path):
    imports = [*ALIASES, "$import torch.distributed as dist", "$from pathlib import Path", "$import logging"]
    assert inspected(tmp_path, {"imports": imports, "x": text}) == []


@pytest.mark.parametrize(
    "content",
    [
        {"saver": {"_target_": "SaveImage", "output_dir": "out"}, "run": ["$@saver(@image[0])"], "image": [1]},
        {"post": {"_target_": "Compose", "transforms": []}, "x": "$lambda x: @post(x)"},
        {"train": {"post": {"_target_": "Compose"}}, "x": "$list(map(@train#post, @data))"},
        {"f": "$lambda x: 2 * x", "x": "$@f(2)", "y": "$sorted([1, 2], key=@f)"},
        {"a": "@f", "f": "$lambda x: 2 * x", "x": "$@a(2)"},
        {"net": {"_target_": "UNet", "_mode_": "callable"}, "x": "$@net(spatial_dims=3)"},
        {"x": "$list(map(str, [1])) + sorted(['a'], key=len) + list(filter(None, [0, 1]))"},
        {"x": "$monai.transforms.Resize([1, 1, 1])(@image)", "y": "$@net.to('cpu')"},
    ],
)
def test_calls_of_known_objects_are_harmless(content, tmp_path):
    assert inspected(tmp_path, content) == []


def test_flagged_callable_class_would_run_code(tmp_path):
    canary = tmp_path / "canary"
    call = f"$@a('os.system', True, None, False, False, None, '.', True, 'touch {canary}')"
    content = {"a": {"_target_": "LoadImage", "_mode_": "callable"}, "x": call}
    with contextlib.suppress(Exception):  # the result of the command is not a reader
        ConfigParser(content).get_parsed_content("x")
    assert canary.exists()


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component["_target_"])
def test_component_is_harmless(component, tmp_path):
    component = {key: value for key, value in component.items() if value != "$@network.forward_features"}
    defined = {"reader": {"_target_": "NibabelReader"}, "no": False, "table": "cases.csv"}
    assert inspected(tmp_path, {"x": component, **defined}) == []


@pytest.mark.parametrize(
    "content", [{"a": "%b"}, {"a": ["%#1", 3]}, {"a": "50%"}, {"a": "me@home.org"}, {"a": "costs $5"}, {"a b": "@c"}]
)
def test_plain_text_is_harmless(content, tmp_path):
    assert inspected(tmp_path, content) == []


@pytest.mark.parametrize("name", ["metadata.json", "large_files.json"])
def test_addresses_in_metadata_are_harmless_unless_used(name, tmp_path):
    quoted = {"data": {"source": "https://server/x"}, "version": "1"}
    (tmp_path / name).write_text(json.dumps(quoted))
    for content in ({"x": "@_meta_#version"}, {"mlflow_uri": "sqlite:///mlflow.db"}, {"x": "file:///home"}):
        (tmp_path / "train.json").write_text(json.dumps(content))
        assert inspect_path(tmp_path) == []
    for text in ("@_meta_#data#source", "@_meta_", "$str(@_meta_#data)", "%_meta_#data", f"%{name}::data", "%"):
        (tmp_path / "train.json").write_text(json.dumps({"x": text}))
        assert [finding.key for finding in inspect_path(tmp_path)] == ["x"]


def test_a_finding_is_one_line(tmp_path):
    (finding,) = inspected(tmp_path, {"a\nb": {"_target_": "os.system\n\x1b[31m"}})
    assert str(finding).splitlines() == [str(finding)]
    assert str(finding).endswith(
        "task.json: a\\nb#_target_: _target_ is not a plain dotted name: os.system\\n\\x1b[31m"
    )


def test_an_included_file_is_inspected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text("a: {_target_: os.system}")
    (finding,) = inspected(tmp_path, {"x": "%more.yaml::a"})
    assert (finding.file, finding.key) == ("more.yaml", "a#_target_")


def test_modules_of_included_files_are_not_values(tmp_path):
    (tmp_path / "more.yaml").write_text("imports: [$import os]\na: 1")
    assert inspected(tmp_path, {"x": "%more.yaml::a"}) == []
    assert inspected(tmp_path, {"x": "%more.yaml::imports"})
    assert inspected(tmp_path, {"x": "%more.yaml"})


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [touch CANARY]",
        "a: 1\n---\nb: 2",
        "a: [1",
        "a: &a [x, x]\nb: &b [*a, *a, *a, *a]\n"
        + "".join(f"c{n}: &c{n} [{', '.join([f'*c{n - 1}' if n else '*b'] * 9)}]\n" for n in range(7)),
        "a: &a [*a]",
        "[1, 2]",
    ],
    ids=["tag", "two documents", "broken", "bomb", "loop", "list"],
)
def test_unreadable_yaml_is_a_finding(text, tmp_path, canary):
    path = tmp_path / "task.yaml"
    path.write_text(with_canary(text, canary))
    (finding,) = inspect_path(path)
    assert (finding.key, finding.problem) == ("(file)", "cannot be parsed")


def test_deep_json_is_a_finding(tmp_path):
    path = tmp_path / "task.json"
    path.write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    assert len(inspect_path(path)) == 1


def test_json_and_yaml_are_read_alike(tmp_path):
    content = {"network": {"_target_": "os.system"}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(content))
    assert inspect_path(tmp_path / "task.yaml")[0].key == inspected(tmp_path, content)[0].key
