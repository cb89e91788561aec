"""Estimates of the size of arithmetic results in expressions, from their constants."""

from __future__ import annotations

import ast

MAX_EXPONENT = 64
"""Largest exponent of a power, and largest distance of a shift, that an expression may have."""


def has_power(node: ast.expr) -> bool:
    """Return whether an expression contains a power or a left shift.

    Args:
        node: syntax tree of the expression.

    Example:
        >>> has_power(ast.parse("2 ** 3 + 1", mode="eval").body)
        True
    """
    return any(isinstance(part, ast.BinOp) and isinstance(part.op, (ast.Pow, ast.LShift)) for part in ast.walk(node))


def size(node: ast.expr) -> int:
    """Return an estimate of the size of an expression's result: an absolute value or a length.

    Integers count as their absolute value; lists, tuples, text and bytes as their length; and everything else as 1.
    Sums, products, powers and left shifts are computed from their operands, with exponents and shifts of at most 64.
    Any other operation counts as its left operand.

    Args:
        node: syntax tree of the expression.

    Example:
        >>> size(ast.parse("[0] * 1000 * n", mode="eval").body)
        1000
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, str, bytes)):
        return abs(node.value) if isinstance(node.value, int) else len(node.value)
    if isinstance(node, (ast.List, ast.Tuple)):
        return len(node.elts)
    if isinstance(node, ast.UnaryOp):
        return size(node.operand)
    if not isinstance(node, ast.BinOp):
        return 1
    left, right = size(node.left), size(node.right)
    if isinstance(node.op, ast.Pow):
        return int(left ** min(right, MAX_EXPONENT))
    if isinstance(node.op, ast.LShift):
        return left << min(right, MAX_EXPONENT)
    return left * right if isinstance(node.op, ast.Mult) else left + right if isinstance(node.op, ast.Add) else left


def has_sequence(node: ast.expr) -> bool:
    """Return whether an expression is a list, a tuple, text or bytes, or has one as an operand of its arithmetic.

    Args:
        node: syntax tree of the expression.

    Example:
        >>> has_sequence(ast.parse("[0] * 1000", mode="eval").body)
        True
    """
    if isinstance(node, ast.BinOp):
        return has_sequence(node.left) or has_sequence(node.right)
    text = isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))
    return text or isinstance(node, (ast.List, ast.Tuple))
