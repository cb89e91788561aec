"""Mutants of a Python file: copies of its syntax tree with one small change.

Changes: comparisons (< to <=, == to !=, in to not in), arithmetic (+ to -, * to /), `and` to `or`, removal of `not`,
flipped booleans, numbers plus and minus 1, prefixed strings, negated conditions, min to max and any to all, None as the
returned value, break to continue, and deletion of calls, raise, augmented assignments and assignments to attributes and
items. Default arguments are changed like other constants. Docstrings, annotations, imports, decorators, literal text of
f-strings and arguments of `raise` are not changed, because tests should not depend on their exact words.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Lines = tuple[int, int] | None

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Div,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.MatMult: ast.Mult, ast.BitXor: ast.BitAnd,
}  # fmt: skip
_NAMES = {"floor": "ceil", "any": "all", "min": "max", "amin": "amax", "argmin": "argmax", "minimum": "maximum"}
_NAMES |= {new: old for old, new in _NAMES.items()}
_NOT_CHANGED = (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, ast.Nonlocal, ast.Assert)
_TYPES = {"Literal", "TypeVar", "cast", "NewType"}
_LOGGING = {"debug", "info", "warning", "warn", "error", "exception"}


@dataclass(frozen=True)
class Mutant:
    """One change of a file.

    Attributes:
        number: index of the mutant in its file.
        line: line of the change.
        lines: first and last line of the statement with the change, or of the function for a default argument; None for
            code that runs when the module is imported.
        change: description of the change.
        key: identifier that does not depend on other lines.
    """

    number: int
    line: int
    lines: Lines
    change: str
    key: str


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a source text."""
    texts = source.splitlines()
    seen: Counter[str] = Counter()
    found = []
    for number, site in enumerate(_Sites(ast.parse(source)).found):
        key = f"{texts[site.line - 1].strip()} | {site.change}"
        seen[key] += 1
        found.append(Mutant(number, site.line, site.lines, site.change, f"{key} | {seen[key]}"))
    return found


def mutated(source: str, number: int) -> ast.Module:
    """Return the syntax tree of the mutant with a number."""
    tree = ast.parse(source)
    _Sites(tree).found[number].apply()
    return ast.fix_missing_locations(tree)


@dataclass(frozen=True)
class _Site:
    line: int
    lines: Lines
    change: str
    apply: Callable[[], None]


class _Sites:
    """All possible changes of a syntax tree, in a fixed order."""

    def __init__(self, tree: ast.Module):
        self.found: list[_Site] = []
        self._body(tree.body, inside=False)

    def _add(self, node: ast.AST, lines: Lines, change: str, apply: Callable[[], None]) -> None:
        self.found.append(_Site(getattr(node, "lineno", lines[0] if lines else 1), lines, change, apply))

    def _body(self, body: list[ast.stmt], inside: bool) -> None:
        for index, statement in enumerate(body):
            if not isinstance(statement, _NOT_CHANGED) and not _is_text(statement):
                self._statement(statement, body, index, inside)

    def _statement(self, node: ast.stmt, body: list[ast.stmt], index: int, inside: bool) -> None:
        lines = _lines(node) if inside else None

        def replace_by(new: ast.stmt) -> Callable[[], None]:
            return lambda: body.__setitem__(index, ast.copy_location(new, node))

        if isinstance(node, ast.FunctionDef):
            whole = node.body[0].lineno, node.end_lineno or node.lineno
            for defaults in (node.args.defaults, node.args.kw_defaults):
                self._children(defaults, whole)
            self._body(node.body, inside=True)
            return
        if isinstance(node, ast.ClassDef):
            if not any(ast.unparse(base).endswith("Enum") for base in node.bases):  # members are created only once
                self._body(node.body, inside=False)
            return
        if isinstance(node, ast.Raise):
            self._add(node, lines, "raise deleted", replace_by(ast.Pass()))
            return
        if isinstance(node, (ast.Continue, ast.Break)):
            new = ast.Break() if isinstance(node, ast.Continue) else ast.Continue()
            self._add(node, lines, f"{type(node).__name__.lower()} swapped", replace_by(new))
            return
        if _can_be_deleted(node):
            self._add(node, lines, "statement deleted", replace_by(ast.Pass()))
        if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            self._add(node, lines, "returns None", replace_by(ast.Return(ast.Constant(None))))
        if isinstance(node, (ast.If, ast.While)):
            self._negate(node, "test", lines)
        if isinstance(node, ast.AugAssign):
            self._swap(node, "op", _ARITHMETIC, lines)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and ast.unparse(node).startswith("__all__"):
            return
        for name, value in ast.iter_fields(node):
            if name in ("body", "orelse", "finalbody"):
                self._body(value, inside)
            elif name == "handlers":
                for handler in value:
                    self._body(handler.body, inside)
            elif name != "annotation":
                self._field(node, name, value, lines)

    def _field(self, owner: ast.AST, name: str, value: Any, lines: Lines) -> None:
        if isinstance(value, list):
            self._children(value, lines)
        elif isinstance(value, ast.AST):
            self._expression(value, lambda new: setattr(owner, name, new), lines)

    def _children(self, values: list[Any], lines: Lines) -> None:
        for index, value in enumerate(values):
            if isinstance(value, ast.AST):
                self._expression(value, lambda new, index=index: values.__setitem__(index, new), lines)  # type: ignore[misc]

    def _expression(self, node: ast.AST, replace: Callable[[ast.expr], None], lines: Lines) -> None:
        if isinstance(node, ast.Constant):
            self._constant(node, replace, lines)
            return
        if isinstance(node, (ast.Subscript, ast.Call)) and _name(node) in _TYPES:
            return
        if isinstance(node, ast.Call):
            self._call(node, lines)
            if isinstance(node.func, ast.Attribute) and node.func.attr in _LOGGING:
                return
        elif isinstance(node, ast.Compare):
            for index, operator in enumerate(node.ops):
                new = _COMPARISONS[type(operator)]
                change = f"{type(operator).__name__} to {new.__name__}"
                self._add(node, lines, change, lambda i=index, new=new: node.ops.__setitem__(i, new()))  # type: ignore[misc]
        elif isinstance(node, ast.BinOp):
            self._swap(node, "op", _ARITHMETIC, lines)
        elif isinstance(node, ast.BoolOp):
            self._swap(node, "op", {ast.And: ast.Or, ast.Or: ast.And}, lines)
        elif isinstance(node, ast.UnaryOp):
            operand = node.operand
            self._add(node, lines, f"{type(node.op).__name__} removed", lambda: replace(operand))
        elif isinstance(node, ast.IfExp):
            self._negate(node, "test", lines)
        elif isinstance(node, ast.comprehension):
            for index, test in enumerate(node.ifs):
                self._negate_in(node.ifs, index, test, lines)
        elif isinstance(node, ast.JoinedStr):
            for part in node.values:
                if isinstance(part, ast.FormattedValue):
                    self._field(part, "value", part.value, lines)
            return
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "ctx", "op", "ops"):
                self._field(node, name, value, lines)

    def _constant(self, node: ast.Constant, replace: Callable[[ast.expr], None], lines: Lines) -> None:
        value = node.value
        changed: list[Any] = []
        if isinstance(value, bool):
            changed = [not value]
        elif isinstance(value, (int, float)):
            changed = [value + 1, value - 1]
        elif isinstance(value, str):
            changed = ["XX" + value]
        for new in changed:
            self._add(node, lines, f"{value!r} to {new!r}", lambda new=new: replace(ast.Constant(new)))  # type: ignore[misc]

    def _call(self, node: ast.Call, lines: Lines) -> None:
        function = node.func
        name = _name(node)
        if name in _NAMES:
            attribute = "attr" if isinstance(function, ast.Attribute) else "id"
            change = f"{name} to {_NAMES[name]}"
            self._add(node, lines, change, lambda: setattr(function, attribute, _NAMES[name]))
        for keyword in node.keywords:
            if keyword.arg in ("min", "max"):
                new = _NAMES[keyword.arg]
                change = f"{keyword.arg}= to {new}="
                self._add(node, lines, change, lambda keyword=keyword, new=new: setattr(keyword, "arg", new))  # type: ignore[misc]

    def _swap(self, node: Any, field: str, table: dict[Any, Any], lines: Lines) -> None:
        old = type(getattr(node, field))
        change = f"{old.__name__} to {table[old].__name__}"
        self._add(node, lines, change, lambda: setattr(node, field, table[old]()))

    def _negate(self, node: Any, field: str, lines: Lines) -> None:
        test = getattr(node, field)
        if _can_be_negated(test):
            self._add(test, lines, "condition negated", lambda: setattr(node, field, ast.UnaryOp(ast.Not(), test)))

    def _negate_in(self, tests: list[ast.expr], index: int, test: ast.expr, lines: Lines) -> None:
        if _can_be_negated(test):
            new = ast.UnaryOp(ast.Not(), test)
            self._add(test, lines, "condition negated", lambda: tests.__setitem__(index, new))


def _can_be_negated(test: ast.expr) -> bool:
    """Return whether a condition has no other change with a similar effect."""
    return not isinstance(test, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Constant))


def _can_be_deleted(node: ast.stmt) -> bool:
    if isinstance(node, ast.Expr):
        return not any(isinstance(part, (ast.Yield, ast.YieldFrom)) for part in ast.walk(node))
    if isinstance(node, (ast.AugAssign, ast.Delete)):
        return True
    targets: Sequence[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets = [node.target]
    return bool(targets) and all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _name(node: ast.Subscript | ast.Call) -> str:
    """Return the name of a called or subscripted object, without the object before the dot."""
    value = node.func if isinstance(node, ast.Call) else node.value
    return value.attr if isinstance(value, ast.Attribute) else getattr(value, "id", "")


def _lines(node: ast.stmt) -> tuple[int, int]:
    """Return the first and last line of a statement, without the statements nested in it."""
    body = getattr(node, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else (node.end_lineno or node.lineno)
    return node.lineno, max(last, node.lineno)
