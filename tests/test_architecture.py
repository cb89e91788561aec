"""Imports run one way, as docs/architecture.md draws it."""

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
"""From the ground up: a room may import those before it."""


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
def test_a_room_imports_only_what_lies_below_it(name):
    assert imports_of(name) <= set(ORDER[: ORDER.index(name)])


def test_every_room_is_known():
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(ORDER)


def test_the_document_names_what_each_room_imports():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z]+)(?:/|\.py)` \|.*\| ([^|]+) \|$", text, re.M)
    assert {name for name, _ in rows} == set(ORDER)
    for name, imports in rows:
        assert set(re.findall(r"[a-z]+", imports)) - {"nothing"} == imports_of(name), name


@pytest.mark.parametrize("name", sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")}))
def test_what_a_room_offers_is_not_called_like_one_of_its_modules(name):
    """From Python 3.12 on, `_target_: segbundle.transforms.x` is the module of that name, if there is one."""
    offered = getattr(importlib.import_module(f"segbundle.{name}"), "__all__", [])
    modules = {path.stem for path in (PACKAGE / name).glob("*.py")}
    assert not modules.intersection(offered)


def test_losses_metrics_and_inferers_know_tensors_only():
    assert imports_of("losses") == imports_of("metrics") == imports_of("patches") == set()
    assert imports_of("inferers") == {"machine"}  # how much memory is free
