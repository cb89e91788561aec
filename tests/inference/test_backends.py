import copy
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from segbundle.inference.backends import prepare

CPU = torch.device("cpu")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def unet(norm="batch", classes=2):
    torch.manual_seed(0)
    network = UNet(3, 1, classes, channels=(4, 8, 16), strides=(2, 2), num_res_units=1, norm=norm).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    return network


def dynunet():
    torch.manual_seed(0)
    return DynUNet(3, 1, 3, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 16), norm_name="INSTANCE").eval()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def windows(batch=2, channels=1):
    return torch.rand(batch, channels, 16, 8, 12, generator=torch.Generator().manual_seed(1))


def assert_equal(ours, theirs, relative=1e-5):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= relative * theirs.abs().max()


@pytest.mark.parametrize("make", [unet, dynunet])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_float32_backends_equal_the_network(backend, batch, make):
    if backend == "openvino":
        pytest.importorskip("openvino")
    network, first, second = make(), windows(batch), 2 * windows(batch)
    run = prepare(network, backend, "fp32", tuple(first.shape), CPU)
    scores = run(first).clone()
    assert_equal(scores, network(first))
    assert_equal(run(second.to(memory_format=torch.channels_last_3d)), network(second))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_compiled_network_equals_the_network(precision, relative):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.LeakyReLU())
    run = prepare(network, "compile", precision, (2, 1, 16, 8, 12), CPU)
    assert_equal(run(windows()), network(windows()), relative)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_half_precision_is_close_to_float32(backend, precision):
    if backend == "openvino":
        pytest.importorskip("openvino")
    network, image = unet(), windows()
    assert_equal(prepare(network, backend, precision, tuple(image.shape), CPU)(image), network(image), 0.05)


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"padding": (1, 0, 2)}, {"stride": 2}, {"groups": 2}])
def test_convolutions_accept_a_single_window(settings):
    convolution, image = torch.nn.Conv3d(2, 4, 3, **settings), windows(1, 2)
    assert_equal(prepare(convolution, "eager", "fp32", tuple(image.shape), CPU)(image), convolution(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_network_receives_channels_last_memory(channels):
    seen = prepare(lambda x: x, "eager", "fp32", (2, channels, 16, 8, 12), CPU)(windows(2, channels))
    assert seen.stride(1) == 1
    assert torch.equal(seen, windows(2, channels))


@pytest.mark.slow
def test_conversion_is_silent_and_keeps_the_network(capfd):
    pytest.importorskip("openvino")
    network = dynunet().train()
    before = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(network, "openvino", "fp32", (1, 1, 16, 8, 12), CPU)
    assert capfd.readouterr() == ("", "")
    assert network.training
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


@pytest.mark.e2e
def test_openvino_import_is_lazy_and_without_telemetry():
    pytest.importorskip("openvino")
    code = (
        "import sys, torch; from segbundle.inference import prepare; assert 'openvino' not in sys.modules;"
        "prepare(torch.nn.Conv3d(1, 1, 1), 'openvino', 'fp32', (1, 1, 4, 4, 4), torch.device('cpu'));"
        "assert 'openvino' in sys.modules and sys.modules['openvino_telemetry'] is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_error_without_openvino_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r'pip install "segbundle\[openvino\]"'):
        prepare(unet(), "openvino", "fp32", (1, 1, 16, 8, 12), CPU)


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'eager', 'compile', 'cudagraph' or 'openvino'"):
        prepare(unet(), "tensorrt", "fp32", (1, 1, 16, 8, 12), CPU)


@pytest.mark.parametrize("backend", ["eager", "compile", "openvino"])
def test_unknown_precision_is_refused_before_the_first_window(backend):
    with pytest.raises(ValueError, match="'auto', 'bf16', 'fp16' or 'fp32'"):
        prepare(unet(), backend, "fp8", (1, 1, 16, 8, 12), CPU)


@pytest.mark.parametrize(("backend", "device"), [("cudagraph", "cpu"), ("openvino", "cuda")])
def test_backends_refuse_unsupported_devices(backend, device):
    with pytest.raises(ValueError, match=f"not on '{device}'"):
        prepare(unet(), backend, "fp32", (1, 1, 16, 8, 12), torch.device(device))


@CUDA
@pytest.mark.parametrize(("precision", "relative"), [("fp32", 1e-2), ("auto", 0.05)])
def test_captured_network_recomputes_every_batch(precision, relative):
    network = unet().cuda()
    run = prepare(network, "cudagraph", precision, (2, 1, 16, 8, 12), torch.device("cuda"))
    for factor in (1, 2):
        image = factor * windows().cuda()
        assert_equal(run(image), network(image), relative)
