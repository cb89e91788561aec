"""Import directions, as in docs/architecture.md."""

import ast
import functools
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import path_of_a_scan
import segbundle.engines

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "segbundle"
ORDER = [
    "credentials", "terminal", "masking", "errors", "classes", "class_values", "files", "losses", "metrics", "config",
    "reproductions", "distributed", "former_names", "hardware", "acceleration", "audit", "io", "segmentations",
    "datasets", "results", "checkpoints", "inference", "transforms", "report", "viewer", "sampling", "training",
    "workflow", "planning", "api", "cli",
]  # fmt: skip
"""Packages in import order; a package may only import earlier packages."""


FORMER = {"data", "engines", "inferers", "patches"}
"""Packages of earlier versions: one line each, see `former_names.py`."""


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


ROOMS = {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}


@functools.lru_cache
def imported_rooms(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    names += [
        f"segbundle.{alias.name}"
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module == "segbundle"
        for alias in n.names
    ]
    return {name.split(".")[1] for name in names if name.startswith("segbundle.")} & ROOMS - {room(path)}


def imports_of(name):
    return set().union(*(imported_rooms(path) for path in PACKAGE.rglob("*.py") if room(path) == name))


@pytest.mark.parametrize("name", ORDER)
def test_packages_import_only_lower_packages(name):
    assert imports_of(name) <= set(ORDER[: ORDER.index(name)])


def test_every_package_has_a_layer():
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} - FORMER == set(ORDER)


def test_document_lists_imports_of_each_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z_]+)(?:/|\.py)` \|.*\| ([^|]+) \|$", text, re.M)
    assert {name for name, _ in rows} == set(ORDER)
    for name, imports in rows:
        assert set(re.findall(r"[a-z_]+", imports)) - {"nothing"} == imports_of(name), name


@pytest.mark.parametrize("name", sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")}))
def test_exports_are_not_named_like_modules(name):
    """In Python 3.12 and later, `_target_: segbundle.transforms.x` resolves to a module of that name if it exists."""
    offered = getattr(importlib.import_module(f"segbundle.{name}"), "__all__", [])
    modules = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not modules.intersection(offered)


def test_losses_metrics_and_sampling_import_no_packages():
    assert imports_of("losses") == imports_of("metrics") == imports_of("sampling") == set()


@pytest.mark.e2e
def test_inference_loads_no_pages_and_no_training():
    loaded = "import segbundle.inference.sliding, segbundle.inference.scan_pipeline, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    rooms = {name.split(".")[1] for name in done.stdout.split() if name.startswith("segbundle.")}
    assert not rooms & {"report", "viewer", "training", "sampling", "workflow", "cli"}


def test_components_of_earlier_versions_are_found():
    former = {
        "data": "find_scans",
        "engines": "Checkpoints",
        "inferers": "SlidingWindowInferer",
        "patches": "PatchLoader",
    }
    assert set(former) == FORMER
    for package, name in former.items():
        assert getattr(importlib.import_module(f"segbundle.{package}"), name).__name__ == name
    assert segbundle.data.labelled_data is segbundle.datasets.labeled_data
    with pytest.raises(AttributeError, match="no attribute 'Unknown'"):
        _ = segbundle.engines.Unknown


def test_no_two_modules_have_the_same_name():
    names = [
        path.stem for path in PACKAGE.rglob("*.py") if path.stem != "__init__" and path.parent.name != "reproductions"
    ]
    assert sorted(names) == sorted(set(names))


@pytest.mark.e2e
def test_document_lists_the_path_of_a_scan():
    """Run `python docs/path_of_a_scan.py` after a change."""
    calls = path_of_a_scan.path_of_a_scan()
    assert path_of_a_scan.written(path_of_a_scan.PAGE.read_text(encoding="utf-8")) == path_of_a_scan.table(calls)
    assert {thread for thread, _, _ in calls} == {"reading", "main", "writing"}
