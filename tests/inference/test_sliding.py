"""Sliding windows: equality with MONAI, slabs, and additional options."""

import math

import monai.inferers
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.networks.nets import UNet

from segbundle.acceleration.trial_window import divisor
from segbundle.hardware import memory_usage
from segbundle.inference import backends
from segbundle.inference.backends import prepare
from segbundle.inference.memory import Needs, _window_sizes, choose_batch, choose_windows, measured_needs
from segbundle.inference.sliding import SlidingWindowInferer
from segbundle.inference.windows import plan_windows

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MiB = 2**20


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def convolutions(channels=1, classes=3):
    """Return a network that is asymmetric along every axis, with a receptive field of 3 voxels."""
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(channels, 4, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv3d(4, classes, 1)
    return torch.nn.Sequential(*layers).eval()


def unet(norm="batch", seed=0):
    """Return a network with non-default batch norm statistics."""
    torch.manual_seed(seed)
    network = UNet(3, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1, norm=norm).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def both(roi, own=None, **kwargs):
    """Return our inferer in float32, with additional arguments, and MONAI's inferer."""
    kwargs = {"sw_batch_size": 2, "overlap": 0.5, "mode": "gaussian", **kwargs}
    ours = SlidingWindowInferer(roi, precision="fp32", **(own or {}), **kwargs)
    return ours, monai.inferers.SlidingWindowInferer(roi, **kwargs)


def assert_same(ours, theirs, tolerance=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def three(strategy):
    return st.tuples(strategy, strategy, strategy)


# --- the same scores as MONAI's ---------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=80)
@given(
    shape=three(st.integers(1, 17)),
    roi=three(st.integers(2, 9)) | st.integers(2, 9),
    overlap=three(st.sampled_from([0.0, 0.25, 0.5, 0.7])) | st.sampled_from([0, 0.25, 0.6]),
    mode=st.sampled_from(["constant", "gaussian"]),
    sw_batch_size=st.integers(1, 5),
    padding=st.sampled_from([("constant", 0.0), ("constant", -3.5), ("replicate", 0.0), ("reflect", 0.0)]),
    channels=st.integers(1, 3),
    volumes=st.integers(1, 2),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_scores_equal_monai(shape, roi, overlap, mode, sw_batch_size, padding, channels, volumes, axis):
    windows = roi if isinstance(roi, tuple) else (roi,) * 3
    assume(padding[0] != "reflect" or all(window - size < size for window, size in zip(windows, shape, strict=True)))
    kwargs = dict(zip(("padding_mode", "cval"), padding, strict=True))
    ours, theirs = both(roi, overlap=overlap, mode=mode, sw_batch_size=sw_batch_size, **kwargs)
    image, network = noise(volumes, channels, *shape), convolutions(channels)
    expected = theirs(image, network)
    assert_same(ours(image, network), expected)
    assert_same(ours.slabs(image[:1], network, axis).whole(), expected[0])


def test_window_spans_the_volume_along_some_axes():
    """Sizes that are not positive mean the size of the volume, as in MONAI."""
    ours, theirs = both((-1, 6, 0))
    assert_same(ours(noise(1, 1, 9, 11, 8), convolutions()), theirs(noise(1, 1, 9, 11, 8), convolutions()))


def test_unet_with_batch_norm_equals_monai():
    ours, theirs = both((8, 8, 8), sw_batch_size=3)
    assert_same(ours(noise(1, 1, 13, 20, 9), unet()), theirs(noise(1, 1, 13, 20, 9), unet()))


def test_meta_tensor_gives_meta_tensor():
    affine = torch.diag(torch.tensor([1.0, 2, 3, 1]))
    image = MetaTensor(noise(1, 1, 9, 8, 5), affine=affine)
    ours, theirs = both((4, 4, 4))
    scores, expected = ours(image, convolutions()), theirs(image, convolutions())
    assert isinstance(scores, MetaTensor)
    assert torch.equal(scores.affine, expected.affine)
    assert_same(scores.as_tensor(), expected.as_tensor())


def test_plain_tensor_gives_plain_tensor():
    ours, _ = both((4, 4, 4))
    scores = ours(noise(1, 1, 9, 8, 5), convolutions())
    assert type(scores) is torch.Tensor
    assert not scores.is_inference()


def test_two_dimensional_images_pass():
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    ours, theirs = both((4, 4))
    assert_same(ours(noise(2, 1, 9, 7), network), theirs(noise(2, 1, 9, 7), network))


def test_network_receives_window_positions():
    def network(windows, places):
        return windows + torch.tensor([float(place[2].start) for place in places]).reshape(-1, 1, 1, 1, 1)

    ours, theirs = both((4, 4, 4), with_coord=True)
    assert_same(ours(noise(1, 1, 9, 8, 5), network), theirs(noise(1, 1, 9, 8, 5), network))


def test_network_with_condition_and_further_arguments():
    def network(windows, factor, condition):
        return factor * windows + condition

    image, condition = noise(1, 1, 9, 8, 5), noise(1, 1, 9, 8, 5, seed=1)
    ours, theirs = both((4, 4, 4))
    expected = theirs(image, network, factor=2, condition=condition)
    assert_same(ours(image, network, factor=2, condition=condition), expected)


@pytest.mark.parametrize(
    "network",
    [
        lambda x: (x + 1, 2 * x),
        lambda x: {"scores": x + 1, "edges": torch.cat([x, -x], dim=1)},
        lambda x: torch.nn.functional.avg_pool3d(x, 2),
    ],
    ids=["tuple", "dict", "half the size"],
)
@pytest.mark.parametrize("sw_batch_size", [3, "auto"])
def test_other_network_outputs_fall_back_to_monai(network, sw_batch_size):
    image = noise(1, 1, 8, 12, 4)
    _, theirs = both((4, 4, 4))
    ours = SlidingWindowInferer((4, 4, 4), sw_batch_size, precision="fp32")
    assert_same(ours(image, network), theirs(image, network))


def test_slabs_refuse_other_outputs():
    ours, _ = both((4, 4, 4))
    with pytest.raises(ValueError, match="one tensor of logits"):
        ours.slabs(noise(1, 1, 8, 8, 8), lambda x: (x, x)).whole()


@pytest.mark.parametrize("options", [{"flip_axes": [0]}, {"skip_air": True}, {"checkpoints": ["a.pt"]}])
def test_unsupported_options_raise(options):
    ours = SlidingWindowInferer((4, 4), **options)
    with pytest.raises(ValueError, match="need a 3D volume and a network"):
        ours(noise(1, 1, 8, 8), torch.nn.Conv2d(1, 2, 1))


def test_gradients_with_respect_to_the_inputs():
    image = noise(1, 1, 6, 6, 6).requires_grad_()
    with torch.enable_grad():
        SlidingWindowInferer((4, 4, 4), precision="fp32")(image, lambda x: 3 * x).sum().backward()
    assert_same(image.grad, torch.full_like(image, 3))


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_network_runs_in_given_precision_and_sums_in_float32(dimensions, precision, dtype):
    convolution = (torch.nn.Conv2d, torch.nn.Conv3d)[dimensions - 2](1, 2, 1)
    seen = []

    def network(windows):
        seen.append(convolution(windows).dtype)
        return convolution(windows)

    scores = SlidingWindowInferer((4,) * dimensions, precision=precision)(noise(1, 1, *(6, 5, 4)[:dimensions]), network)
    assert set(seen) == {dtype}
    assert scores.dtype is torch.float32


def test_bf16_windows_are_close_to_float32():
    image, network = noise(1, 1, 20, 20, 20), unet()
    exact = SlidingWindowInferer((8, 8, 8), precision="fp32")(image, network)
    fast = SlidingWindowInferer((8, 8, 8), precision="bf16")(image, network)
    assert_same(fast, exact, 0.05)


# --- slabs ------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    shape=three(st.integers(1, 17)),
    roi=three(st.integers(2, 9)),
    overlap=st.sampled_from([0.0, 0.25, 0.6]),
    sw_batch_size=st.integers(1, 30),
    axis=st.integers(0, 2),
)
def test_slabs_cover_the_volume_and_overlap_by_one_slice(shape, roi, overlap, sw_batch_size, axis):
    ours, theirs = both(roi, overlap=overlap, sw_batch_size=sw_batch_size)
    image, network = noise(1, 1, *shape), convolutions()
    expected = theirs(image, network)[0]
    slabs = ours.slabs(image, network, axis)
    assert slabs.axis == axis
    assert slabs.shape == shape
    end = 0
    for start, slab in slabs:
        assert start == max(end - 1, 0)
        end = start + slab.shape[1 + axis]
        assert_same(slab, expected.narrow(1 + axis, start, end - start))
    assert end == shape[axis]
    assert slabs.seconds > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_memory_is_independent_of_volume_length(axis):
    ours, _ = both((4, 4, 4), overlap=0.5, sw_batch_size=1)
    for length in (12, 100):
        shape = [6, 6, 6]
        shape[axis] = length
        for _, slab in ours.slabs(noise(1, 1, *shape), convolutions(), axis):
            # 3 classes in float32, the 4 slices of a window and the slice before
            assert slab.untyped_storage().nbytes() == 3 * 4 * (4 + 1) * 6 * 6


def test_default_axis_needs_least_memory():
    ours, _ = both((4, 4, 4))
    assert ours.slabs(noise(1, 1, 9, 30, 10), convolutions()).axis == 1


def test_network_runs_only_when_slabs_are_read():
    calls = []
    ours, _ = both((4, 4, 4))
    slabs = ours.slabs(noise(1, 1, 9, 4, 4), lambda x: calls.append(len(x)) or x)
    assert not calls
    next(slabs)
    assert calls == [2]  # 4 windows along the first axis, two at a time


@pytest.mark.parametrize("shape", [(2, 1, 8, 8, 8), (1, 8, 8, 8)])
def test_slabs_need_a_single_volume(shape):
    with pytest.raises(ValueError, match="must be one volume"):
        SlidingWindowInferer((4, 4, 4)).slabs(noise(*shape), convolutions())


@pytest.mark.parametrize("overlap", [1.0, -0.1, (0.5, 0.5, 1.2)])
@pytest.mark.parametrize("roi_size", [(4, 4, 4), "auto"])
def test_invalid_overlaps_are_refused(roi_size, overlap):
    inferer = SlidingWindowInferer(roi_size, overlap=overlap, patch_size=(4, 4, 4))
    with pytest.raises(ValueError, match="overlap must be in"):
        inferer(noise(1, 1, 8, 8, 8), convolutions())


def test_window_positions_by_hand():
    plan = plan_windows((10, 3, 8), (4, 4, 4), (0.5, 0.5, 0))
    assert plan.starts == ([0, 2, 4, 6], [0], [0, 4])
    assert plan.padding == [(0, 0), (0, 1), (0, 0)]
    assert plan.padded == (10, 4, 8)
    assert plan.axis == 0
    assert next(iter(plan.groups(at_least=1))) == [(0, 0, 0), (0, 0, 4)]
    assert [len(group) for group in plan.groups(at_least=3)] == [4, 4]
    assert list(plan_windows((10, 3, 8), (4, 4, 4), (0.5, 0.5, 0), axis=2).groups(1)) == [
        [(0, 0, 0), (2, 0, 0), (4, 0, 0), (6, 0, 0)],
        [(0, 0, 4), (2, 0, 4), (4, 0, 4), (6, 0, 4)],
    ]


def test_last_window_is_moved_back_into_the_volume():
    assert plan_windows((9, 4, 5), (4, 4, 4), (0.5, 0.5, 0.25)).starts == ([0, 2, 4, 5], [0], [0, 1])


# --- mirrored windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_flips_average_scores_of_mirrored_volumes(axes):
    image, network = noise(1, 1, 6, 8, 4), convolutions()
    mirrored = [[]]
    for axis in axes:
        mirrored += [[*dims, 2 + axis] for dims in mirrored]
    expected = sum(network(image.flip(dims)).flip(dims) for dims in mirrored) / 2 ** len(axes)
    inferer = SlidingWindowInferer((6, 8, 4), precision="fp32", flip_axes=axes)
    assert (expected - network(image)).abs().max() > 0.01
    assert_same(inferer(image, network), expected)


@pytest.mark.parametrize("axes", [(3,), (-1,), (0, 1, 2, 3)])
def test_unknown_flip_axes_are_refused(axes):
    with pytest.raises(ValueError, match="flip_axes must be a subset of"):
        SlidingWindowInferer((4, 4, 4), flip_axes=axes)


# --- air --------------------------------------------------------------------------------------------------------------


def always_second_class(seen):
    def network(windows):
        seen.extend(windows.amax(dim=(1, 2, 3, 4)).tolist())
        return torch.cat([torch.zeros_like(windows[:, :1]), torch.ones_like(windows[:, :1])], dim=1)

    return network


@pytest.mark.parametrize("corner", [(0, 0, 0), (4, 4, 4), (0, 4, 0)])
def test_air_windows_are_background_and_skipped(corner):
    """One of eight windows contains an object. If it is not the first, an air window gives the number of classes."""
    place = tuple(slice(start, start + 4) for start in corner)
    image, seen = torch.full((1, 1, 8, 8, 8), -1000.0), []
    image[(0, 0, *place)] += 2000 * noise(4, 4, 4)
    image[(0, 0, *(7 - start for start in corner))] += 10  # up to 1 % of the range is air
    expected = torch.zeros(8, 8, 8, dtype=torch.long)
    expected[place] = 1
    scores = SlidingWindowInferer((4, 4, 4), 1, 0.0, skip_air=True, precision="fp32")(image, always_second_class(seen))
    assert torch.equal(scores[0].argmax(0), expected)
    assert len(seen) == (1 if corner[0] == 0 else 2)
    assert scores[0, 0][expected == 0].min() >= 20  # logit of certain background


def test_skipping_air_keeps_scores_of_other_windows():
    image, network = torch.zeros(1, 1, 20, 8, 8), convolutions()
    image[:, :, 9:] = noise(1, 1, 11, 8, 8)
    ours, theirs = both((4, 4, 4), {"skip_air": True})
    difference = (ours(image, network) - theirs(image, network)).abs()[0].amax(dim=(0, 2, 3))
    assert difference[10:].max() < 1e-5  # windows begin at 0, 2, ..., 16; those up to 4 contain only air
    assert difference[:6].max() > 1


@pytest.mark.parametrize("value", [0.0, -1024.0])
def test_volume_of_air_is_background(value):
    seen = []
    image = torch.full((1, 2, 9, 8, 3), value)
    scores = SlidingWindowInferer((4, 4, 4), skip_air=True, precision="fp32")(image, always_second_class(seen))
    assert scores.shape == (1, 2, 9, 8, 3)
    assert not scores.argmax(1).any()
    assert len(seen) == 1


def test_window_is_air_only_if_all_channels_are():
    image = torch.zeros(1, 2, 8, 4, 4)
    image[0, 0, :4] = noise(4, 4, 4)
    image[0, 1, 4:] = noise(4, 4, 4)
    seen = []
    SlidingWindowInferer((4, 4, 4), 1, 0.0, skip_air=True, precision="fp32")(image, always_second_class(seen))
    assert len(seen) == 2


# --- several checkpoints, and weights that change ---------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_ensemble_averages_scores_of_checkpoints(tmp_path, backend, norm):
    if backend == "openvino":
        pytest.importorskip("openvino")
    image, network = noise(1, 1, 13, 8, 9), unet(norm)
    _, theirs = both((8, 8, 8))
    paths, expected = [], []
    for seed in (1, 2, 3):
        member = unet(norm, seed)
        paths.append(str(tmp_path / f"{seed}.pt"))
        torch.save(member.state_dict(), paths[-1])
        expected.append(theirs(image, member))
    ours, _ = both((8, 8, 8), {"checkpoints": paths, "backend": backend})
    tolerance = 1e-5 if backend == "eager" else 1e-4
    for _ in range(2):  # the second volume must not depend on the first
        assert_same(ours(image, network), torch.stack(expected).mean(0), tolerance)


def test_checkpoint_of_another_network_is_refused(tmp_path):
    torch.save(convolutions(classes=2).state_dict(), tmp_path / "other.pt")
    ours, _ = both((4, 4, 4), {"checkpoints": [str(tmp_path / "other.pt")]})
    with pytest.raises(RuntimeError, match="size mismatch"):
        ours(noise(1, 1, 8, 8, 8), convolutions(classes=3))


def test_checkpoints_need_a_module():
    with pytest.raises(ValueError, match=r"need a network that is a torch\.nn\.Module"):
        SlidingWindowInferer((4, 4, 4), checkpoints=["a.pt"])(noise(1, 1, 4, 4, 4), lambda x: x)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_weights_updated_in_training_are_used(backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    image, network = noise(1, 1, 13, 8, 9), unet()
    ours, theirs = both((8, 8, 8), {"backend": backend})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = ours(image, network)
    for _ in range(2):
        with torch.enable_grad():
            network.train()(noise(2, 1, 8, 8, 8)).square().mean().backward()
        optimizer.step()
        network.eval()
        assert_same(ours(image, network), theirs(image, network), 1e-4)
    assert (ours(image, network) - before).abs().max() > 0.01


def test_weights_changed_through_data_are_used():
    image, network = noise(1, 1, 8, 8, 8), unet()
    ours, theirs = both((8, 8, 8))
    ours(image, network)
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    assert_same(ours(image, network), theirs(image, network), 1e-4)


def test_warmed_up_network_is_used_by_the_first_volume(monkeypatch):
    prepared = []
    monkeypatch.setattr(backends, "prepare", lambda *args: prepared.append(args) or prepare(*args))
    inferer = SlidingWindowInferer((8, 8, 8), 1)
    network = unet()
    inferer.warm_up(network, 1, CPU)
    inferer(noise(1, 1, 8, 8, 16), network)
    assert len(prepared) == 1


def test_network_in_training_mode_normalizes_by_batch():
    image, network = noise(1, 1, 8, 8, 8), unet()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 0  # so that nothing else changes
    ours, theirs = both((8, 8, 8))
    for mode in (False, True, False):
        assert_same(ours(image, network.train(mode)), theirs(image, network))


def test_outdated_weights_are_not_cached():
    image, network = noise(1, 1, 8, 8, 8), unet()
    ours, _ = both((8, 8, 8))
    for _ in range(5):
        network.load_state_dict(network.state_dict())
        ours(image, network)
    assert len(ours._networks._cache) == 1


# --- windows and batches that suit the memory -------------------------------------------------------------------------


def test_auto_windows_need_patch_size():
    with pytest.raises(ValueError, match="needs patch_size"):
        SlidingWindowInferer("auto")


@pytest.mark.parametrize(
    ("norm", "expected"),
    [("batch", (16, 16, 16)), ("instance", (8, 8, 8)), (("group", {"num_groups": 2}), (8, 8, 8)),
     (("instance", {"track_running_stats": True}), (16, 16, 16))],
)  # fmt: skip
def test_auto_windows_keep_patch_size_for_window_normalization(norm, expected, caplog):
    caplog.set_level("INFO")
    inferer = SlidingWindowInferer("auto", patch_size=(8, 8, 8), precision="fp32")
    for _ in range(2):
        scores = inferer.slabs(noise(1, 1, 16, 16, 16), unet(norm))
        assert scores.roi == expected
    assert caplog.text.count("normalizes by statistics of the window") == (expected == (8, 8, 8))


@pytest.fixture
def free(monkeypatch):
    """Set the number of free bytes; windows may use half of them."""
    return lambda num_bytes: monkeypatch.setattr(memory_usage, "free_memory", lambda device: num_bytes)


def test_small_volume_is_a_single_window():
    sizes = []

    def network(windows):
        sizes.append(tuple(windows.shape))
        return windows

    inferer = SlidingWindowInferer("auto", "auto", patch_size=(8, 8, 8), precision="fp32")
    image = noise(1, 1, 14, 16, 13)
    assert_same(inferer(image, network), image)
    assert sizes[1:] == [(1, 1, 16, 16, 16)]  # after the window that measures the memory footprint


@pytest.mark.parametrize(
    ("free_bytes", "roi", "overlap"),
    [
        (2 * 4096, [16, 16, 16], [0.25, 0.25, 0.25]),
        (2 * 4095, [8, 16, 16], [0.5, 0.25, 0.25]),  # 3 windows of 8 x 16 x 16
        (2 * 1024, [8, 8, 16], [0.5, 0.5, 0.25]),
        (2 * 1023, [8, 8, 8], [0.5, 0.5, 0.5]),
        (0, [8, 8, 8], [0.5, 0.5, 0.5]),  # the minimum
    ],
)
def test_windows_are_as_large_as_memory_allows(free, free_bytes, roi, overlap):
    free(free_bytes)
    assert choose_windows((14, 14, 14), (8, 8, 8), (0.5, 0.5, 0.5), Needs(1, 0), CPU) == (roi, overlap)


@given(
    shape=three(st.integers(1, 300)),
    patch=three(st.sampled_from([8, 10, 24, 48, 96])),
    overlap=three(st.floats(0, 0.8)),
    limit=st.integers(10**4, 10**8),
)
def test_windows_keep_overlap_and_divisibility_of_patches(shape, patch, overlap, limit):
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(memory_usage, "free_memory", lambda device: limit)
        roi, fractions = choose_windows(shape, patch, overlap, Needs(2, 0), CPU)
    size = roi[0] * roi[1] * roi[2]
    assert roi == list(patch) or 2 * size <= limit / 2
    voxels = [w - max(int(w * (1 - f)), 1) for w, f in zip(roi, fractions, strict=True)]
    wanted = [p - max(int(p * (1 - f)), 1) for p, f in zip(patch, overlap, strict=True)]
    for axis in range(3):
        assert roi[axis] >= patch[axis]
        assert roi[axis] % divisor(patch[axis]) == 0
        assert 0 <= voxels[axis] - wanted[axis] <= 1  # rounding may add one


@settings(max_examples=20)
@given(shape=three(st.integers(1, 20)), free_bytes=st.sampled_from([0, 10**5, 10**6, 10**9]))
def test_auto_windows_and_batches_cover_the_volume(shape, free_bytes):
    network, image = torch.nn.Conv3d(1, 2, 1), noise(1, 1, *shape)
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(memory_usage, "free_memory", lambda device: free_bytes)
        scores = SlidingWindowInferer("auto", "auto", patch_size=(8, 4, 6), precision="fp32")(image, network)
    assert_same(scores, network(image))


def test_many_classes_leave_less_memory_for_windows(free):
    free(2**20)  # half of it for windows and sums
    shape, patch = (64, 16, 16), (16, 16, 16)
    assert choose_windows(shape, patch, (0.5,) * 3, Needs(16, 1), CPU)[0] == [64, 16, 16]  # 256 + 64 KiB
    assert choose_windows(shape, patch, (0.5,) * 3, Needs(16, 6), CPU)[0] == [32, 16, 16]  # 128 + 6 * 33 KiB
    assert choose_windows(shape, patch, (0.5,) * 3, Needs(16, 99), CPU)[0] == [16, 16, 16]


def test_windows_of_odd_patches_are_found_quickly(free):
    free(10**9)
    assert len(_window_sizes(512, 75, 37)) < 20
    assert choose_windows((512, 512, 700), (75, 75, 75), (0.5,) * 3, Needs(100, 2), CPU)[0] >= [75, 75, 75]


def test_divisors_are_powers_of_two_up_to_32():
    assert [divisor(size) for size in (1, 6, 8, 48, 96, 160, 256, 75)] == [1, 2, 8, 16, 32, 32, 32, 1]


@pytest.mark.parametrize(
    ("device", "free_bytes", "batch"),
    [(CPU, 6 * MiB, 3), (CPU, 1000 * MiB, 4), (CPU, 0, 1), (CUDA, 11 * MiB, 5), (CUDA, 1000 * MiB, 16), (CUDA, 10, 1)],
)
def test_batches_are_as_large_as_memory_allows(free, device, free_bytes, batch):
    free(free_bytes)
    assert choose_batch(Needs(32, 1), (32, 32, 32), device) == batch  # a window takes 1 MiB


def test_batches_of_large_windows_on_a_cpu_are_small():
    assert choose_batch(Needs(2**10, 1), (64, 64, 128), CPU) <= 2  # a window takes 0.5 GiB, and 1 GiB is enough


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (torch.nn.Conv3d(1, 2, 1), 2 * 4),
        (torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.ReLU(inplace=True)), 2 * 4),
        (torch.nn.Sequential(torch.nn.Conv3d(1, 2, 1), torch.nn.ReLU()), 4 * 4),
        (torch.nn.Sequential(*[torch.nn.Conv3d(c, 2 * c, 1) for c in (1, 2, 4)]), (4 + 8) * 4),
    ],
    ids=["convolution", "in place", "not in place", "freed"],
)
def test_measured_memory_is_twice_the_peak_of_live_tensors(network, expected):
    assert measured_needs(network, 1, (16, 8, 40)).bytes_per_voxel == 2 * expected


# --- out of memory ----------------------------------------------------------------------------------------------------


def limited(most, seen):
    """Return a convolution that runs out of memory for batches of more than `most` windows."""
    convolution = convolutions()

    def network(windows):
        seen.append(len(windows))
        if len(windows) > most:
            raise torch.OutOfMemoryError(f"{len(windows)} windows")
        return convolution(windows)

    return network


@pytest.mark.parametrize("most", [1, 2, 3])
def test_batches_out_of_memory_are_halved_permanently(most):
    seen, image = [], noise(1, 1, 12, 12, 6)
    ours, theirs = both((4, 4, 4), sw_batch_size=8)
    network, expected = limited(most, seen), theirs(image, convolutions())
    assert_same(ours(image, network), expected)
    assert max(seen) > most
    seen.clear()
    assert_same(ours(image, network), expected)
    assert max(seen) <= most


def test_single_window_out_of_memory_raises():
    seen = []
    ours, _ = both((4, 4, 4), sw_batch_size=8)
    with pytest.raises(torch.OutOfMemoryError, match="1 windows"):
        ours(noise(1, 1, 12, 12, 6), limited(0, seen))
    assert seen == [5, 2, 1]  # ten windows in two batches


@pytest.mark.parametrize(("free_bytes", "most"), [(2**40, 34), (0, 1)])  # 34 of 100 windows in three batches
def test_batches_on_a_cpu_fit_into_memory(free, free_bytes, most):
    seen, image = [], noise(1, 1, 22, 22, 22)
    ours, theirs = both((4, 4, 4), sw_batch_size=40)
    expected = theirs(image, convolutions())
    free(free_bytes)
    assert_same(ours(image, limited(40, seen)), expected)
    assert max(seen) == most


# --- other backends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip_axes", [(), (0, 2)])
@pytest.mark.parametrize("sw_batch_size", [1, 4])
def test_openvino_equals_eager_in_partial_last_batch(sw_batch_size, flip_axes):
    pytest.importorskip("openvino")
    image, network = noise(1, 1, 19, 8, 13), unet()  # 4 x 1 x 3 windows, and a few more along the first axis
    eager, openvino = (
        SlidingWindowInferer((8, 8, 8), sw_batch_size, backend=backend, precision="fp32", flip_axes=flip_axes)
        for backend in ("eager", "openvino")
    )
    assert_same(openvino(image, network), eager(image, network), 1e-4)


def test_openvino_refuses_several_outputs():
    pytest.importorskip("openvino")

    class Two(torch.nn.Module):
        def forward(self, x):
            return x + 1, x * 2

    with pytest.raises(ValueError, match="one output"):
        SlidingWindowInferer((4, 4, 4), backend="openvino")(noise(1, 1, 4, 4, 4), Two())


def test_unknown_backends_are_refused():
    with pytest.raises(ValueError, match="backend is 'tensorrt'"):
        SlidingWindowInferer((4, 4, 4), backend="tensorrt")(noise(1, 1, 4, 4, 4), convolutions())


@pytest.mark.parametrize(("size", "patch"), [(320, 80), (152, 80), (200, 96), (97, 40)])
def test_auto_windows_match_their_count(size, patch, monkeypatch):
    monkeypatch.setattr(memory_usage, "free_memory", lambda device: 12e9)
    roi, overlap = choose_windows((size,) * 3, (patch,) * 3, (0.5,) * 3, Needs(100.0, 2), CPU)
    counted = math.prod(max(math.ceil((size - patch // 2) / (window - patch // 2)), 1) for window in roi)
    assert math.prod(map(len, plan_windows((size,) * 3, roi, overlap).starts)) == counted
