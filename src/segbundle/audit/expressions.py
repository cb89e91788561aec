"""Inspection of expressions by their syntax tree.

MONAI evaluates text that begins with `$`: it replaces references with values, and then runs the text as Python. Every
expression that is not known to be harmless is a finding. Names must be in `allowed_names`, be allowed as a `_target_`,
or be bound by the expression. Attributes of values must be in `allowed_names`.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from segbundle.audit.allowed_names import ATTRIBUTES, BUILTINS, ENVIRONMENT, SWITCHBOARDS, SWITCHES
from segbundle.audit.call_arguments import UNKNOWN, downloads, has_address, takes_code_names, takes_downloads
from segbundle.audit.imports import MAX_LENGTH
from segbundle.audit.sizes import MAX_EXPONENT, has_power, has_sequence, size
from segbundle.audit.targets import target_problem, walk

_REFERENCE = re.compile(r"@(?:\w*)(?:::\w*)*")
_REFERENCES = "__local_refs"  # MONAI's name for the values in an expression
_FUNCTION_ARGUMENTS = frozenset({"func", "key", "default_factory"})
_FUNCTION_PLACES = {
    **dict.fromkeys(("filter", "map", "functools.partial", "functools.reduce", "collections.defaultdict"), 0),
    **dict.fromkeys(("itertools.accumulate", "itertools.groupby"), 1),
}
"""Positions of arguments that the called function itself calls."""
_MAX_NUMBER = 2**32
_MAX_LENGTH_MADE = 10_000_000
_Scope = frozenset[str]


class _HarmfulError(Exception):
    """Error for the first node of an expression that is not harmless."""


def references(text: str) -> list[str]:
    """Return the IDs that an expression or a single reference refers to.

    An ID consists of the keys from the root of the configuration to a value, joined with `::`.

    Args:
        text: any text of a configuration, with absolute references and `::` instead of `#`. Text that is neither an
            expression (with a leading `$`) nor a single reference has no references.

    Example:
        >>> references("$@train::lr * @scale"), references("@scale"), references("mail@scale")
        (['train::lr', 'scale'], ['scale'], [])
    """
    found = _REFERENCE.findall(text)
    return [reference[1:] for reference in found if text.startswith("$") or reference == text]


def _is_unknown(_reference: str) -> bool:
    return False


def expression_problem(
    text: str, modules: Mapping[str, str], may_be_called: Callable[[str], bool] = _is_unknown
) -> str | None:
    """Return why an expression is not known to be harmless, or None if it is harmless.

    Args:
        text: expression without the `$`, with absolute references and `::` instead of `#`, as MONAI evaluates it.
        modules: dotted names of modules and imported objects, by the names that the expression uses.
        may_be_called: function of an ID (see `references`) that returns whether its value is harmless when it is called
            with any arguments. Default: a function that always returns False.

    Example:
        >>> expression_problem("__import__('os').system('x')", {})
        'reads the attribute system'
        >>> expression_problem("@network.parameters()", {}) is None
        True
    """
    if len(text) > MAX_LENGTH:
        return f"has {len(text):,} characters; the audit reads at most {MAX_LENGTH:,}"
    for reference in sorted(_REFERENCE.findall(text), key=len, reverse=True):
        text = text.replace(reference, f"{_REFERENCES}['{reference[1:]}']")
    try:
        tree = ast.parse(text, mode="eval")
        _Walk(modules, may_be_called).value(tree.body, frozenset())
    except (SyntaxError, ValueError, MemoryError) as problem:
        return f"cannot be parsed ({problem.msg if isinstance(problem, SyntaxError) else problem})"
    except RecursionError:
        return "is nested too deeply"
    except _HarmfulError as problem:
        return str(problem)
    return None


def callable_problem(text: str, modules: Mapping[str, str], may_be_called: Callable[[str], bool]) -> str | None:
    """Return why an expression is not allowed as a `_target_`, or None if it is allowed.

    MONAI calls the value of the expression with the other keys of the component as arguments.

    Args:
        text: expression without the `$`, as in `expression_problem`.
        modules: dotted names of modules and imported objects, by the names that the expression uses.
        may_be_called: function of an ID (see `references`) that returns whether its value is harmless when it is called
            with any arguments.

    Example:
        >>> callable_problem("@network.parameters", {}, lambda reference: False) is None
        True
        >>> callable_problem("@functions[0]", {}, lambda reference: False)
        'is known only when the configuration runs'
    """
    problem = expression_problem(text, modules, may_be_called)
    if problem is not None:
        return problem
    name = _dotted(ast.parse(text, mode="eval").body, modules) if "@" not in text else None
    if name is not None:
        return f"names {name}, which {found}" if (found := target_problem(name)) else None
    method = re.fullmatch(r"@\w+(?:::\w+)*\.(\w+)", text)
    return None if method else "is known only when the configuration runs"


class _Walk:
    """Visitor of the nodes of an expression that raises an error at the first node that is not harmless."""

    def __init__(self, modules: Mapping[str, str], may_be_called: Callable[[str], bool]) -> None:
        self.modules = modules
        self.may_be_called = may_be_called

    def value(self, node: ast.expr, local: _Scope) -> None:
        """Visit a node that becomes a value.

        Args:
            node: any expression.
            local: names that the expression has bound at this node.
        """
        visit = getattr(self, f"_{type(node).__name__}", None)
        if visit is None:
            self._refuse(f"has an unsupported {type(node).__name__}")
        visit(node, local)

    def values(self, nodes: list[ast.expr], local: _Scope) -> None:
        for node in nodes:
            self.value(node, local)

    def _refuse(self, what: str) -> NoReturn:
        raise _HarmfulError(what)

    def _Constant(self, node: ast.Constant, local: _Scope) -> None:  # noqa: N802
        if isinstance(node.value, int) and node.value > _MAX_NUMBER:
            self._refuse("has a very large number")
        if isinstance(node.value, (str, bytes)):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if has_address(text):
                self._refuse("names a server")

    def _Name(self, node: ast.Name, local: _Scope) -> None:  # noqa: N802
        if node.id in local:
            return
        if node.id in self.modules:
            self._module_chain(node)
        elif node.id not in BUILTINS:
            self._refuse(f"uses the name {node.id}")

    def _Attribute(self, node: ast.Attribute, local: _Scope) -> None:  # noqa: N802
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if isinstance(root, ast.Name) and root.id not in local and root.id in self.modules:
            self._module_chain(node)
            return
        self._attribute(node.attr)
        self.value(node.value, local)

    def _attribute(self, name: str) -> None:
        if name not in ATTRIBUTES:
            self._refuse(f"reads the attribute {name}")

    def _module_chain(self, node: ast.expr, call: ast.Call | None = None) -> None:
        name = _dotted(node, self.modules)
        assert name is not None
        walked = walk(name)
        if walked.problem is not None:
            self._refuse(f"uses {name}, which {walked.problem}")
        if takes_code_names(walked.found):
            self._refuse(f"uses {name}, whose arguments can name code or servers")
        if takes_downloads(walked.found) and (call is None or _downloads(walked.found, call)):
            self._refuse(f"uses {name}, whose arguments can make it download weights")
        rest = walked.rest
        if inspect.isclass(walked.found) and issubclass(walked.found, enum.Enum):
            rest = rest[1:] if rest and rest[0] in walked.found.__members__ else rest
        for attribute in rest:
            self._attribute(attribute)

    def _Subscript(self, node: ast.Subscript, local: _Scope) -> None:  # noqa: N802
        if isinstance(node.value, ast.Name) and node.value.id == _REFERENCES and _REFERENCES not in local:
            if not isinstance(node.slice, ast.Constant):
                self._refuse("uses all references as one value")
            return
        if _dotted(node.value, self.modules) == "os.environ" and not _is_bound(node.value, local):
            if not (isinstance(node.slice, ast.Constant) and node.slice.value in ENVIRONMENT):
                self._refuse("reads the environment")
            return
        self.values([node.value, node.slice], local)

    def _Slice(self, node: ast.Slice, local: _Scope) -> None:  # noqa: N802
        self.values([part for part in (node.lower, node.upper, node.step) if part is not None], local)

    def _Call(self, node: ast.Call, local: _Scope) -> None:  # noqa: N802
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        name = None if _is_bound(node.func, local) else _dotted(node.func, self.modules)
        self._callee(node.func, local)
        self._passed(node, name, local)
        if isinstance(node.func, ast.Name) and node.func.id == "setattr" and "setattr" not in local:
            self._switch(node, local)
            return
        if name in ("os.environ.get", "os.getenv"):
            if not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value in ENVIRONMENT):
                self._refuse("reads the environment")
        elif name is None and isinstance(node.func, ast.Attribute) and node.func.attr == "replace":
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            if starred or len(node.args) < 2:  # pathlib's takes one argument, and moves a file
                self._refuse("calls replace with arguments that str.replace does not accept")
            self.value(node.func.value, local)
        elif name is not None:
            self._module_chain(node.func, node)
        else:
            self.value(node.func, local)
        if name == "torch.distributed.init_process_group":
            self._group(node)
        self.values(arguments, local)

    def _callee(self, node: ast.expr, local: _Scope) -> None:
        """Refuse a called object that the syntax tree does not identify."""
        if isinstance(node, (ast.Lambda, ast.Attribute)):
            return
        if isinstance(node, ast.Name) and node.id not in local:
            return
        if isinstance(node, ast.Call) and not _is_bound(node.func, local) and _dotted(node.func, self.modules):
            return  # the result of a component or of `functools.partial`
        reference = _reference(node, local)
        if reference is None:
            self._refuse("calls a value that the audit cannot identify")
        if not self.may_be_called(reference):
            self._refuse(f"calls @{reference.replace('::', '#')}, not known to be harmless for all arguments")

    def _passed(self, node: ast.Call, name: str | None, local: _Scope) -> None:
        """Refuse functions passed as arguments to be called, if the syntax tree does not identify them."""
        if name is None and isinstance(node.func, ast.Name) and node.func.id not in local:
            name = node.func.id
        given = [keyword.value for keyword in node.keywords if keyword.arg in _FUNCTION_ARGUMENTS]
        if name in _FUNCTION_PLACES:
            place = _FUNCTION_PLACES[name]
            starred = [argument for argument in node.args[:place] if isinstance(argument, ast.Starred)]
            given += [*starred, *node.args[place : place + 1]]
        for function in given:
            if not isinstance(function, ast.Constant):
                self._callee(function, local)

    def _switch(self, node: ast.Call, local: _Scope) -> None:
        """Allow `setattr` only for the switches of PyTorch."""
        if len(node.args) == 3 and not node.keywords:
            board, switch, value = node.args
            allowed = isinstance(switch, ast.Constant) and switch.value in SWITCHES
            if not _is_bound(board, local) and _dotted(board, self.modules) in SWITCHBOARDS and allowed:
                self.value(value, local)
                return
        self._refuse("uses the name setattr")

    def _group(self, node: ast.Call) -> None:
        """Allow process groups of torchrun, but not those that connect to a URL."""
        first = [ast.keyword("backend", argument) for argument in node.args[:1]]
        for keyword in [*first, *node.keywords]:
            plain = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if len(node.args) > 1 or keyword.arg not in ("backend", "init_method") or not plain:
                self._refuse("calls torch.distributed.init_process_group with more than a backend")
            if keyword.arg == "init_method" and plain != "env://":
                self._refuse(f"connects to {plain!r}")

    def _BinOp(self, node: ast.BinOp, local: _Scope) -> None:  # noqa: N802
        if isinstance(node.op, (ast.Pow, ast.LShift)):
            small = isinstance(node.right, ast.Constant) and isinstance(node.right.value, (int, float))
            if not small or node.right.value > MAX_EXPONENT or has_power(node.left):  # type: ignore[attr-defined]
                self._refuse(f"has a power above {MAX_EXPONENT}")
        if size(node) > (_MAX_LENGTH_MADE if has_sequence(node) else _MAX_NUMBER):
            self._refuse("has a very large result")
        self.values([node.left, node.right], local)

    def _UnaryOp(self, node: ast.UnaryOp, local: _Scope) -> None:  # noqa: N802
        self.value(node.operand, local)

    def _BoolOp(self, node: ast.BoolOp, local: _Scope) -> None:  # noqa: N802
        self.values(node.values, local)

    def _Compare(self, node: ast.Compare, local: _Scope) -> None:  # noqa: N802
        self.values([node.left, *node.comparators], local)

    def _IfExp(self, node: ast.IfExp, local: _Scope) -> None:  # noqa: N802
        self.values([node.test, node.body, node.orelse], local)

    def _List(self, node: ast.List | ast.Tuple | ast.Set, local: _Scope) -> None:  # noqa: N802
        self.values(node.elts, local)

    _Tuple = _Set = _List

    def _Starred(self, node: ast.Starred, local: _Scope) -> None:  # noqa: N802
        self.value(node.value, local)

    def _Dict(self, node: ast.Dict, local: _Scope) -> None:  # noqa: N802
        self.values([*(key for key in node.keys if key is not None), *node.values], local)

    def _JoinedStr(self, node: ast.JoinedStr, local: _Scope) -> None:  # noqa: N802
        self.values(node.values, local)

    def _FormattedValue(self, node: ast.FormattedValue, local: _Scope) -> None:  # noqa: N802
        self.values([node.value, *([node.format_spec] if node.format_spec else [])], local)

    def _Lambda(self, node: ast.Lambda, local: _Scope) -> None:  # noqa: N802
        given = node.args
        self.values([*given.defaults, *(default for default in given.kw_defaults if default is not None)], local)
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        self.value(node.body, local | {self._bound(each.arg) for each in named if each is not None})

    def _ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp, local: _Scope) -> None:  # noqa: N802
        self.value(node.elt, self._comprehended(node.generators, local))

    _SetComp = _GeneratorExp = _ListComp

    def _DictComp(self, node: ast.DictComp, local: _Scope) -> None:  # noqa: N802
        self.values([node.key, node.value], self._comprehended(node.generators, local))

    def _comprehended(self, generators: list[ast.comprehension], local: _Scope) -> _Scope:
        """Visit the loops of a comprehension, and return the bound names.

        Later loops and all conditions may use the names of every loop, as if all names were bound from the start.
        """
        self.value(generators[0].iter, local)
        for generator in generators:
            local |= self._assigned(generator.target)
        for index, generator in enumerate(generators):
            if generator.is_async:
                self._refuse("is asynchronous")
            self.values([*([generator.iter] if index else []), *generator.ifs], local)
        return local

    def _assigned(self, target: ast.expr) -> _Scope:
        if isinstance(target, ast.Starred):
            return self._assigned(target.value)
        if isinstance(target, (ast.Tuple, ast.List)):
            return frozenset().union(*map(self._assigned, target.elts))
        if not isinstance(target, ast.Name):
            self._refuse("changes a value")
        return frozenset({self._bound(target.id)})

    def _bound(self, name: str) -> str:
        if name.startswith("__") and name != "__":
            self._refuse(f"binds the name {name}")
        return name


def _dotted(node: ast.expr, modules: Mapping[str, str]) -> str | None:
    """Return the full dotted name of a chain of attributes that begins with a module, or else None."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in modules:
        return None
    return ".".join([modules[node.id], *reversed(names)])


def _downloads(found: Any, call: ast.Call) -> bool:
    """Return whether a call may create a network that downloads weights."""
    named = {word.arg: _constant(word.value) for word in call.keywords if word.arg is not None}
    unpacked = len(named) < len(call.keywords) or any(isinstance(value, ast.Starred) for value in call.args)
    return unpacked or downloads(found, [_constant(value) for value in call.args], named)


def _constant(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else UNKNOWN


def _reference(node: ast.expr, local: _Scope) -> str | None:
    """Return the ID if a node is a reference to a value of the configuration, or else None."""
    if not isinstance(node, ast.Subscript) or _REFERENCES in local or not isinstance(node.slice, ast.Constant):
        return None
    return str(node.slice.value) if isinstance(node.value, ast.Name) and node.value.id == _REFERENCES else None


def _is_bound(node: ast.expr, local: _Scope) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in local
