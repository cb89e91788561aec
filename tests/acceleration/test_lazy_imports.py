"""Deferred imports of packages that MONAI imports."""

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


def test_monai_import_skips_unneeded_packages():
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


def test_deferred_package_works_on_use():
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


def test_no_object_is_an_instance_of_a_stand_in():
    """Checkpoints test whether an optimizer is a distributed optimizer of PyTorch."""
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
def test_missing_packages_raise_import_error(name):
    assert python(f"""
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports(["no_such_package"]):
            try:
                import {name}
            except ModuleNotFoundError as error:
                print(error.name)
    """) == ["no_such_package"]


def test_imported_packages_are_not_deferred():
    assert python("""
        import json
        from segbundle.acceleration.lazy_imports import fast_imports
        with fast_imports(["json"]):
            from json import dumps
        print(dumps(1), dumps is json.dumps)
    """) == ["1", "True"]
