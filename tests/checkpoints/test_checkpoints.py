import math
import zipfile
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet

from segbundle.checkpoints.loading import cases_trained_on, cases_validated_on, load_weights
from segbundle.errors import CheckpointError
from segbundle.files.atomic import write_json
from segbundle.results.structures import Structure, write_training_cases


def network(out_channels=2, channels=(4, 8)):
    return UNet(3, 1, out_channels, channels=channels, strides=(2,) * (len(channels) - 1))


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"network": w, "epoch": 3}])
def test_weights_are_found_in_every_checkpoint_format(tmp_path, wrap):
    trained, fresh = network(), network()
    torch.save(wrap(trained.state_dict()), tmp_path / "model.pt")
    load_weights(fresh, tmp_path / "model.pt")
    for name, value in trained.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_without_path_the_weights_are_kept():
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    load_weights(fresh, None)
    with pytest.raises(CheckpointError, match="ckpt_path is None: a prediction needs"):
        load_weights(fresh, None, required=True)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_other_number_of_classes_error_names_the_layers(tmp_path):
    torch.save(network(out_channels=3).state_dict(), tmp_path / "model.pt")
    fresh = network(out_channels=2)
    with pytest.raises(CheckpointError) as error:
        load_weights(fresh, tmp_path / "model.pt")
    message = str(error.value)
    assert "model.pt: does not fit the network: layers with another shape" in message
    assert "is (3,) in the file, (2,) in the network" in message
    assert "class_names" in message


def test_other_architecture_error_names_the_layers(tmp_path):
    torch.save(network(channels=(4, 8, 16)).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="layers that the network does not have: model"):
        load_weights(network(), tmp_path / "model.pt")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"layers missing in the file: model.* and 10 more"):
        load_weights(network(channels=(4, 8, 16)), tmp_path / "model.pt")


def test_checkpoint_for_other_classes_raises(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    load_weights(network(), tmp_path / "model.pt", ["background", "liver"])  # unknown classes
    write_json(tmp_path / "task.json", {"class_names": ["background", "spleen"]})
    with pytest.raises(CheckpointError, match=r"trained for the classes \['background', 'spleen'\].*--config"):
        load_weights(network(), tmp_path / "model.pt", ["background", "liver"])
    load_weights(network(), tmp_path / "model.pt", ["background", "spleen"])


def test_bundle_model_has_its_classes():
    bundle = Path(__file__).parents[2] / "bundle"
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    shipped = parser.get_parsed_content("network_def")
    load_weights(shipped, bundle / "models" / "model.pt", ["background", "anterior", "posterior"])
    with pytest.raises(CheckpointError, match="was trained for the classes"):
        load_weights(shipped, bundle / "models" / "model.pt", ["background", "posterior", "anterior"])


def test_missing_and_damaged_files_raise(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.pt: no such checkpoint\. Set ckpt_path"):
        load_weights(network(), tmp_path / "no.pt")
    torch.save(network().state_dict(), tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"half\.pt: cannot be read"):
        load_weights(network(), tmp_path / "half.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt: contains a list instead of a state dict"):
        load_weights(network(), tmp_path / "list.pt")


def changed(name, change):
    """Return a state dict with one entry changed."""
    weights = network().state_dict()
    return {**weights, name: change(weights[name])}


WEIGHT, BIAS = "model.0.conv.weight", "model.0.conv.bias"


def sparse_csr(weight):
    return weight.flatten(1).to_sparse_csr()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda: changed(BIAS, lambda b: b * math.nan), rf"contains NaN or Inf in 1 of \d+ tensors \({BIAS}\)"),
        (lambda: changed(BIAS, lambda b: b / 0), "contains NaN or Inf"),
        (lambda: changed(BIAS, lambda b: b.double() * 1e300), "contains NaN or Inf"),
        (lambda: {k: v * math.nan for k, v in network().state_dict().items()}, "and [0-9]+ more"),
        (
            lambda: changed(WEIGHT, lambda w: w.to(torch.complex64)),
            "weight is complex64 in the file, floating point in",
        ),
        (lambda: changed(WEIGHT, lambda w: w.int()), "with another type: model.0.conv.weight is integer in the file"),
        (lambda: changed(WEIGHT, lambda w: w > 0), "weight is bool in the file"),
        (lambda: changed(BIAS, lambda b: b.to(torch.float8_e4m3fn)), "bias is float8_e4m3fn in the file"),
        (lambda: changed(BIAS, lambda b: torch.quantize_per_tensor(b, 0.1, 0, torch.qint8)), "bias is quantized in"),
        (lambda: changed(BIAS, lambda b: b.to_sparse()), "bias is sparse_coo in the file"),
        (lambda: changed(WEIGHT, sparse_csr), "weight is sparse_csr in the file"),
        (lambda: changed(BIAS, lambda b: b.to("meta")), "bias is meta in the file"),
        (lambda: changed(BIAS, lambda b: torch.zeros(1).expand(10**12)), r"bias is \(1000000000000,\) in the file"),
        (lambda: changed(BIAS, lambda b: b.tolist()), rf"is not a state dict: .* \({BIAS} is of type list\)"),
        (lambda: {"model": {"model": network().state_dict()}}, r"is not a state dict: .* \(model is a dict\)"),
        (
            lambda: {"net": network().state_dict(), "epoch": 3},
            r"not a state dict: .* \(net is a dict, epoch is of type int\)",
        ),
        (lambda: {1: torch.zeros(1)}, "is not a state dict: key 1 is not a layer name"),
        (lambda: {("a", 1): torch.zeros(1)}, r"key \('a', 1\) is not a layer name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*quantize")
def test_broken_weights_raise_and_are_not_loaded(tmp_path, weights, message):
    torch.save(weights(), tmp_path / "broken.pt")
    torch.save(network().state_dict(), tmp_path / "good.pt")
    for paths in (tmp_path / "broken.pt", [tmp_path / "good.pt", tmp_path / "broken.pt"]):
        with pytest.raises(CheckpointError, match=rf"^{tmp_path}/broken.pt: .*{message}") as error:
            load_weights(fresh := network(), paths)
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
        assert all(value.isfinite().all() for value in fresh.state_dict().values())


def test_other_floating_point_types_are_converted(tmp_path):
    weights = {name: value.to(torch.bfloat16) for name, value in network().state_dict().items()}
    torch.save(weights, tmp_path / "model.pt")
    load_weights(fresh := network(), tmp_path / "model.pt")
    assert all(torch.equal(value, weights[name].float()) for name, value in fresh.state_dict().items())


def test_large_weights_with_overflowing_sum_are_loaded(tmp_path):
    torch.save(changed(WEIGHT, lambda w: torch.full_like(w, 3e38)), tmp_path / "model.pt")
    load_weights(fresh := network(), tmp_path / "model.pt")
    assert bool((fresh.state_dict()[WEIGHT] == 3e38).all())


def test_compressed_archive_raises_before_unpacking(tmp_path):
    torch.save({"model": torch.zeros(2_000_000)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as stored,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in stored.namelist():
            bomb.writestr(name, stored.read(name))
    with pytest.raises(
        CheckpointError, match=r"bomb\.pt: has [\d,]+ bytes but declares 8,\d+,\d+\. .*Save it with torch\.save"
    ):
        load_weights(network(), tmp_path / "bomb.pt")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("{", r"is not valid JSON"),
        ("[1, 2]", r"is \[1, 2\]"),
        ('{"class_names": 3}', r"class_names is 3"),
        ('{"class_names": {"background": 0}}', r"class_names is \{'background': 0\}"),
        ('{"class_names": ["background"], "training_cases": [1]}', r"training_cases\[0\] is 1"),
        ("\xff", "is not UTF-8 text"),
    ],
)
def test_damaged_task_file_raises(tmp_path, task, message):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    (tmp_path / "task.json").write_bytes(task.encode("latin-1"))
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/task\.json: .*{message}"):
        load_weights(network(), tmp_path / "model.pt", ["background", "liver"])


@pytest.mark.parametrize(
    ("metadata", "warning"),
    [
        ("{", "not valid JSON"),
        ('{"network_data_format": 3}', "network_data_format is 3"),
        ('{"network_data_format": {"outputs": {"pred": {"channel_def": ["liver"]}}}}', "channel_def is"),
        ('{"network_data_format": {"outputs": {"pred": {"channel_def": {"1": "liver"}}}}}', ""),
        ('{"network_data_format": {}}', ""),
        ("{}", ""),
    ],
)
def test_bundle_metadata_without_class_names_warns(tmp_path, caplog, metadata, warning):
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(metadata)
    torch.save(network().state_dict(), tmp_path / "models" / "model.pt")
    load_weights(network(), tmp_path / "models" / "model.pt", ["background", "liver"])
    assert warning in caplog.text and bool(warning) == ("are not compared" in caplog.text)


def test_training_and_validation_cases_of_a_checkpoint(tmp_path):
    model = tmp_path / "model.pt"
    assert cases_trained_on(model) is None and cases_validated_on(model) == set()
    write_training_cases(tmp_path, [Structure("a", "ball", 1.0)])
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n")  # of another program
    assert cases_trained_on(model) == {"a"} and cases_validated_on(model) == set()
    write_json(tmp_path / "task.json", {"training_cases": ["a", "b"]})
    assert cases_trained_on(str(model)) == {"a", "b"} and cases_validated_on(model) == set()
    (tmp_path / "metrics.csv").write_text("case,class,status,dice\nc,ball,scored,0.5\n")
    assert cases_validated_on(model) == {"c"}
    assert cases_trained_on([model, tmp_path / "elsewhere" / "model.pt"]) is None  # unknown for one member
