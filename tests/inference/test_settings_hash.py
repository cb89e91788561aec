"""Configured settings that affect the result of a scan."""

import pytest
import torch
from monai.bundle import ConfigParser

from segbundle.inference.settings_hash import configured, hash_settings, plain_values

CONFIG = {
    "names": ["background", "ball"],
    "network": {"_target_": "DynUNet", "out": {"_target_": "num_classes", "names": "@names"}, "sizes": "@sizes#0"},
    "sizes": [[3, 3], "$@names[1]"],
    "loop": "$@loop + @names#1",
    "settings": {"network": "@network", "names": "@names", "size": "@sizes", "loop": "@loop", "plain": "a@b"},
}


def test_references_are_replaced_by_configured_values():
    parser = ConfigParser(CONFIG)
    found = plain_values(parser, CONFIG["settings"])
    names = ["background", "ball"]
    assert found["network"] == {
        "_target_": "DynUNet", "out": {"_target_": "num_classes", "names": names}, "sizes": [3, 3],
    }  # fmt: skip
    assert found["names"] == names and found["plain"] == "a@b"
    assert found["size"] == [[3, 3], ["$@names[1]", {"names": names}]]
    assert found["loop"] == ["$@loop + @names#1", {"loop": "loop", "names::1": "ball"}]


def test_hash_depends_on_values_and_contents_of_weights(tmp_path):
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"one")
    one = hash_settings({"a": 1, "b": [2]}, str(weights))
    assert len(one) == 12
    assert one == hash_settings({"b": [2], "a": 1}, [str(weights)])
    moved = weights.rename(tmp_path / "moved.pt")
    assert one == hash_settings({"a": 1, "b": [2]}, str(moved))
    moved.write_bytes(b"two")
    assert one != hash_settings({"a": 1, "b": [2]}, str(moved))
    assert one != hash_settings({"a": 1, "b": [3]}, str(weights))


def test_settings_without_workflow_are_described_without_repr():
    class Layer(torch.nn.Linear):
        def __repr__(self):
            raise AssertionError

    found = configured({"network": Layer(2, 3), "sizes": (1, 2)})
    assert found["network"][1] == {"weight": [3, 2], "bias": [3]} and found["sizes"] == [1, 2]


@pytest.mark.parametrize("given", ["ball", "config.yaml", "."])
def test_names_of_existing_files_stay_names(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = configured({"name": given})
    (tmp_path / "ball").touch()
    assert configured({"name": given}) == before
