"""Imports that wait: MONAI does without them until they are used, and then everything is there."""

import subprocess
import sys
import textwrap

import pytest


def python(program):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_monai_starts_without_what_a_segmentation_does_not_need():
    loaded = python("""
        import sys
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports():
            import monai.bundle
        waiting = ("scipy.signal", "matplotlib", "torch.distributed.optim")
        print(*(name for name in waiting if name in sys.modules))
        import segbundle.training.trainer, segbundle.workflow.starting
    """)
    assert not {"scipy.signal", "matplotlib", "torch.distributed.optim"} & set(loaded)


def test_what_was_put_off_works_when_it_is_used():
    assert (
        python("""
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports():
            import monai.bundle
        import numpy as np
        from monai.transforms import DetectEnvelope  # needs PyTorch only
        from monai.data.ultrasound_confidence_map import csc_matrix, hilbert
        print(csc_matrix(np.eye(2)).shape == (2, 2), np.allclose(hilbert(np.zeros(4)), 0))
        from monai.utils.jupyter_utils import plt
        print(plt.rcParams["figure.dpi"] > 0)
        import scipy.signal, matplotlib.pyplot, torch.distributed.optim
        print(scipy.signal.hilbert(np.zeros(4)).shape == (4,), callable(matplotlib.pyplot.plot))
    """)
        == ["True"] * 5
    )


def test_nothing_is_an_instance_of_what_was_put_off():
    """Checkpoints ask whether an optimizer is one of PyTorch's distributed ones."""
    assert python("""
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports():
            import ignite.handlers.checkpoint as checkpoint
        import torch
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1)
        print(isinstance(optimizer, checkpoint.ZeroRedundancyOptimizer))
        import torch.distributed.optim
        print(isinstance(optimizer, checkpoint.ZeroRedundancyOptimizer))
        print(checkpoint.ZeroRedundancyOptimizer.__class__.__name__ != "")
    """) == ["False", "False", "True"]


@pytest.mark.parametrize("name", ["no_such_package", "no_such_package.inside"])
def test_packages_that_are_not_there_are_missed_as_ever(name):
    assert python(f"""
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports(["no_such_package"]):
            try:
                import {name}
            except ModuleNotFoundError as error:
                print(error.name)
    """) == ["no_such_package"]


def test_packages_that_are_there_already_are_left_alone():
    assert python("""
        import json
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports(["json"]):
            from json import dumps
        print(dumps(1), dumps is json.dumps)
    """) == ["1", "True"]
