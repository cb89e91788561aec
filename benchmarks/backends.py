"""Time per window of the rewritten network, PyTorch's own kernels, `torch.compile` and OpenVINO, in float32 on the CPU.

    python benchmarks/backends.py --rounds 5

Networks: the UNet of the Model Zoo's CT bundles (14 classes, batch norm, windows of 96³ voxels), and the DynUNet of the
bundle (3 classes, instance norm, 40×56×40 voxels). The ways alternate in every round. `prepare` is the time until the
first window is done; `difference` is the largest difference of a logit from that of PyTorch, relative to their range.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from monai.networks.nets import DynUNet

from inference import zoo_network
from segbundle.acceleration.rewriting import optimized
from segbundle.inference.backends import prepare

CPU = torch.device("cpu")
Network = Callable[[torch.Tensor], torch.Tensor]


def networks() -> Iterator[tuple[str, torch.nn.Module, tuple[int, int, int]]]:
    """Yield networks with their names and windows. The statistics of batch norm are those of random volumes."""
    torch.manual_seed(0)
    unet = zoo_network(14).train()
    with torch.no_grad():
        unet(torch.rand(2, 1, 96, 96, 96))
    yield "UNet", unet.eval(), (96, 96, 96)
    dynunet = DynUNet(3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, [24, 48, 96, 192], norm_name="INSTANCE")
    yield "DynUNet", dynunet.eval(), (40, 56, 40)


def plain(network: torch.nn.Module, shape: tuple[int, ...]) -> Network:
    return network


def rewritten(network: torch.nn.Module, shape: tuple[int, ...]) -> Network:
    return prepare(optimized(network, shape, torch.float32), "eager", "fp32", shape, CPU)


def compiled(network: torch.nn.Module, shape: tuple[int, ...]) -> Network:
    return prepare(network, "compile", "fp32", shape, CPU)


def openvino(network: torch.nn.Module, shape: tuple[int, ...]) -> Network:
    return prepare(network, "openvino", "fp32", shape, CPU)


WAYS = {"PyTorch": plain, "rewritten": rewritten, "compile": compiled, "openvino": openvino}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    arguments = parser.parse_args()
    print("| network | way | ms per window (range) | times PyTorch | prepare, s | difference |")
    print("|---|---|---:|---:|---:|---:|", flush=True)
    with torch.inference_mode():
        for name, network, roi in networks():
            windows = torch.rand(1, 1, *roi)
            expected = network(windows)
            prepared: dict[str, Network] = {}
            ready: dict[str, float] = {}
            errors: dict[str, float] = {}
            times: dict[str, list[float]] = {way: [] for way in arguments.ways}
            for way in arguments.ways:
                started = time.perf_counter()
                prepared[way] = WAYS[way](network, tuple(windows.shape))
                found = prepared[way](windows)
                ready[way] = time.perf_counter() - started
                errors[way] = float((found - expected).abs().max() / (expected.max() - expected.min()))
            for _ in range(arguments.rounds):
                for way in arguments.ways:
                    started = time.perf_counter()
                    prepared[way](windows)
                    times[way].append(1000 * (time.perf_counter() - started))
            base = statistics.median(times[arguments.ways[0]])
            for way, values in times.items():
                middle = statistics.median(values)
                print(
                    f"| {name} | {way} | {middle:.0f} ({min(values):.0f} to {max(values):.0f}) | {base / middle:.2f} | "
                    f"{ready[way]:.1f} | {errors[way]:.0e} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
