"""Comparison of GPU and CPU results, from losses to commands. The tests are skipped without a GPU."""

from __future__ import annotations

import copy
import json
import math
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import DynUNet, UNet

from commands import CONFIGS, TINY, run, segbundle
from segbundle import losses
from segbundle.acceleration.cuda_graphs import StepGraphs, capture_step
from segbundle.inference import slabs, sliding
from segbundle.inference.patch_inferer import PatchInferer
from segbundle.inference.slabs import ScoreSlabs
from segbundle.inference.sliding import SlidingWindowInferer
from segbundle.losses import counts
from segbundle.sampling.augmentation import Augmentation
from segbundle.sampling.loader import PatchLoader
from segbundle.training import trainer
from segbundle.training.trainer import SegmentationTrainer
from segbundle.training.weight_average import WeightAverage
from segbundle.transforms.restoring import restore_labels
from tiny import write_tiny_dataset

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """Turn TF32 off, cuDNN's default, because its mantissa has only ten bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def unet(classes=3, norm="batch"):
    torch.manual_seed(0)
    network = UNet(3, 1, classes, channels=(4, 8), strides=(2,), num_res_units=1, norm=norm)
    with torch.no_grad():
        network(noise(2, 1, 16, 16, 16))  # statistics for batch norms
    return network.eval()


# Losses


@pytest.mark.parametrize("kind", ["GeneralizedDiceLoss", "DiceLoss", "DiceCELoss", "GeneralizedDiceCELoss"])
@pytest.mark.parametrize("ignore_index", [None, 255])
@pytest.mark.parametrize("partly", [False, True])
def test_losses_and_gradients(kind, ignore_index, partly, monkeypatch):
    monkeypatch.setattr(counts, "_GPU_CHUNK", 1000)  # several chunks
    scores, labels = 4 * noise(2, 4, 9, 10, 11), (5 * noise(2, 1, 9, 10, 11, seed=1)).long().clamp(max=3)
    if ignore_index is not None:
        labels[noise(*labels.shape, seed=2) < 0.2] = ignore_index
    annotated = torch.tensor([[True, True, False, True], [True, True, True, True]]) if partly else None
    loss = getattr(losses, kind)(to_onehot_y=True, softmax=True, ignore_index=ignore_index)
    values, gradients = [], []
    for device in (CPU, CUDA):
        input = scores.to(device, copy=True).requires_grad_()
        value = loss(input, labels.to(device), annotated)
        value.backward()
        values.append(value.item())
        gradients.append(input.grad.cpu())
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-9)


def test_losses_of_bfloat16_logits_are_reproducible():
    scores = noise(2, 5, 32, 32, 32).to(CUDA, torch.bfloat16)
    labels = (5 * noise(2, 1, 32, 32, 32, seed=1)).long().to(CUDA)
    loss = losses.DiceCELoss(to_onehot_y=True, softmax=True)
    found = []
    for _ in range(3):
        input = scores.clone().requires_grad_()
        loss(input, labels).backward()
        assert input.grad.dtype is torch.bfloat16
        found.append(input.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# Patches


def prepared(count=5, shape=(20, 18, 16)):
    """Return prepared cases with class 1 in the center."""
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, 5:15, 5:12, 4:10] = 1
    indices = [torch.nonzero(label.flatten() == value).flatten().int() for value in range(2)]
    known = {"label": label, "indices": indices, "annotated": torch.tensor([True, True]), "spacing": [1.0, 1.5, 2.0]}
    return [{**known, "image": noise(1, *shape, seed=seed).half(), "case": f"case {seed}"} for seed in range(count)]


def test_patches_equal_those_on_a_cpu():
    augmentation = Augmentation(flip_axes=[0, 2], rotation=30, scaling=0.3, intensity=True)
    loaders = [PatchLoader(prepared(), (12, 10, 8), 2, augmentation, device=device) for device in (CPU, CUDA)]
    differing = 0
    for epoch in range(1, 13):
        for step in range(3):
            on_cpu, on_gpu = (loader.batch(epoch, step) for loader in loaders)
            assert on_gpu["image"].device == on_gpu["label"].device == CUDA
            assert on_cpu["case"] == on_gpu["case"]
            agree = (on_cpu["label"] == on_gpu["label"].cpu()).float().mean()
            assert agree > 0.999  # voxels halfway between two labels may be rounded either way
            differing += not torch.allclose(on_cpu["image"], on_gpu["image"].cpu(), atol=1e-3)
    assert differing < 12  # of 36; random noise differs on a GPU


def test_prefetched_patches_equal_those_of_their_step():
    augmentation = Augmentation(flip_axes=[0], rotation=30, scaling=0.3)
    loader = PatchLoader(prepared(9), (12, 10, 8), 2, augmentation, device=CUDA)
    assert loader.read_ahead
    busy = torch.rand(2000, 2000, device=CUDA)
    for epoch in (1, 2):
        for step, batch in enumerate(loader):
            for _ in range(20):
                busy = busy @ busy / 1000  # the stream of the network lags behind that of the loader
            again = loader.batch(epoch, step)
            torch.testing.assert_close(batch["image"], again["image"], rtol=0, atol=1e-5)
            assert torch.equal(batch["label"], again["label"])


# CUDA graphs of training steps


def small_network(norm="INSTANCE", dropout=None):
    torch.manual_seed(0)
    sizes = {"kernel_size": (3,) * 3, "strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": (4, 8, 8)}
    return DynUNet(3, 1, 2, norm_name=norm, dropout=dropout, **sizes).to(CUDA).train()


def trainer_of(network, loss, loader, max_epochs=3):
    return SegmentationTrainer(
        loss_function=loss, device=CUDA, max_epochs=max_epochs, train_data_loader=loader, network=network,
        optimizer=torch.optim.SGD(network.parameters(), 0.05), inferer=PatchInferer("fp32"), decollate=False,
        max_gradient_norm=12.0, average=WeightAverage(network),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["GeneralizedDiceLoss", "DiceLoss", "DiceCELoss", "GeneralizedDiceCELoss"])
@pytest.mark.parametrize("more", [{}, {"weight": [1.0, 2.0]}, {"ignore_index": 255, "batch": True}])
def test_captured_step_equals_eager_step(kind, more):
    network = small_network()
    loss = getattr(losses, kind)(to_onehot_y=True, softmax=True, **more)
    loader = PatchLoader(prepared(9), (16, 16, 16), 2, device=CUDA)
    graphs = StepGraphs(network, PatchInferer("fp32"), loss, loader.batch(1, 0))
    usual = copy.deepcopy(loss).to(CUDA)
    for step in (1, 2, 3):
        batch, found = loader.batch(1, step), []
        for recorded in (True, False):
            network.zero_grad()
            scores = graphs.logits(batch["image"]) if recorded else PatchInferer("fp32")(batch["image"], network)
            value = graphs.loss(scores, batch["label"]) if recorded else usual(scores, batch["label"])
            assert value is not None
            value.backward()
            graphs.copy_gradients()
            found.append([value.detach(), *(parameter.grad.clone() for parameter in network.parameters())])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
    assert graphs.logits(batch["image"][:1]) is None
    assert graphs.loss(scores, batch["label"]) is None  # of logits that the graph did not compute


@pytest.mark.parametrize("norm", ["INSTANCE", "BATCH"])
def test_capture_preserves_network_and_random_state(norm):
    network = small_network(norm, dropout=0.2)
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(7)
    random = torch.cuda.get_rng_state(), torch.get_rng_state()
    loader = PatchLoader(prepared(), (16, 16, 16), 2, device=CUDA)
    loss = losses.DiceLoss(to_onehot_y=True, softmax=True)
    assert capture_step(network, PatchInferer("fp32"), loss, loader.batch(1, 0)) is not None
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.cuda.get_rng_state(), random[0])
    assert torch.equal(torch.get_rng_state(), random[1])


class Undecided(torch.nn.Module):
    """Network with a branch that depends on computed values, so that it cannot be captured as a graph."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)

    def forward(self, image):
        scores = self.layer(image)
        return scores if float(scores.mean()) > 0 else -scores


def test_network_that_cannot_be_captured_trains_eagerly(caplog):
    caplog.set_level("INFO")
    loader = PatchLoader(prepared(25), (16, 16, 16), 2, device=CUDA)
    trainer = trainer_of(Undecided().to(CUDA), losses.DiceLoss(to_onehot_y=True, softmax=True), loader)
    trainer.run()
    assert trainer._graphs is None
    assert math.isfinite(float(trainer.state.output["loss"]))
    assert "cannot be captured" in caplog.text


@pytest.mark.parametrize("partly", [False, True])
def test_training_with_graphs_equals_eager_training(partly, monkeypatch):
    ended = []
    for recorded in (True, False):
        if not recorded:
            monkeypatch.setattr(trainer, "capture_step", lambda *_: None)
        cases = prepared(25)
        if partly:
            cases[3]["annotated"] = torch.tensor([True, False])
        network = small_network()
        loader = PatchLoader(cases, (16, 16, 16), 2, device=CUDA)
        run = trainer_of(network, losses.DiceCELoss(to_onehot_y=True, softmax=True), loader)
        run.run()
        assert (run._graphs is not None) == recorded
        ended.append([run.state.output["loss"].item(), *(value.clone() for value in network.state_dict().values())])
    assert ended[0][0] == pytest.approx(ended[1][0], rel=1e-2)
    for one, other in zip(ended[0][1:], ended[1][1:], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)


# Windows


def scores_of(network, image, **kwargs):
    inferer = SlidingWindowInferer((8, 8, 8), sw_batch_size=3, **{"precision": "fp32", **kwargs})
    with torch.no_grad():
        return inferer(image, network).cpu()


@pytest.mark.parametrize("flip_axes", [(), (0, 2)])
@pytest.mark.parametrize("backend", ["eager", "cudagraph", "compile"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_scores_of_windows(norm, backend, flip_axes):
    image, network = noise(1, 1, 19, 8, 13), unet(norm=norm)
    expected = scores_of(network, image, flip_axes=flip_axes)
    found = scores_of(copy.deepcopy(network).to(CUDA), image.to(CUDA), backend=backend, flip_axes=flip_axes)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_scores_in_half_precision_are_close(norm, precision):
    image, network = noise(1, 1, 19, 8, 13), unet(norm=norm)
    expected = scores_of(network, image)
    found = scores_of(copy.deepcopy(network).to(CUDA), image, precision=precision)
    assert found.dtype is torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("sums", ["cpu", "cuda"])
@pytest.mark.parametrize("keep", [True, False])
def test_volumes_and_sums_are_placed_by_free_memory(keep, sums, monkeypatch):
    """With `keep`, the whole volume is on the GPU. Otherwise, its windows are copied one by one."""
    monkeypatch.setattr(sliding, "has_room", lambda *_: keep)
    monkeypatch.setattr(slabs, "has_room", lambda *_: keep)
    image, network = noise(1, 1, 30, 17, 12), unet()
    found = scores_of(copy.deepcopy(network).to(CUDA), image, sw_device=CUDA, device=torch.device(sums))
    torch.testing.assert_close(found, scores_of(network, image), rtol=1e-3, atol=1e-3)


def test_nearly_full_gpu_gets_smaller_window_batches():
    image, network = noise(1, 1, 96, 96, 96), unet(classes=16).to(CUDA)
    inferer = SlidingWindowInferer((64, 64, 64), sw_batch_size=8, precision="fp32")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    with torch.no_grad():
        expected = inferer(image, network).cpu()
    needed, whole = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(needed / 2 / whole)
    try:
        narrow = SlidingWindowInferer((64, 64, 64), sw_batch_size=8, precision="fp32", device=CPU)
        with torch.no_grad():
            found = narrow(image, network).cpu()
        assert narrow._max_batch is not None
        assert narrow._max_batch < 8
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# Restoring to the voxels of the scan

SHEARED = np.eye(4)
SHEARED[0, 1] = 0.1


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("matrix", [np.diag([0.7, 0.8, 0.9, 1]), np.eye(4), SHEARED])
def test_restored_labels(matrix, classes):
    scores = noise(classes, 12, 11, 10)
    shape = (14, 12, 9)
    expected = restore_labels(scores, matrix, shape)
    found = restore_labels(scores.to(CUDA), matrix, shape)
    assert found.device == CUDA
    assert (found.cpu() == expected).float().mean() > 0.999  # ties may go either way
    if matrix is not SHEARED:
        parts = [(0, scores[:, :6].to(CUDA)), (5, scores[:, 5:].to(CUDA))]
        assert torch.equal(restore_labels(ScoreSlabs((12, 11, 10), 0, iter(parts)), matrix, shape), found)


# Commands


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", num_cases=6, num_test=2)


def train(dataset, out, *words):
    return segbundle("train", "--config", TINY, "--dataset_dir", dataset, "--output_dir", out, *words)


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "out"
    done = train(dataset, out)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_training_on_gpu_learns(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["mean_dice"] > 0.8
    assert torch.load(trained / "model.pt", weights_only=True).popitem()[1].device == CPU


@pytest.mark.parametrize("options", [[], ["--backend", "cudagraph"], ["--test_time_flips", "[0,1]"]])
def test_label_maps_and_scores_equal_those_on_a_cpu(dataset, trained, tmp_path, options):
    maps, summaries = {}, {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        words = [word for word in options if device == "cuda" or word not in ("--backend", "cudagraph")]
        given = ["--config", TINY, "--dataset_dir", dataset, "--data_list_key", "test", "--output_dir", out]
        words += ["--ckpt_path", trained / "model.pt", "--device", device, "--precision", "fp32"]
        done = segbundle("evaluate", *given, *words)
        assert done.returncode == 0, done.stdout + done.stderr
        maps[device] = [np.asarray(nib.load(path).dataobj) for path in sorted(out.glob("*_seg.nii.gz"))]
        summaries[device] = json.loads((out / "summary.json").read_text())
        record = json.loads((out / "predictions.json").read_text())[0]
        assert ("peak_gpu_memory_mb" in json.dumps(record)) == (device == "cuda")
    assert len(maps["cpu"]) == 2
    for one, other in zip(maps["cpu"], maps["cuda"], strict=True):
        assert np.mean(one == other) > 0.998
    assert summaries["cpu"]["mean_dice"] == pytest.approx(summaries["cuda"]["mean_dice"], abs=0.005)


def test_training_on_gpu_can_be_resumed(dataset, tmp_path):
    """The results are close, not identical, because the order of sums on a GPU varies."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    short = ["--max_epochs", "8", "--val_interval", "4"]
    assert train(dataset, whole, *short).returncode == 0
    assert train(dataset, parts, "--max_epochs", "4", "--val_interval", "4").returncode == 0
    done = train(dataset, parts, *short, "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    one, other = (torch.load(out / "last.pt", weights_only=False, map_location="cpu") for out in (whole, parts))
    assert one.keys() == other.keys()
    dice = [json.loads((out / "summary.json").read_text())["mean_dice"] for out in (whole, parts)]
    assert dice[0] == pytest.approx(dice[1], abs=0.1)


def test_non_finite_loss_ends_training_and_names_cases(dataset, tmp_path):
    done = train(dataset, tmp_path / "out", "--optimizer#lr", "1e30", "--max_gradient_norm", "null")
    assert done.returncode == 1
    assert "case_0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("processes", [1, 2])
def test_training_on_several_ranks(dataset, tmp_path, processes):
    """One rank uses NCCL. Two ranks on the same GPU use gloo, because NCCL does not support this."""
    out = tmp_path / "out"
    files = f"['{CONFIGS / 'train.yaml'}','{CONFIGS / 'multi_gpu_train.yaml'}','{TINY}']"
    if processes > torch.cuda.device_count() > 1:
        pytest.skip("needs one GPU")
    done = run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m",
        "monai.bundle", "run", "--config_file", files, "--dataset_dir", dataset, "--output_dir", out,
        "--max_epochs", "16",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not math.isnan(json.loads((out / "summary.json").read_text())["mean_dice"])
