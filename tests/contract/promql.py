"""What a PromQL expression reads: selectors with the function around them, and the labels it groups and joins by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser


@dataclass(frozen=True)
class Selection:
    """``function``: the function whose argument the selector is, "" where it stands alone."""

    name: str
    labels: frozenset[str]
    function: str
    is_range: bool
    elsewhen: bool
    """At another time than the query's, by ``offset`` or ``@``: one half of a difference."""


@dataclass
class Reading:
    selections: list[Selection] = field(default_factory=list)
    grouping: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    """Labels that label_replace writes."""


def read(expr: str) -> Reading:
    reading = Reading()
    _walk(promql_parser.parse(expr), "", reading)
    return reading


def _walk(node: Any, function: str, into: Reading) -> None:
    match node:
        case promql_parser.VectorSelector():
            _select(node, function, False, into)
        case promql_parser.MatrixSelector():
            _select(node.vector_selector, function, True, into)
        case promql_parser.Call():
            if node.func.name == "label_replace":
                into.made.add(node.args[1].val)
            for argument in node.args:
                _walk(argument, node.func.name, into)
        case promql_parser.AggregateExpr():
            into.grouping.update(node.modifier.labels if node.modifier else ())
            _walk(node.expr, "", into)
        case promql_parser.BinaryExpr():
            if node.modifier:
                into.grouping.update(node.modifier.matching.labels if node.modifier.matching else ())
                into.grouping.update(node.modifier.group_labels or ())
            _walk(node.lhs, "", into)
            _walk(node.rhs, "", into)
        case promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            _walk(node.expr, function, into)
        case promql_parser.SubqueryExpr():
            _walk(node.expr, "", into)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            pass
        case _:
            raise TypeError(f"no rule for {type(node).__name__}; add it to tests/contract/promql.py")


def _select(node: Any, function: str, is_range: bool, into: Reading) -> None:
    labels = frozenset(matcher.name for matcher in node.matchers.matchers if matcher.name != "__name__")
    into.selections.append(Selection(node.name or "", labels, function, is_range, node.offset is not None or node.at is not None))


def selections(exprs: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> Iterator[tuple[str, Selection]]:
    for place, expr in exprs:
        for selection in read(expr).selections:
            yield place, selection
