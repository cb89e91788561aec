from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import UNet

from segbundle.engines import Checkpoints, load_weights
from segbundle.engines.checkpoints import cases_that_chose, cases_trained_on
from segbundle.errors import CheckpointError, ConfigError
from segbundle.files import write_json
from segbundle.reports import Structure, write_training_cases


def network(out_channels=2, channels=(4, 8)):
    return UNet(3, 1, out_channels, channels=channels, strides=(2,) * (len(channels) - 1))


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"model": w}, lambda w: {"network": w, "epoch": 3}])
def test_weights_are_found_however_they_were_saved(tmp_path, wrap):
    trained, fresh = network(), network()
    torch.save(wrap(trained.state_dict()), tmp_path / "model.pt")
    load_weights(fresh, tmp_path / "model.pt")
    for name, value in trained.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name])


def test_no_path_keeps_the_weights():
    fresh = network()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    load_weights(fresh, None)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_another_number_of_classes_names_the_layers_and_loads_nothing(tmp_path):
    torch.save(network(out_channels=3).state_dict(), tmp_path / "model.pt")
    fresh = network(out_channels=2)
    with pytest.raises(CheckpointError) as error:
        load_weights(fresh, tmp_path / "model.pt")
    message = str(error.value)
    assert "model.pt: does not fit the network: layers of another shape" in message
    assert "is (3,) in the file, (2,) in the network" in message
    assert "class_names" in message


def test_another_architecture_names_missing_and_unknown_layers(tmp_path):
    torch.save(network(channels=(4, 8, 16)).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="layers that the network does not have: model"):
        load_weights(network(), tmp_path / "model.pt")
    torch.save({}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"layers missing in the file: model.* and 10 more"):
        load_weights(network(channels=(4, 8, 16)), tmp_path / "model.pt")


def test_a_checkpoint_for_other_classes_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "model.pt")
    load_weights(network(), tmp_path / "model.pt", ["background", "liver"])  # nothing tells what it was trained for
    write_json(tmp_path / "task.json", {"class_names": ["background", "spleen"]})
    with pytest.raises(CheckpointError, match=r"trained for the classes \['background', 'spleen'\].*--config"):
        load_weights(network(), tmp_path / "model.pt", ["background", "liver"])
    load_weights(network(), tmp_path / "model.pt", ["background", "spleen"])


def test_the_bundles_model_knows_its_classes():
    bundle = Path(__file__).parents[2] / "bundle"
    parser = ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    shipped = parser.get_parsed_content("network_def")
    load_weights(shipped, bundle / "models" / "model.pt", ["background", "anterior", "posterior"])
    with pytest.raises(CheckpointError, match="was trained for the classes"):
        load_weights(shipped, bundle / "models" / "model.pt", ["background", "posterior", "anterior"])


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(CheckpointError, match=r"no\.pt: no such checkpoint; set ckpt_path"):
        load_weights(network(), tmp_path / "no.pt")
    torch.save(network().state_dict(), tmp_path / "half.pt")
    (tmp_path / "half.pt").write_bytes((tmp_path / "half.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"half\.pt: cannot be read"):
        load_weights(network(), tmp_path / "half.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match=r"list\.pt: holds a list"):
        load_weights(network(), tmp_path / "list.pt")


def test_a_schedule_that_cannot_be_replayed_is_refused(tmp_path):
    trained = network()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ConfigError, match=r"^lr_scheduler: ReduceLROnPlateau .* use one that follows epochs"):
        Checkpoints(str(tmp_path), trained, optimizer, schedule, None, None, None, {})


def test_what_a_training_tells_of_its_cases(tmp_path):
    model = tmp_path / "model.pt"
    assert cases_trained_on(model) is None and cases_that_chose(model) == set()
    write_training_cases(tmp_path, [Structure("a", "ball", 1.0)])
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,0.5\n")  # another program's
    assert cases_trained_on(model) == {"a"} and cases_that_chose(model) == set()
    write_json(tmp_path / "task.json", {"training_cases": ["a", "b"]})
    assert cases_trained_on(str(model)) == {"a", "b"} and cases_that_chose(model) == set()
    (tmp_path / "metrics.csv").write_text("case,class,status,dice\nc,ball,scored,0.5\n")
    assert cases_that_chose(model) == {"c"}
    assert cases_trained_on([model, tmp_path / "elsewhere" / "model.pt"]) is None  # of one member nobody knows
