import pytest
import torch

from segbundle.errors import ConfigError
from segbundle.workflow.devices import checked_device, pick_num_workers


def test_missing_devices_raise():
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here; choose from cpu"):
            checked_device(device)
    assert checked_device("cpu") == torch.device("cpu")


def test_cpu_has_no_worker_processes():
    assert pick_num_workers("cpu") == 0
