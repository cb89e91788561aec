"""Errors for logits that are NaN or infinite anywhere in a volume."""

import math

import pytest
import torch

from segbundle.inference.slabs import NonFiniteLogitsError
from segbundle.inference.sliding import SlidingWindowInferer

NOT_FINITE = [math.nan, math.inf, -math.inf]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


class Spoiling(torch.nn.Module):
    """Network of two classes by sign; the logit of one class is not finite where the image is 7."""

    def __init__(self, value, class_index=1):
        super().__init__()
        self.value, self.class_index = value, class_index

    def forward(self, image):
        logits = torch.cat([-image, image], dim=1)
        logits[:, self.class_index][image[:, 0] == 7] = self.value
        return logits


def volume(*place, shape=(20, 9, 13)):
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0)) + 1
    image[0, 0, :2] = 0  # air
    if place:
        image[(0, 0, *place)] = 7
    return image


@pytest.mark.parametrize("class_index", [0, 1])
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", [(0, 0, 0), (10, 4, 6), (19, 8, 12)])
def test_single_non_finite_voxel_raises(place, value, class_index):
    inferer, network = SlidingWindowInferer(8, 3, precision="fp32"), Spoiling(value, class_index)
    with pytest.raises(NonFiniteLogitsError, match=r"^\d+ of [\d,]+ logits are NaN or infinite$"):
        inferer(volume(*place), network)
    assert inferer(volume(), network).isfinite().all()


@pytest.mark.parametrize("options", [{"flip_axes": (0, 2)}, {"skip_air": True}, {"overlap": 0}, {"mode": "constant"}])
def test_non_finite_logits_raise_with_all_options(options):
    inferer = SlidingWindowInferer(8, 2, **{"overlap": 0.5, "precision": "fp32", **options})
    with pytest.raises(NonFiniteLogitsError):
        inferer(volume(15, 5, 5), Spoiling(math.nan))
    assert inferer(volume(), Spoiling(math.nan)).isfinite().all()


@pytest.mark.parametrize("value", NOT_FINITE)
def test_non_finite_logits_of_one_ensemble_member_raise(tmp_path, value):
    network = torch.nn.Conv3d(1, 2, 1)
    for name, bias in {"good": 0.0, "bad": value}.items():
        weights = {"weight": torch.ones(2, 1, 1, 1, 1), "bias": torch.tensor([0.0, bias])}
        torch.save(weights, tmp_path / f"{name}.pt")
    members = [str(tmp_path / f"{name}.pt") for name in ("good", "bad", "good")]
    with pytest.raises(NonFiniteLogitsError):
        SlidingWindowInferer(8, 1, precision="fp32", checkpoints=members)(volume(), network.eval())


@pytest.mark.parametrize("backend", ["openvino", "compile"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_logits_raise_with_all_backends(backend, value):
    if backend == "openvino":
        pytest.importorskip("openvino")
    network = torch.nn.Conv3d(1, 2, 1).eval()
    network.weight.fill_(1)
    network.bias.copy_(torch.tensor([0.0, value]))
    with pytest.raises(NonFiniteLogitsError):
        SlidingWindowInferer(8, 1, precision="fp32", backend=backend)(volume(), network)


def test_large_logits_with_infinite_sum_are_finite():
    network = torch.nn.Conv3d(1, 2, 1).eval()
    network.weight.fill_(0)
    network.bias.fill_(1e37)
    assert SlidingWindowInferer(8, 1, precision="fp32", mode="constant")(volume(), network).isfinite().all()
