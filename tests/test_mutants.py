"""Mutants of a source, and replacement of the code of a loaded module (benchmarks/mutants.py, mutation.py)."""

import ast
import importlib.util
import sys
import types

import pytest

from commands import ROOT


@pytest.fixture(scope="module")
def programs():
    """Return the two modules by name. Their folder is not imported: its modules have the names of test packages."""
    loaded = {}
    for name in ("mutants", "mutation"):
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    for name in loaded:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a < b", ["x = a <= b"]),
        ("x = a is not b", ["x = a is b"]),
        ("x = a + b", ["x = a - b"]),
        ("x = a and b", ["x = a or b"]),
        ("x = not a", ["x = a"]),
        ("x = 2", ["x = 3", "x = 1"]),
        ("x = True", ["x = False"]),
        ("x = 'a'", ["x = 'XXa'"]),
        ("x = min(a, b)", ["x = max(a, b)"]),
        ("x = a.clamp(min=b)", ["x = a.clamp(max=b)"]),
        ("x = b if a else c", ["x = b if not a else c"]),
        ("x = [a for a in b if a]", ["x = [a for a in b if not a]"]),
        ("x: Literal['a'] = b", []),
        ("X = Literal['a', 'b']", []),
        ("'''Text.'''\nimport a", []),
        ("x.a = b", ["pass"]),
        ("x[a] = b", ["pass"]),
        ("x += a", ["pass", "x -= a"]),
        ("call(a)", ["pass"]),
        ("x = f'text {a + b}'", ["x = f'text {a - b}'"]),
        ("raise ValueError(f'{a + 1}')", ["pass"]),
        ("def f(a=1):\n    b", ["def f(a=2):\n    b", "def f(a=0):\n    b", "def f(a=1):\n    pass"]),
        ("def f():\n    return a", ["def f():\n    return None"]),
        ("for a in b:\n    continue", ["for a in b:\n    break"]),
        ("if a:\n    call()", ["if not a:\n    call()", "if a:\n    pass"]),
        ("class A(Enum):\n    B = 'b'", []),
    ],
)  # fmt: skip
def test_mutants_of_a_source(programs, source, expected):
    mutants, mutated = programs["mutants"].mutants(source), programs["mutants"].mutated
    assert [ast.unparse(mutated(source, mutant.number)) for mutant in mutants] == expected


def test_mutants_have_the_lines_that_run_them(programs):
    source = "A = 1\ndef f(a=2):\n    b = (a +\n        3)\n    if b:\n        call()\n"
    lines = {(mutant.line, mutant.lines) for mutant in programs["mutants"].mutants(source)}
    assert lines == {(1, None), (2, (3, 6)), (3, (3, 4)), (4, (3, 4)), (5, (5, 5)), (6, (6, 6))}


def test_key_does_not_depend_on_other_lines(programs):
    before, after = "x = a < b\nx = a < b\n", "import c\nx = a < b\ny = 1\nx = a < b\n"
    keys = [mutant.key for mutant in programs["mutants"].mutants(before)]
    assert len(set(keys)) == 2
    assert [mutant.key for mutant in programs["mutants"].mutants(after) if "a < b" in mutant.key] == keys


SOURCE = """
import contextlib, dataclasses
LIMIT = 1
def call(a=1):
    return a + LIMIT
class Base:
    def __init__(self):
        self.base = True
class Thing(Base):
    kind = 1
    def __init__(self):
        super().__init__()
        self.size = 2
    @property
    def double(self):
        return self.size * 2
    @staticmethod
    def three():
        return 3
@dataclasses.dataclass
class Data:
    value: int = 4
NOTHING = Data(6)
@contextlib.contextmanager
def opened():
    yield 5
"""


@pytest.mark.parametrize(
    ("old", "new", "at_import", "read", "value"),
    [
        ("a + LIMIT", "a - LIMIT", False, "call()", 0),
        ("a=1", "a=2", False, "call()", 3),
        ("LIMIT = 1", "LIMIT = 7", True, "(call(), other.LIMIT)", (8, 7)),
        ("kind = 1", "kind = 2", True, "thing.kind", 2),
        ("self.size = 2", "self.size = 3", False, "Thing().size", 3),
        ("super().__init__()", "pass", False, "hasattr(Thing(), 'base')", False),
        ("self.size * 2", "self.size / 2", False, "thing.double", 1),
        ("return 3", "return None", False, "thing.three()", None),
        ("value: int = 4", "value: int = 5", True, "Data().value", 5),
        ("Data(6)", "Data(7)", True, "nothing.value", 7),
        ("yield 5", "yield 6", False, "opened().__enter__()", 6),
    ],
)
def test_code_is_replaced_in_imported_objects(programs, old, new, at_import, read, value):
    module, other = types.ModuleType("a_loaded_module"), types.ModuleType("another")
    sys.modules[module.__name__], sys.modules["another"] = module, other
    exec(SOURCE, module.__dict__)
    other.LIMIT = module.LIMIT
    names = {
        **{name: getattr(module, name) for name in ("call", "Thing", "Data", "opened")},
        "thing": module.Thing(),
        "nothing": module.NOTHING,
    }
    assert old in SOURCE
    code = compile(SOURCE.replace(old, new, 1), "a", "exec")
    programs["mutation"].replace_code(module, code, at_import)
    assert eval(read, {**names, "other": other}) == value
    del sys.modules[module.__name__], sys.modules["another"]


def test_forked_work_has_no_effect_on_this_process(programs):
    run_in_fork = programs["mutation"].run_in_fork
    seen = []
    assert run_in_fork(lambda: (seen.append(1), len(seen))[1]) == 1
    assert seen == []
    with pytest.raises(ChildProcessError):
        run_in_fork(lambda: 1 / 0)


def test_journal_is_read_again(programs, tmp_path):
    mutation, mutants = programs["mutation"], programs["mutants"]
    one, two = mutants.mutants("x = a < b\ny = a + b")
    journal = mutation.Journal(tmp_path / "new" / "journal.jsonl")
    for mutant, outcome in ((one, "survived"), (two, "survived"), (one, "killed")):
        journal.add("a.py", mutant, outcome)
    assert mutation.Journal(journal.path).outcomes == {("a.py", one.key): "killed", ("a.py", two.key): "survived"}


def test_every_mutated_file_has_tests(programs):
    files = programs["mutation"].chosen_files([])
    assert {"losses/counts.py", "metrics/case_scores.py", "transforms/restoring.py", "files/atomic.py"} <= files.keys()
    assert programs["mutation"].chosen_files(["scan_files"]).keys() == {"io/scan_files.py"}
    for tests in files.values():
        assert all((ROOT / "tests" / test).exists() for test in tests)
