"""Work of each rank in test_all_reduce.py, in a separate module that new processes can import."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from losses.volumes import ALL, random_case

CASES = [
    {"batch": True},
    {"batch": True, "ignore_index": 255, "weight": [1.0, 2.0, 3.0, 4.0]},
    {"batch": True, "include_background": False},
    {"batch": False, "ignore_index": 255, "weight": [1.0, 2.0, 3.0, 4.0]},
    {"batch": False, "ignore_index": 255},
]


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Conv3d(4, 4, 3, padding=1).double()


def batch():
    scores, labels = random_case(1)
    labels[0] = labels[0].clamp(max=2)  # class 3 is in the second sample only
    labels[1, 0, :2] = 255
    annotated = torch.tensor([[True, True, True, True], [True, True, False, True]])
    labels[1][labels[1] == 2] = 0
    return scores.double(), labels, annotated


def known(labels, kwargs):
    return labels if "ignore_index" in kwargs else torch.where(labels == 255, 1, labels)


def one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    scores, labels, annotated = (tensor[rank : rank + 1] for tensor in batch())
    results = {}
    for loss in ALL:
        for index, kwargs in enumerate(CASES):
            model = DistributedDataParallel(network())
            function = loss(softmax=True, to_onehot_y=True, **kwargs)
            value = function(model(scores), known(labels, kwargs), annotated)
            value.backward()
            with torch.no_grad():  # one rank alone may look at its own loss without waiting
                if rank == 0:
                    function(model.module(scores), known(labels, kwargs), annotated)
            results[loss.__name__, index] = value.detach(), [p.grad for p in model.parameters()]
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
