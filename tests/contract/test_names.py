"""Metric names are declared in joulebench.metrics and nowhere else in the package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from joulebench import metrics
from joulebench.metrics import Kind
from tests.contract.sources import PACKAGE

BASE_UNITS = ("_seconds", "_joules", "_watts", "_bytes", "_celsius", "_hertz", "_ratio", "_tokens", "_info")
PRICED = ("_per_joule", "_per_token", "_per_second")
"""Endings of prices, for one base unit; their currency is a label."""
COUNTED = (
    "_up",
    "_available",
    "_loaded",
    "_planned",
    "_expected",
    "_in_flight",
    "_processes",
    "_success",
    "_active",
    "_phase",
    "_dropped",
    "_entries",
    "_events",
)
"""Endings of gauges that count or answer yes and no."""


SUBSYSTEMS = sorted({name.removeprefix(metrics.PREFIX).partition("_")[0] for name in metrics.BY_NAME})


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """String constants that are no docstrings."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(tree) if isinstance(node, documented) and node.body]
    docstrings = {id(statement.value) for statement in first if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_no_metric_name_is_typed_outside_the_metrics_room() -> None:
    typed = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {node.value!r}"
        for path in modules()
        if path.parent.name != "metrics"
        for node in strings(ast.parse(path.read_text(encoding="utf-8")))
        if re.search(rf"\b{metrics.PREFIX}({'|'.join(SUBSYSTEMS)})_", str(node.value))
    ]
    assert not typed, "use the Metric objects of joulebench.metrics and their name:\n" + "\n".join(typed)


def test_names_end_in_a_base_unit_and_counters_in_total() -> None:
    for metric in metrics.METRICS:
        assert re.fullmatch(r"joulebench(_[a-z0-9]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
        if metric.kind is not Kind.COUNTER:
            assert metric.name.endswith((*BASE_UNITS, *PRICED, *COUNTED)), f"{metric.name}: no base unit at the end"


def test_metrics_are_declared_once_and_explained() -> None:
    names = [metric.name for metric in metrics.METRICS]
    assert len(names) == len(set(names))
    for metric in metrics.METRICS:
        assert metric.help.endswith(".") or metric.help.endswith(")"), metric.name
        assert not set(metric.labels) & reserved(metric), f"{metric.name}: a reserved label"


def reserved(metric: metrics.Metric) -> set[str]:
    """Run and task are the Pushgateway's to give; the proxy, which is scraped, names them itself."""
    own = {metrics.PROXY_TASK: {"run_id", "task_id"}, metrics.PROXY_RUN: {"run_id"}}
    own_labels = next((names for labels, names in own.items() if metric.labels[: len(labels)] == labels), set[str]())
    return {"job", "instance", "le", *metrics.GROUP_LABELS} - own_labels


def test_every_task_series_carries_the_model_and_the_suite() -> None:
    """So that boards filter and group by them without a join; the time of a push is of runs, too."""
    tasks = [metric for metric in metrics.METRICS if metric.name.startswith(f"{metrics.PREFIX}task_")]
    without = [metric.name for metric in tasks if metric.labels[:2] != metrics.TASK and metric is not metrics.TASK_SENT]
    assert len(tasks) > 20
    assert not without
