"""Import directions, as in docs/architecture.md."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "segbundle"
ORDER = [
    "credentials", "errors", "machine", "hashing", "terminal", "documents", "startup", "audit", "options", "classes",
    "outputs", "files", "losses", "metrics", "inferers", "patches", "data", "reports", "viewer", "literals",
    "configs", "reproductions", "sides", "transforms", "engines", "running", "checking", "cli",
]  # fmt: skip
"""Packages in import order; a package may only import earlier packages."""


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names += [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    return {name.split(".")[1] for name in names if name.startswith("segbundle.")} - {room(path)}


def imports_of(name):
    return set().union(*(imported_rooms(path) for path in PACKAGE.rglob("*.py") if room(path) == name))


@pytest.mark.parametrize("name", ORDER)
def test_packages_import_only_lower_packages(name):
    assert imports_of(name) <= set(ORDER[: ORDER.index(name)])


def test_every_package_is_listed():
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(ORDER)


def test_document_lists_imports_of_each_package():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|.*\| ([^|]+) \|$", text, re.M)
    assert {name for name, _ in rows} == set(ORDER)
    for name, imports in rows:
        assert set(re.findall(r"[a-z]+", imports)) - {"nothing"} == imports_of(name), name


@pytest.mark.parametrize("name", sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")}))
def test_exports_are_not_named_like_modules(name):
    """In Python 3.12 and later, `_target_: segbundle.transforms.x` resolves to a module of that name if it exists."""
    offered = getattr(importlib.import_module(f"segbundle.{name}"), "__all__", [])
    modules = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not modules.intersection(offered)


def test_losses_metrics_and_inferers_import_nothing():
    assert imports_of("losses") == imports_of("metrics") == imports_of("patches") == set()
    assert imports_of("inferers") == {"machine"}  # how much memory is free
