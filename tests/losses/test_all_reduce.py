"""Two ranks with one sample each equal one process with two samples."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing as multiprocessing

from losses.two_ranks import CASES, batch, known, network, one_rank
from losses.volumes import ALL


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(one_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("index", range(len(CASES)))
def test_loss_and_gradients(ranks, loss, index):
    kwargs = CASES[index]
    scores, labels, annotated = batch()
    model = network()
    value = loss(softmax=True, to_onehot_y=True, **kwargs)(model(scores), known(labels, kwargs), annotated)
    value.backward()
    values = [results[loss.__name__, index][0].item() for results in ranks]
    assert sum(values) / 2 == pytest.approx(value.item(), abs=1e-9)
    if kwargs["batch"]:
        assert values[0] == pytest.approx(values[1], abs=1e-9)
    for results in ranks:
        for parameter, gradient in zip(model.parameters(), results[loss.__name__, index][1], strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-6, atol=1e-9)
