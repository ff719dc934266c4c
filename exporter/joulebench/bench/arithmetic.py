"""``calculate``: numbers, + - * / // % and parentheses, evaluated without ``eval`` and within bounds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

from joulebench.bench.workspace import ToolFailure

MAX_LENGTH = 200
MAX_MAGNITUDE = 1e15

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[float], float]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculate(expression: str) -> str:
    """The value as text; whole numbers without a decimal point. Raises ToolFailure."""
    if len(expression) > MAX_LENGTH:
        raise ToolFailure(f"an expression has at most {MAX_LENGTH} characters")
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolFailure(f"{expression!r} is not arithmetic; write numbers with + - * / // % and parentheses") from error
    except ZeroDivisionError as error:
        raise ToolFailure("division by zero") from error
    return str(int(value)) if value == int(value) else repr(round(value, 10))


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.UnaryOp(op, operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
    raise ValueError(ast.dump(node))


def _bounded(value: float) -> float:
    if abs(value) > MAX_MAGNITUDE:
        raise ToolFailure(f"numbers beyond {MAX_MAGNITUDE:g} are not calculated")
    return value
