"""The acceleration is on for versions of PyTorch that it was measured with, and results do not depend on it."""

import logging
import sys

import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from segbundle.acceleration import cuda_graphs, gate
from segbundle.acceleration.layers import with_channels_last_norms
from segbundle.acceleration.lazy_imports import fast_imports
from segbundle.acceleration.rewriting import optimized
from segbundle.inference import SlidingWindowInferer


@pytest.fixture
def off(monkeypatch):
    monkeypatch.setenv("SEGBUNDLE_ACCELERATION", "off")


@pytest.fixture
def without_setting(monkeypatch):
    monkeypatch.delenv("SEGBUNDLE_ACCELERATION", raising=False)
    gate._is_measured.cache_clear()
    yield monkeypatch
    gate._is_measured.cache_clear()


def small_unet():
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=(4, 8), strides=(2,), norm="BATCH").eval()


@pytest.mark.parametrize(
    ("installed", "expected"),
    [("2.13.0+cpu", True), ("2.11.1", True), ("2.12.0", False), ("2.1.3", False), ("3.0", False)],
)
def test_only_measured_versions_are_accelerated(without_setting, caplog, installed, expected):
    without_setting.setattr("importlib.metadata.version", lambda name: installed)
    with caplog.at_level(logging.INFO, logger="segbundle"):
        assert [gate.is_accelerated(), gate.is_accelerated()] == [expected, expected]
    assert len(caplog.records) == (not expected)


@pytest.mark.parametrize(("setting", "expected"), [("on", True), ("off", False)])
def test_variable_takes_precedence(without_setting, setting, expected):
    without_setting.setattr("importlib.metadata.version", lambda name: "2.12.0" if expected else "2.13.0")
    without_setting.setenv("SEGBUNDLE_ACCELERATION", setting)
    assert gate.is_accelerated() is expected


def test_networks_are_unchanged_when_off(off):
    network = small_unet()
    assert optimized(network, (1, 1, 8, 8, 8), torch.float32) is network
    deep = DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 8])
    kinds = [type(module) for module in deep.modules()]
    assert [type(module) for module in with_channels_last_norms(deep).modules()] == kinds


def test_steps_are_not_captured_when_off(off):
    assert cuda_graphs.capture_step(small_unet(), None, None, {}) is None


def test_imports_are_not_deferred_when_off(off):
    finders = list(sys.meta_path)
    with fast_imports(["wave"]):
        assert sys.meta_path == finders


def test_logits_agree_with_and_without_acceleration(monkeypatch):
    volume, found = torch.randn(1, 1, 12, 10, 14), {}
    for setting in ("on", "off"):
        monkeypatch.setenv("SEGBUNDLE_ACCELERATION", setting)
        found[setting] = SlidingWindowInferer((8, 8, 8), precision="fp32")(volume, small_unet())
    torch.testing.assert_close(found["on"], found["off"], rtol=1e-4, atol=1e-4)
