import pytest
import torch

from segbundle.errors import ConfigError
from segbundle.workflow.devices import checked_device, pick_num_workers


def test_devices_that_do_not_exist_are_named():
    for device in ("gpu", "cuda:99"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used here; choose from cpu"):
            checked_device(device)
    assert checked_device("cpu") == torch.device("cpu")


def test_worker_processes_help_a_gpu_only():
    assert pick_num_workers("cpu") == 0
