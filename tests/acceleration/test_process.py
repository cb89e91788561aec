import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segbundle.workflow.starting import start_workflow


class Calls(TorchDispatchMode):
    """Mode that records called operations, with the number and dtype of their elements."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor):
            self.seen.add((func.overloadpacket.__name__, args[0].numel(), args[0].dtype))
        return func(*args, **(kwargs or {}))


def test_workflow_starts_with_single_threaded_mkl_calls():
    with Calls() as calls:
        start_workflow()
    for name in ("exp", "log", "sqrt", "tanh", "erf", "sin"):
        assert {(name, 1, torch.float32), (name, 1, torch.float64)} <= calls.seen
    assert {numel for _, numel, _ in calls.seen} == {1}  # too few for a second thread
